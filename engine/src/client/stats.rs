//! What a client counts, and what it shows of its sessions.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::error::{DialError, SessionEnd};
use crate::identity::PublicKey;

/// A session as `Client::sessions` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// The server.
    pub server: PublicKey,
    /// Its TCP address.
    pub address: SocketAddr,
    /// Open streams.
    pub streams: usize,
    /// Last measured round trip.
    pub rtt: Option<Duration>,
}

/// How a client fares; see `Client::status`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientStatus {
    /// No session was up yet, and nothing has gone wrong so far.
    Starting,
    /// At least one session is up, so that we can dial; publishing was not tried yet, so that others may not find us.
    Connected {
        /// How many sessions.
        sessions: usize,
    },
    /// At least one session is up, and publishing was tried.
    Ready {
        /// How many sessions.
        sessions: usize,
    },
    /// No session is up; the text says why.
    Degraded(String),
    /// The client is closed.
    Closed,
}

/// A snapshot of what a client counts; see `Client::stats`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientStats {
    /// Sessions that are up.
    pub sessions: usize,
    /// Streams in use: dialled and accepted, handshakes included.
    pub streams: usize,
    /// The most that were in use at once.
    pub streams_peak: usize,
    /// Dials that wait for a place.
    pub streams_waiting: usize,
    /// Abandoned streams whose place was given to somebody else.
    pub streams_reclaimed: u64,
    /// Ports in use, by listeners and dialled streams.
    pub ports_used: usize,
    /// Dials that gave a stream.
    pub dials_ok: u64,
    /// Dials that failed, by cause.
    pub dials_failed: BTreeMap<&'static str, u64>,
    /// Streams that were accepted.
    pub accepted: u64,
    /// Peers whose next handshake is cheaper, since they were met.
    pub peers_known: usize,
    /// Of [`dials_ok`](Self::dials_ok), those by a ticket instead of a handshake.
    pub dials_resumed: u64,
    /// Dials by a ticket that the peer did not know any more, so that they took a handshake after all.
    pub dials_unknown: u64,
    /// Of [`accepted`](Self::accepted), those by a ticket.
    pub accepted_resumed: u64,
    /// Peers for whom a ticket was kept at the last keep-alive, as dialler or as dialled.
    pub tickets: usize,
    /// Inbound streams that were turned away, by cause.
    pub inbound_refused: BTreeMap<&'static str, u64>,
    /// Sessions that ended or never came up, by cause.
    pub sessions_ended: BTreeMap<&'static str, u64>,
    /// How often a server closed three young sessions within a minute: most likely another client
    /// has our key.
    pub evictions_suspected: u64,
    /// Stream ciphertext sent.
    pub sent_bytes: u64,
    /// Stream ciphertext received.
    pub received_bytes: u64,
}

/// Counts by cause. The causes are names in the code, so there are only so many.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<BTreeMap<&'static str, u64>>);

impl Tally {
    pub(crate) fn count(&self, cause: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(cause).or_default() += 1;
    }

    fn snapshot(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the machine keeps current about one session.
#[derive(Debug)]
pub(crate) struct SessionGauge {
    pub(crate) server: PublicKey,
    pub(crate) address: SocketAddr,
    pub(crate) streams: AtomicUsize,
    /// Microseconds; `u64::MAX` when not measured.
    rtt_us: AtomicU64,
}

impl SessionGauge {
    pub(crate) fn new(server: PublicKey, address: SocketAddr) -> Arc<Self> {
        let rtt_us = AtomicU64::new(u64::MAX);
        Arc::new(Self { server, address, streams: AtomicUsize::new(0), rtt_us })
    }

    pub(crate) fn set_rtt(&self, rtt: Duration) {
        let micros = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX - 1);
        self.rtt_us.store(micros, Ordering::Relaxed);
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        Some(self.rtt_us.load(Ordering::Relaxed))
            .filter(|&us| us != u64::MAX)
            .map(Duration::from_micros)
    }

    fn info(&self) -> SessionInfo {
        SessionInfo {
            server: self.server,
            address: self.address,
            streams: self.streams.load(Ordering::Relaxed),
            rtt: self.rtt(),
        }
    }
}

/// What stands in the way of a good status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// Why the last session ended or did not come up.
    pub(crate) last: Option<String>,
    /// Sessions do not last; cleared when one has.
    pub(crate) evicted: Option<String>,
}

