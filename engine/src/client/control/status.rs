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
            let reason = if up == 0 { evicted.or(last) } else { evicted };
            match (up, reason) {
                (_, Some(reason)) => ClientStatus::Degraded(reason),
                (0, None) => ClientStatus::Starting,
                (sessions, None) if note.tried => ClientStatus::Ready { sessions },
                (sessions, None) => ClientStatus::Connected { sessions },
            }
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
