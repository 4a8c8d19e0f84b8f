//! The status that handles can watch.

use std::sync::Arc;

use tokio::sync::watch;

use crate::client::{ClientStatus, machine::Shared};

/// What the tasks of the control thread tell about themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Note {
    /// A publication was tried, with any outcome.
    tried: bool,
    /// One was acknowledged.
    published: bool,
    list_trouble: Option<String>,
}

/// Shared by the tasks of one control thread.
#[derive(Debug, Clone, Default)]
pub(super) struct Notes(Arc<watch::Sender<Note>>);

impl Notes {
    pub(super) fn note_publication(&self, acknowledged: bool) {
        self.0.send_modify(|note| {
            note.tried = true;
            note.published |= acknowledged;
        });
    }

    pub(super) fn was_published(&self) -> bool {
        self.0.borrow().published
    }

    pub(super) fn set_list_trouble(&self, trouble: Option<String>) {
        self.0.send_modify(|note| note.list_trouble = trouble);
    }
}

/// Keeps the status current, for ever.
pub(super) async fn keep_current(
    shared: Arc<Shared>,
    notes: Notes,
    status: watch::Sender<ClientStatus>,
) {
    let board = &shared.board;
    let mut sessions = board.sessions.subscribe();
    let mut trouble = board.trouble.subscribe();
    let mut notes = notes.0.subscribe();
    loop {
        let now = {
            let (up, note) = (sessions.borrow_and_update().len(), notes.borrow_and_update());
            let trouble = trouble.borrow_and_update();
            let evicted = trouble.evicted.clone();
            let last = note.list_trouble.clone().or_else(|| trouble.last.clone());
            summed_up(up, evicted.or(last), note.tried)
        };
        status.send_if_modified(|old| {
            let changed = *old != now;
            *old = now;
            changed
        });
        let more = tokio::select! {
            changed = sessions.changed() => changed,
            changed = trouble.changed() => changed,
            changed = notes.changed() => changed,
        };
        if more.is_err() {
            return;
        }
    }
}

/// As long as a session is up, dials work, whatever became of the ones before it.
fn summed_up(sessions: usize, trouble: Option<String>, tried: bool) -> ClientStatus {
    match (sessions, trouble) {
        (0, Some(reason)) => ClientStatus::Degraded(reason),
        (0, None) => ClientStatus::Starting,
        _ if tried => ClientStatus::Ready { sessions },
        _ => ClientStatus::Connected { sessions },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_did_not_last_do_not_hide_one_that_is_up() {
        let evicted = || Some("server 02 keeps closing our sessions".to_owned());
        assert_eq!(summed_up(1, evicted(), true), ClientStatus::Ready { sessions: 1 });
        assert_eq!(summed_up(2, evicted(), false), ClientStatus::Connected { sessions: 2 });
        assert!(matches!(summed_up(0, evicted(), true), ClientStatus::Degraded(_)));
        assert_eq!(summed_up(0, None, false), ClientStatus::Starting);
    }
}