/// Where the machine writes what others read: counters, sessions, the last failure.
#[derive(Debug)]
pub struct Board {
    pub(crate) sessions: watch::Sender<Vec<Arc<SessionGauge>>>,
    pub(crate) trouble: watch::Sender<Trouble>,
    /// The machine is gone.
    pub(crate) stopped: watch::Sender<bool>,
    pub(crate) dials_ok: AtomicU64,
    pub(crate) dials_failed: Tally,
    pub(crate) accepted: AtomicU64,
    pub(crate) peers_known: AtomicUsize,
    pub(crate) dials_resumed: AtomicU64,
    pub(crate) dials_unknown: AtomicU64,
    pub(crate) accepted_resumed: AtomicU64,
    pub(crate) tickets: AtomicUsize,
    pub(crate) inbound_refused: Tally,
    pub(crate) sessions_ended: Tally,
    pub(crate) evictions_suspected: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            sessions: watch::Sender::new(Vec::new()),
            trouble: watch::Sender::default(),
            stopped: watch::Sender::new(false),
            dials_ok: AtomicU64::default(),
            dials_failed: Tally::default(),
            accepted: AtomicU64::default(),
            peers_known: AtomicUsize::default(),
            dials_resumed: AtomicU64::default(),
            dials_unknown: AtomicU64::default(),
            accepted_resumed: AtomicU64::default(),
            tickets: AtomicUsize::default(),
            inbound_refused: Tally::default(),
            sessions_ended: Tally::default(),
            evictions_suspected: AtomicU64::default(),
            sent_bytes: AtomicU64::default(),
            received_bytes: AtomicU64::default(),
        }
    }
}

impl Board {
    /// The sessions that are up.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.sessions.borrow().iter().map(|gauge| gauge.info()).collect()
    }

    /// The counters this board knows; the caller adds streams and ports.
    #[must_use]
    pub fn snapshot(&self) -> ClientStats {
        ClientStats {
            sessions: self.sessions.borrow().len(),
            dials_ok: self.dials_ok.load(Ordering::Relaxed),
            dials_failed: self.dials_failed.snapshot(),
            accepted: self.accepted.load(Ordering::Relaxed),
            peers_known: self.peers_known.load(Ordering::Relaxed),
            dials_resumed: self.dials_resumed.load(Ordering::Relaxed),
            dials_unknown: self.dials_unknown.load(Ordering::Relaxed),
            accepted_resumed: self.accepted_resumed.load(Ordering::Relaxed),
            tickets: self.tickets.load(Ordering::Relaxed),
            inbound_refused: self.inbound_refused.snapshot(),
            sessions_ended: self.sessions_ended.snapshot(),
            evictions_suspected: self.evictions_suspected.load(Ordering::Relaxed),
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
            ..ClientStats::default()
        }
    }

    pub(crate) fn note_dial<T>(&self, outcome: &Result<T, DialError>) {
        match outcome {
            Ok(_) => {
                self.dials_ok.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => self.note_failed_dial(error),
        }
    }

    pub(crate) fn note_failed_dial(&self, error: &DialError) {
        self.dials_failed.count(error.label());
    }

    pub(crate) fn note_session_end(&self, server: PublicKey, why: &SessionEnd) {
        self.sessions_ended.count(why.label());
        if !matches!(why, SessionEnd::ClientClosed | SessionEnd::Idle) {
            let text = format!("server {}: {why}", server.short());
            self.trouble.send_modify(|trouble| trouble.last = Some(text));
        }
    }

    pub(crate) fn note_eviction(&self, server: PublicKey) {
        self.evictions_suspected.fetch_add(1, Ordering::Relaxed);
        self.trouble.send_modify(|trouble| {
            trouble.evicted = Some(format!(
                "server {} keeps closing our sessions: another client may be using the same key",
                server.short()
            ));
        });
    }

    pub(crate) fn note_settled(&self) {
        self.trouble.send_if_modified(|trouble| trouble.evicted.take().is_some());
    }
}
