//! What a relay counts. Shared by all cores of a server; every counter is a relaxed atomic, written per event or
//! per batch, never per byte.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::mux::StreamId;

macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The metric label.
            #[must_use]
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

reasons! {
    /// Why a session (or a connection that did not become one) ended.
    SessionEnd {
        /// The peer closed the connection: how every client takes its leave.
        ClosedByPeer = "closed_by_peer",
        /// The connection broke.
        ConnectionLost = "connection_lost",
        /// The handshake did not decrypt, or named an invalid key.
        HandshakeFailed = "handshake_failed",
        /// The handshake took longer than allowed.
        HandshakeTimeout = "handshake_timeout",
        /// Too many handshakes at once, in all or from this address.
        HandshakeShed = "handshake_shed",
        /// Handshakes from this address come faster than allowed.
        HandshakeRate = "handshake_rate",
        /// Sessions are at their limit.
        TooManySessions = "too_many_sessions",
        /// Sessions from this address are at their limit.
        TooManyFromAddress = "too_many_from_address",
        /// The same key connected again; the newest session wins.
        Replaced = "replaced",
        /// A multiplexer rule was broken.
        MuxViolation = "mux_violation",
        /// No answer to pings.
        Silent = "silent",
        /// The peer opened and abandoned streams faster than its budget.
        ResetFlood = "reset_flood",
        /// The peer sent data frames without data beyond its budget.
        EmptyFrameFlood = "empty_frame_flood",
        /// The peer sent frames without payload out of all proportion to data.
        ControlFlood = "control_flood",
        /// The peer had more streams refused than its budget.
        RefusalFlood = "refusal_flood",
        /// The server stops.
        Shutdown = "shutdown",
    }
}

reasons! {
    /// Why a stream ended other than by its peers' will.
    RefuseReason {
        /// No complete request within the time limit.
        RequestTimeout = "request_timeout",
        /// The request's object does not decrypt, or is a replay.
        BadCiphertext = "bad_ciphertext",
        /// The request's object does not parse, or a field or the signature is wrong.
        BadRequest = "bad_request",
        /// The request names another key than the session's (302).
        ForeignSource = "foreign_source",
        /// The one who dials has used up its requests of this interval.
        TooManyRequests = "too_many_requests",
        /// The destination has no session here (307).
        NoSession = "no_session",
        /// The destination's session takes no more streams.
        DestinationFull = "destination_full",
        /// The destination closed the stream instead of answering.
        Declined = "declined",
        /// The destination did not answer in time.
        AnswerTimeout = "answer_timeout",
        /// The destination's answer does not verify.
        BadResponse = "bad_response",
        /// Data came before its time: before the answer, or behind a request that needs none.
        EarlyData = "early_data",
        /// Nothing moved for the idle limit.
        Idle = "idle",
        /// One direction had ended and the other did not within the linger limit.
        Linger = "linger",
        /// The receiver was slower than the budget allows.
        SlowReceiver = "slow_receiver",
        /// The other session ended.
        PeerSessionEnded = "peer_session_ended",
    }
}

impl RefuseReason {
    /// Whether the one who dialled is to blame, as far as a relay can tell.
    pub(super) fn is_initiators_doing(self) -> bool {
        matches!(
            self,
            Self::RequestTimeout
                | Self::BadCiphertext
                | Self::BadRequest
                | Self::ForeignSource
                | Self::TooManyRequests
                | Self::NoSession
                | Self::EarlyData
        )
    }
}

/// Counters and gauges of a server.
#[derive(Debug, Default)]
pub struct Stats {
    /// Sessions that are up now.
    pub sessions: AtomicU64,
    /// Sessions that came up since start.
    pub sessions_total: AtomicU64,
    /// Connections in the handshake now.
    pub handshakes: AtomicU64,
    /// Stream halves now; a relayed stream has two.
    pub stream_halves: AtomicU64,
    /// Of them, those that a client opened: streams, whether relayed or still being dialled.
    pub streams: AtomicU64,
    /// Streams accepted by their destination since start.
    pub streams_total: AtomicU64,
    /// Payload bytes handed on since start.
    pub relayed_bytes: AtomicU64,
    /// Bytes that wait for slow receivers now.
    pub pending_bytes: AtomicU64,
    /// Liveness pings answered since start.
    pub pings_answered: AtomicU64,
    /// IP look-ups answered since start.
    pub ip_lookups: AtomicU64,
    ended: [AtomicU64; SessionEnd::ALL.len()],
    refused: [AtomicU64; RefuseReason::ALL.len()],
}

impl Stats {
    /// A half begins. The streams that a client opened have odd numbers, ours even ones.
    pub(super) fn half_begins(&self, id: StreamId) {
        self.stream_halves.fetch_add(1, Relaxed);
        self.streams.fetch_add(u64::from(id.0 & 1), Relaxed);
    }

    /// A half is forgotten.
    pub(super) fn half_ends(&self, id: StreamId) {
        self.stream_halves.fetch_sub(1, Relaxed);
        self.streams.fetch_sub(u64::from(id.0 & 1), Relaxed);
    }

    pub(super) fn ended(&self, why: SessionEnd) {
        self.ended[why as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn refused(&self, why: RefuseReason) {
        self.refused[why as usize].fetch_add(1, Relaxed);
    }

    /// Sessions ended for this reason since start.
    #[must_use]
    pub fn ended_count(&self, why: SessionEnd) -> u64 {
        self.ended[why as usize].load(Relaxed)
    }

    /// Streams ended for this reason since start.
    #[must_use]
    pub fn refused_count(&self, why: RefuseReason) -> u64 {
        self.refused[why as usize].load(Relaxed)
    }
}
