//! What both real drivers have around a machine: its clock, its mailbox, and the verbs that are
//! due.
//!
//! Verbs that an action causes (a connect that fails at once, a close) are not run inside the
//! action but in the next turn. So a machine that answers each failure with a new attempt cannot
//! hold its thread, and no verb runs while another does.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::{DriverStats, SocketOptions, mailbox::Inbox, sys};
use crate::io::{CloseMode, Closed, ConnId, FLUSH_TIMEOUT, Io, Machine};

/// Commands run in one turn at most, so that a storm of them does not starve the sockets. What comes while they run, from the
/// machine itself as well, waits for the next turn.
const COMMANDS_PER_TURN: usize = 1024;

/// How long a listener rests after descriptors ran out, unless a connection closes before.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Between two warnings that descriptors ran out: it may last, and each rest would be a line of the log.
const ACCEPT_WARNING_INTERVAL: Duration = Duration::from_secs(10);

enum Due {
    Closed(ConnId, Closed),
    Writable(ConnId),
}

pub(super) struct Host<M: Machine> {
    pub(super) machine: M,
    pub(super) io: Io,
    pub(super) inbox: Inbox<M::Command>,
    due: VecDeque<Due>,
    /// The memory of the list that was run last.
    spare_due: VecDeque<Due>,
    pub(super) sockets: SocketOptions,
    pub(super) stats: Arc<DriverStats>,
    /// Flushing connections, in the order of their deadlines. Those that are gone stay until then.
    flushing: VecDeque<(Instant, ConnId)>,
    stopping: bool,
    /// When the last warning about descriptors was given.
    accept_warned: Option<Instant>,
}

impl<M: Machine> Host<M> {
    pub(super) fn new(
        machine: M,
        inbox: Inbox<M::Command>,
        sockets: SocketOptions,
        stats: Arc<DriverStats>,
    ) -> Self {
        let io = Io::new(Box::new(sys::system_random), Instant::now(), sys::unix_nanos());
        Self {
            machine,
            io,
            inbox,
            due: VecDeque::new(),
            spare_due: VecDeque::new(),
            sockets,
            stats,
            flushing: VecDeque::new(),
            stopping: false,
            accept_warned: None,
        }
    }

    /// Reads the clocks; every verb until the next call sees this time.
    pub(super) fn tick(&mut self) {
        self.io.set_time(Instant::now(), sys::unix_nanos());
    }

    /// `closed` is due: the driver has freed all that belonged to `conn`.
    pub(super) fn end(&mut self, conn: ConnId, why: Closed) {
        self.due.push_back(Due::Closed(conn, why));
    }

    /// Bytes of `conn` were sent.
    pub(super) fn sent(&mut self, conn: ConnId) {
        if self.io.note_sent(conn) {
            self.due.push_back(Due::Writable(conn));
        }
    }

    /// Runs what is due: what becomes due meanwhile waits for the next turn.
    pub(super) fn run_due(&mut self) {
        let mut all = std::mem::replace(&mut self.due, std::mem::take(&mut self.spare_due));
        for due in all.drain(..) {
            match due {
                Due::Closed(conn, why) => {
                    self.io.remove_conn(conn);
                    self.machine.closed(&mut self.io, conn, why);
                }
                Due::Writable(conn) if self.io.is_open(conn) => {
                    self.machine.writable(&mut self.io, conn);
                }
                Due::Writable(_) => {}
            }
        }
        self.spare_due = all;
        for _ in 0..self.inbox.len().min(COMMANDS_PER_TURN) {
            let Some(command) = self.inbox.pop() else { break };
            self.machine.command(&mut self.io, command);
        }
        if self.io.wake_time().is_some_and(|at| at <= self.io.now()) {
            self.io.take_wake_at();
            self.machine.timeout(&mut self.io);
        }
        self.stats.conns.store(self.io.conn_count(), Relaxed);
    }

    /// Whether this is the turn in which the machine asked to stop; then every connection is asked
    /// to close.
    pub(super) fn begins_to_stop(&mut self) -> bool {
        if self.stopping || !self.io.is_stopped() {
            return false;
        }
        self.stopping = true;
        for conn in self.io.live_conns() {
            self.io.close(conn, CloseMode::Flush);
        }
        true
    }

    /// Whether the machine asked to stop: nothing new is accepted or connected.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether the driver may return: asked to stop, and every `closed` was delivered.
    pub(super) fn is_done(&self) -> bool {
        self.stopping && self.due.is_empty() && self.io.conn_count() == 0
    }

    /// Nothing can be accepted, and `turned_away` peers were told so: says it in the log, now and then, and until when to rest.
    pub(super) fn cannot_accept(&mut self, error: &io::Error, turned_away: usize) -> Instant {
        let now = self.io.now();
        let in_all = self.stats.turned_away.fetch_add(turned_away as u64, Relaxed);
        if self.accept_warned.is_none_or(|at| now >= at + ACCEPT_WARNING_INTERVAL) {
            self.accept_warned = Some(now);
            tracing::warn!(
                turned_away = in_all + turned_away as u64,
                "cannot accept: {error}; if descriptors ran out, raise the open-files limit (ulimit -n)"
            );
        }
        now + ACCEPT_REST
    }

    /// Starts the clock of a flush.
    pub(super) fn flush_begins(&mut self, conn: ConnId) {
        self.flushing.push_back((self.io.now() + FLUSH_TIMEOUT, conn));
    }

    /// The next connection whose flush has lasted long enough.
    pub(super) fn next_flush_end(&mut self) -> Option<ConnId> {
        let (_, conn) = self.flushing.pop_front_if(|(at, _)| *at <= self.io.now())?;
        Some(conn)
    }

    /// How long the driver may sleep; zero when something is due, and `None` when only the outside
    /// can wake it. Announces the sleep to the mailbox: [`Inbox::awake`] ends it.
    pub(super) fn sleep_time(&mut self, busy: bool, other: Option<Instant>) -> Option<Duration> {
        if busy || !self.due.is_empty() || !self.inbox.prepare_sleep() {
            return Some(Duration::ZERO);
        }
        let flush = self.flushing.front().map(|(at, _)| *at);
        let first = [flush, self.io.wake_time(), other].into_iter().flatten().min()?;
        Some(first.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{driver::Mailbox, pool::Slice};

    /// Answers each command with the same to itself.
    struct Echo {
        own: Mailbox<()>,
        heard: usize,
    }

    impl Machine for Echo {
        type Command = ();

        fn accepted(&mut self, _: &mut Io, _: ConnId, _: std::net::SocketAddr) {}
        fn connected(&mut self, _: &mut Io, _: ConnId) {}
        fn received(&mut self, _: &mut Io, _: ConnId, _: Slice) {}
        fn writable(&mut self, _: &mut Io, _: ConnId) {}
        fn closed(&mut self, _: &mut Io, _: ConnId, _: Closed) {}
        fn timeout(&mut self, _: &mut Io) {}

        fn command(&mut self, _: &mut Io, (): ()) {
            self.heard += 1;
            self.own.post_release(());
        }
    }

    #[test]
    fn what_a_command_posts_waits_for_the_next_turn() {
        let (mailbox, inbox) = Inbox::new(8).unwrap();
        let machine = Echo { own: mailbox.clone(), heard: 0 };
        let mut host = Host::new(machine, inbox, SocketOptions::default(), Arc::default());
        mailbox.post_release(());
        for turn in 1..=3 {
            host.run_due();
            assert_eq!(host.machine.heard, turn, "once a turn");
            assert_eq!(
                host.sleep_time(false, None),
                Some(Duration::ZERO),
                "and it is awake for it"
            );
        }
    }
}
