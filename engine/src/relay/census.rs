//! Which clients a core carries, and how hard: for an operator, who asks seldom, so that it may cost a pass over the sessions.
//!
//! Also the round trip to each client: yamux peers are pinged for it once in a keep-alive interval, when nothing of theirs
//! waits to be sent, so that it is the line that is measured and not our queue.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Relay, session::Phase};
use crate::{
    identity::PublicKey,
    mux::{Mux, MuxKind},
    pool::SendQueue,
};

/// A client, as its session's core sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientInfo {
    /// Who it is.
    pub key: PublicKey,
    /// Where its connection comes from.
    pub address: SocketAddr,
    /// The core that has its session.
    pub core: u16,
    /// What it speaks; `None` until it is known.
    pub mux: Option<MuxKind>,
    /// Since when its session is up.
    pub age: Duration,
    /// Its streams, those that it dialled and those that it was dialled on.
    pub streams: usize,
    /// Payload that came from it and was handed on.
    pub received_bytes: u64,
    /// Payload of others that was sent to it.
    pub sent_bytes: u64,
    /// Payload of others that waits, since it or its line is slow.
    pub pending_bytes: usize,
    /// The last round trip that was measured; smux has none.
    pub rtt: Option<Duration>,
}

/// What is noted of a session for [`ClientInfo`].
pub(super) struct Account {
    since: Instant,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
    rtt: Option<Duration>,
    /// The ping that is out, and when the last one was sent.
    pinged: Option<(u32, Instant)>,
    is_answered: bool,
}

impl Account {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            received_bytes: 0,
            sent_bytes: 0,
            rtt: None,
            pinged: None,
            is_answered: true,
        }
    }

    /// Whether it is time to measure again.
    pub(super) fn wants_ping(&self, now: Instant, interval: Duration) -> bool {
        self.pinged.is_none_or(|(_, at)| now.saturating_duration_since(at) >= interval)
    }

    pub(super) fn ping(&mut self, mux: &mut Mux, now: Instant, queue: &mut SendQueue) {
        let value = self.pinged.map_or(0, |(value, _)| value.wrapping_add(1));
        self.pinged = Some((value, now));
        self.is_answered = false;
        mux.ping(value, queue);
    }

    /// An answer that nobody waits for, or to an older ping, says nothing.
    pub(super) fn pong(&mut self, value: u32, now: Instant) {
        if let Some((sent, at)) = self.pinged
            && sent == value
            && !std::mem::replace(&mut self.is_answered, true)
        {
            self.rtt = Some(now.saturating_duration_since(at));
        }
    }
}

impl Relay {
    /// Every client of this core.
    pub(super) fn census(&self, now: Instant) -> Vec<ClientInfo> {
        let mut clients = Vec::with_capacity(self.sessions_up);
        for session in self.sessions.iter().flatten() {
            let Phase::Up(up) = &session.phase else { continue };
            let account = &up.account;
            clients.push(ClientInfo {
                key: up.key,
                address: session.peer,
                core: self.core,
                mux: up.mux.as_ref().map(Mux::kind),
                age: now.saturating_duration_since(account.since),
                streams: up.streams.len(),
                received_bytes: account.received_bytes,
                sent_bytes: account.sent_bytes,
                pending_bytes: up.pending_bytes,
                rtt: account.rtt,
            });
        }
        clients
    }
}
