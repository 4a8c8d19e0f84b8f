//! Why something failed, with its scope in the type.
//!
//! ```text
//!   SessionEnd   a connection to one server is gone, and every stream on it
//!   TryCause     one try of a dial, through one server
//!   DialError    a whole dial
//! ```
//!
//! A failed stream is never a [`SessionEnd`].

use std::{fmt, io, time::Duration};

use crate::{
    identity::PublicKey,
    mux::MuxError,
    noise::NoiseError,
    pool::{NoFreePort, StreamsExhausted},
    session::{HandshakeError, ObjectFrameError},
    wire::{Addr, ObjectError, Port},
};

/// Why a client did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The driver could not start.
    #[error("the engine did not start: {0}")]
    Driver(#[from] io::Error),
    /// Servers keep one session per key, so two clients with one key would evict each other for
    /// ever.
    #[error(
        "a client with the key {0} already runs in this process: share it, or wait for its close()"
    )]
    KeyInUse(PublicKey),
}

/// Why a session is over, or never came up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionEnd {
    /// The host name of the server gave no address.
    #[error("its host name has no address")]
    NoAddress,
    /// TCP did not connect in time.
    #[error("no TCP connection within {} s", .0.as_secs())]
    ConnectTimedOut(Duration),
    /// TCP did not connect.
    #[error("no TCP connection: {0}")]
    ConnectFailed(String),
    /// The handshake did not end in time.
    #[error("no session handshake within {} s", .0.as_secs())]
    HandshakeTimedOut(Duration),
    /// The handshake failed.
    #[error("{0}")]
    Handshake(#[from] HandshakeError),
    /// The server closed the connection during the handshake: it is not the server its key says, or
    /// it is full.
    #[error("the server closed the connection during the handshake")]
    ClosedInHandshake,
    /// The server closed the connection right after the handshake, before any mux byte (`wire.md
    /// §2.4`).
    #[error("the server closed the session as soon as it was up")]
    ClosedAtOnce,
    /// The server closed the connection.
    #[error("the server closed the session")]
    ClosedByServer,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// Nothing was heard from the server although it should have answered.
    #[error("the server did not answer for {} s", .0.as_secs())]
    Silent(Duration),
    /// The server broke a rule of the mux.
    #[error("the server broke the mux protocol: {0}")]
    Mux(#[from] MuxError),
    /// More sessions than needed, and this one carried nothing.
    #[error("closed as idle")]
    Idle,
    /// This client is closed.
    #[error("the client is closed")]
    ClientClosed,
}

impl SessionEnd {
    /// Whether nobody answered at the server's address.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::ConnectTimedOut(_) | Self::ConnectFailed(_))
    }

    /// A short name for counters.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoAddress => "no_address",
            Self::ConnectTimedOut(_) => "connect_timed_out",
            Self::ConnectFailed(_) => "connect_failed",
            Self::HandshakeTimedOut(_) => "handshake_timed_out",
            Self::Handshake(_) => "handshake_failed",
            Self::ClosedInHandshake => "closed_in_handshake",
            Self::ClosedAtOnce => "closed_at_once",
            Self::ClosedByServer => "closed_by_server",
            Self::Broken(_) => "broken",
            Self::Silent(_) => "silent",
            Self::Mux(_) => "mux_protocol",
            Self::Idle => "idle",
            Self::ClientClosed => "client_closed",
        }
    }
}

/// What a dial was waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DialPhase {
    /// For the directory to name the peer's servers.
    Resolve,
    /// For a session with a server.
    Session,
    /// For its turn behind other dials through the same session.
    Turn,
    /// For the peer's response, through a server.
    Response,
    /// For the end of the pause after the peer's last failures.
    Patience,
}

impl fmt::Display for DialPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "the peer's discovery entry",
            Self::Session => "a session with the server",
            Self::Turn => {
                "its turn behind other unanswered dials; the peer, or others there, may be dead"
            }
            Self::Response => "the peer's response",
            Self::Patience => "the end of the pause after the last failures",
        })
    }
}

/// Why one try, through one server, failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TryCause {
    /// No session could be had, or it ended during the try.
    #[error("{0}")]
    Session(SessionEnd),
    /// The server takes no more streams on this session.
    #[error("the server takes no more streams of ours")]
    StreamsExhausted,
    /// The stream was closed without a response: the server does not know the peer, or nobody
    /// listens on the port.
    #[error("refused: the server has no session of the peer, or nobody listens on the port")]
    Refused,
    /// A response that says no, or that fails a check (`wire.md §4.5`).
    #[error("bad response: {0}")]
    Response(#[from] ObjectError),
    /// The handshake message of the response does not process.
    #[error("bad response: {0}")]
    Noise(#[from] NoiseError),
    /// The response does not decrypt, or is too long.
    #[error("bad response: {0}")]
    Object(#[from] ObjectFrameError),
    /// The response lacks what was asked for, or more came than a response.
    #[error("malformed response")]
    Malformed,
    /// This try took too long.
    #[error("timed out after {after:?} waiting for {phase}")]
    TimedOut {
        /// What it waited for.
        phase: DialPhase,
        /// How long.
        after: Duration,
    },
}

impl TryCause {
    /// The wire code (`wire.md §4.9`), where one exists.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Session(_) => Some(202),
            Self::Response(error) => Some(error.code()).filter(|&code| code != 0),
            _ => None,
        }
    }
}

/// The tries of a dial, in order.
pub type Tries = Vec<(PublicKey, TryCause)>;

/// Why a dial failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// Error 100.
    #[error("no discovery entry for {0}: the peer is offline, or its key is mistyped")]
    NotFound(PublicKey),
    /// The directory did not answer.
    #[error("cannot look up {peer}: {reason}")]
    Directory {
        /// Whom we looked for.
        peer: PublicKey,
        /// What the directory said.
        reason: String,
    },
    /// Error 103: the peer's entry names no servers; it is offline or just starting.
    #[error("{0} has no session with any server at the moment (its entry names none)")]
    NoDelegatedServers(PublicKey),
    /// Every ephemeral port is in use.
    #[error(transparent)]
    NoFreePort(#[from] NoFreePort),
    /// As many streams are open as may be, none of them is abandoned, and no place came free in
    /// time.
    #[error("{0}: close some, or raise the limit")]
    StreamsExhausted(StreamsExhausted),
    /// The engine has more work waiting than it takes.
    #[error("the engine is overloaded: too many commands wait; dial again later")]
    Overloaded,
    /// The peer, or a server in its place, said no.
    #[error("{peer} refused the stream after {elapsed:.1?}: {}", Via(tries))]
    Refused {
        /// Whom we dialled.
        peer: Addr,
        /// Time since the dial began.
        elapsed: Duration,
        /// Every try.
        tries: Tries,
    },
    /// The time of the whole dial is over.
    #[error(
        "dial of {} timed out after {elapsed:.1?} waiting for {phase}{}{}",
        Whom(peer),
        Through(server),
        Before(tries)
    )]
    TimedOut {
        /// Whom we dialled; `None` when a server was asked for our address.
        peer: Option<PublicKey>,
        /// What it waited for.
        phase: DialPhase,
        /// Through which server.
        server: Option<PublicKey>,
        /// Time since the dial began.
        elapsed: Duration,
        /// The tries before.
        tries: Tries,
    },
    /// Error 202: none of the servers got us there.
    #[error("cannot reach {peer} ({elapsed:.1?}): {}", Via(tries))]
    Unreachable {
        /// Whom we dialled (for an IP lookup: the server).
        peer: PublicKey,
        /// Time since the dial began.
        elapsed: Duration,
        /// Every try.
        tries: Tries,
    },
    /// The client is closed (error 200).
    #[error("the client is closed")]
    Closed,
}

impl DialError {
    /// The wire code (`wire.md §4.9`), where one exists.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::NotFound(_) => Some(100),
            Self::NoDelegatedServers(_) => Some(103),
            Self::Closed => Some(200),
            Self::Unreachable { .. } => Some(202),
            Self::Refused { tries, .. } => tries.iter().rev().find_map(|(_, cause)| cause.code()),
            _ => None,
        }
    }

    /// A short name for counters.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not_found",
            Self::Directory { .. } => "directory",
            Self::NoDelegatedServers(_) => "no_delegated_servers",
            Self::NoFreePort(_) => "no_free_port",
            Self::StreamsExhausted(_) => "streams_exhausted",
            Self::Overloaded => "overloaded",
            Self::Refused { .. } => "refused",
            Self::TimedOut { .. } => "timed_out",
            Self::Unreachable { .. } => "unreachable",
            Self::Closed => "closed",
        }
    }
}

struct Whom<'a>(&'a Option<PublicKey>);

impl fmt::Display for Whom<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(peer) => peer.fmt(f),
            None => f.write_str("a server, for our address,"),
        }
    }
}

struct Through<'a>(&'a Option<PublicKey>);

impl fmt::Display for Through<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |server| write!(f, " (server {})", server.short()))
    }
}

struct Via<'a>(&'a Tries);

impl fmt::Display for Via<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no server to try");
        }
        for (index, (server, cause)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "; " };
            write!(f, "{comma}via {}: {cause}", server.short())?;
        }
        Ok(())
    }
}

struct Before<'a>(&'a Tries);

impl fmt::Display for Before<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " (before: {})", Via(self.0)) }
    }
}

/// Why a port cannot be listened on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Error 400.
    #[error("port {0} is taken by another listener or stream of this client")]
    PortTaken(Port),
    /// The client is closed.
    #[error("the client is closed")]
    Closed,
}

/// Why a stream ended other than by the peer's clean end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamEnd {
    /// The peer or a server reset the stream.
    #[error("the stream was reset by the peer or the server")]
    Reset,
    /// The session below is gone.
    #[error("the session with server {server} ended: {why}")]
    Session {
        /// Short form of the server's key.
        server: String,
        /// Why.
        why: SessionEnd,
    },
    /// More unread data than a stream without a window may hold.
    #[error("the stream was reset: {0} bytes wait unread, and this mux cannot slow the peer down")]
    Overrun(usize),
    /// Nothing was received for the configured idle limit.
    #[error("the stream was reset: nothing received for {} s", .0.as_secs())]
    Idle(Duration),
    /// The client needed the stream's place, and this one's data lay unread for longest.
    #[error(
        "the stream was reclaimed: the client ran out of streams, and this one's data had not been \
         read for {0:?}; read streams to their end or drop them"
    )]
    Reclaimed(Duration),
    /// This side closed it.
    #[error("the stream is closed")]
    Closed,
}

impl From<StreamEnd> for io::Error {
    fn from(end: StreamEnd) -> Self {
        let kind = match end {
            StreamEnd::Reset | StreamEnd::Overrun(_) => io::ErrorKind::ConnectionReset,
            StreamEnd::Session { why: SessionEnd::ClientClosed, .. } => {
                io::ErrorKind::ConnectionAborted
            }
            StreamEnd::Reclaimed(_) => io::ErrorKind::ConnectionAborted,
            StreamEnd::Session { .. } => io::ErrorKind::ConnectionReset,
            StreamEnd::Idle(_) => io::ErrorKind::TimedOut,
            StreamEnd::Closed => io::ErrorKind::BrokenPipe,
        };
        Self::new(kind, end)
    }
}
