//! Stream multiplexing: yamux and smux (v1, v2) as one sans-IO vocabulary (`wire.md §3.3`, `§3.4`).
//!
//! ```text
//!   received slices ──▶ next_event ──▶ Opened · Acked · Data · Credit · Finished · Reset · …
//!                           │ (pongs, refusals)
//!                           ▼
//!   open · accept · send · grant · finish · reset · ping ──▶ SendQueue ──▶ the connection
//! ```
//!
//! A [`Mux`] is the protocol state of one connection and nothing more: it checks every frame
//! against the state of its stream, accounts windows, answers pings, and cuts data into frames. It
//! holds **no payload**: data goes to the caller as slices of the receive block, as it arrives, and
//! what the caller sends goes straight into the connection's send queue. Credit is explicit in both
//! directions, so a relay can pass on its peers' credit and a client can grant what its application
//! has read.
//!
//! What it leaves to its caller:
//! - time: keep-alives, how long a half-closed stream may linger, how often a peer may reset
//!   ([`MuxCounters`] are plain sums; the caller polices their growth);
//! - back-pressure: a frame from the peer draws at most one frame of the same size in answer, so a
//!   caller that stops reading while its send queue is full bounds the queue too;
//! - the receive bound where the wire has no window ([`Mux::has_windows`]).
//!
//! Invariants: nothing is allocated for a frame, only for a stream; no state exists for a stream
//! before its first frame is checked; a stream whose two directions have ended is gone at once.

/// Hands a call to whichever protocol this is.
macro_rules! each {
    ($mux:expr, $it:ident => $call:expr) => {
        match $mux {
            Mux(Protocol::Yamux($it)) => $call,
            Mux(Protocol::Smux($it)) => $call,
        }
    };
}

mod frame;
pub(crate) mod id_map;
pub(crate) mod plain;
mod smux;
mod table;
mod yamux;

#[cfg(test)]
mod tests;

use crate::pool::{SendQueue, Slice};
use smux::Smux;
use yamux::Yamux;

/// Bytes that may be under way on a new stream, in each direction, before any credit is given:
/// the same in yamux and in smux version 2 (`wire.md §3.3`, `§3.4`).
pub const INITIAL_WINDOW_BYTES: u32 = 256 * 1024;

/// The most credit that a peer may give on one stream; 1 GiB, far above the 16 MiB that tuned yamux
/// libraries use, and far enough below 2³² that no sum of two windows overflows.
pub const CREDIT_MAX_BYTES: u32 = 1 << 30;

/// Streams that the peer opened and that wait for [`Mux::accept`]; one more is refused with a
/// reset. 256 is what deployed yamux peers allow (`wire.md §3.3`).
pub const ACCEPT_BACKLOG: usize = 256;

/// Payload of one smux frame that we send; what Go peers use as `MaxFrameSize` (`wire.md §3.4`).
pub const SMUX_FRAME_MAX_BYTES: usize = 32 * 1024;

/// A stream of one session; the wire's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u32);

/// Which end of the connection we are; decides id parity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We dialled TCP.
    Client,
    /// We accepted it.
    Server,
}

/// Which multiplexer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MuxKind {
    /// hashicorp/yamux, the default everywhere.
    Yamux,
    /// xtaci/smux version 1: no per-stream window.
    SmuxV1,
    /// xtaci/smux version 2.
    SmuxV2,
}

impl MuxKind {
    /// What the first byte of a peer's first frame tells (`wire.md §3.2`).
    #[must_use]
    pub fn sniff(first_byte: u8) -> Option<Self> {
        match first_byte {
            0 => Some(Self::Yamux),
            1 => Some(Self::SmuxV1),
            2 => Some(Self::SmuxV2),
            _ => None,
        }
    }
}

/// What a peer's frames mean to the layer above.
///
/// One frame can mean several things; they come in this order: `Opened` or `Acked`, `Credit`,
/// `Data` (as often as the frame was cut on its way), `Finished`.
#[derive(Debug)]
pub enum Event {
    /// The peer opened a stream; call [`Mux::accept`] (or [`Mux::reset`]) soon, well below [`ACCEPT_BACKLOG`] more.
    Opened(StreamId),
    /// The peer acknowledged a stream that we opened (yamux only).
    Acked(StreamId),
    /// Payload, possibly a part of a frame, never empty. It counts against the window until
    /// [`Mux::grant`].
    Data(StreamId, Slice),
    /// The peer lets us send this many bytes more on the stream than it ever allowed before:
    /// [`INITIAL_WINDOW_BYTES`] plus all these is what it allows in all.
    ///
    /// Zero (smux version 2 only) means that [`Mux::send_credit`] has grown, but not beyond what
    /// was allowed before: a peer whose first update shrinks its window takes credit back for a
    /// while. A caller grants the number to the source of the data, and sends what it holds back.
    Credit(StreamId, u32),
    /// The peer will send nothing more on the stream.
    Finished(StreamId),
    /// The stream is gone at once, in both directions.
    Reset(StreamId),
    /// The peer answered our ping with this value (yamux only).
    Pong(u32),
    /// The peer opens and accepts no new streams (yamux code 0).
    GoAway,
}

/// A rule of the mux that the peer broke; ends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MuxError {
    /// The first byte of a header is not the version of this mux.
    #[error(
        "mux frame with unknown version {0}: the peer speaks another multiplexer, or is out of step"
    )]
    Version(u8),
    /// The second byte of a header is no type (yamux) or command (smux) of this version.
    #[error("mux frame of unknown type {0}: the peer speaks another version, or is out of step")]
    Type(u8),
    /// A smux frame whose length its command does not allow.
    #[error("smux command {command} with {length} bytes of payload, which it cannot have")]
    Length {
        /// The command of the frame.
        command: u8,
        /// The length it gave.
        length: u16,
    },
    /// A stream opened with id 0 or with an id of our own parity.
    #[error("peer opened stream {0}, an id that is not its to give: both sides take the same role")]
    StreamId(u32),
    /// A stream opened under an id in use (yamux; smux ignores it).
    #[error("peer opened stream {0} a second time while it is in use")]
    DuplicateSyn(u32),
    /// A second end of one direction (yamux; smux ignores it).
    #[error("peer finished stream {0} twice")]
    SecondFin(u32),
    /// A data frame longer than what was left of the stream's window (yamux).
    #[error("peer sent {length} bytes on stream {id} with {window} left of its window")]
    WindowExceeded {
        /// The stream.
        id: u32,
        /// Length of the data frame.
        length: u32,
        /// What was left of the receive window.
        window: u32,
    },
    /// Credit beyond [`CREDIT_MAX_BYTES`] (yamux).
    #[error("peer gave {delta} bytes of credit on stream {id}, more than a window may hold")]
    CreditOverflow {
        /// The stream.
        id: u32,
        /// The credit that was too much.
        delta: u32,
    },
    /// The peer ended the session: 1 is a protocol error of ours, 2 an internal error of the peer.
    #[error("peer ended the session with go-away code {0}")]
    GoAway(u32),
}

impl MuxError {
    /// A short constant name, for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Version(_) => "version",
            Self::Type(_) => "type",
            Self::Length { .. } => "length",
            Self::StreamId(_) => "stream_id",
            Self::DuplicateSyn(_) => "duplicate_syn",
            Self::SecondFin(_) => "second_fin",
            Self::WindowExceeded { .. } => "window_exceeded",
            Self::CreditOverflow { .. } => "credit_overflow",
            Self::GoAway(_) => "go_away",
        }
    }
}

/// Limits of one mux.
#[derive(Debug, Clone, Copy)]
pub struct MuxConfig {
    /// Streams open at once, both directions together. A SYN beyond it is refused with a reset.
    pub streams_max: usize,
}

impl Default for MuxConfig {
    fn default() -> Self {
        Self { streams_max: 2048 }
    }
}

/// What a peer has sent since the connection began, and what it cost; for metrics and for a caller
/// that ends sessions whose peer does nothing but open, reset, or send emptiness.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MuxCounters {
    /// Frames received, of any kind.
    pub frames: u64,
    /// Data frames whose payload goes to the caller.
    pub data_frames: u64,
    /// Data frames without a byte and without a flag.
    pub empty_data_frames: u64,
    /// Pings (yamux) and keep-alives (smux) received.
    pub pings_received: u64,
    /// Streams the peer opened and that were not refused.
    pub opens_received: u64,
    /// Resets received, also for streams that were gone (yamux only).
    pub resets_received: u64,
    /// Streams that we refused or reset; for smux, which has no reset, those ended abruptly.
    pub resets_sent: u64,
    /// Payload that was read and dropped: for streams unknown, refused, reset, or finished.
    pub dropped_bytes: u64,
}

/// The protocol state of one multiplexed connection.
#[derive(Debug)]
pub struct Mux(Protocol);

#[derive(Debug)]
enum Protocol {
    Yamux(Yamux),
    Smux(Smux),
}

impl Mux {
    /// A mux at the start of its connection.
    #[must_use]
    pub fn new(kind: MuxKind, role: Role, config: MuxConfig) -> Self {
        Self(match kind {
            MuxKind::Yamux => Protocol::Yamux(Yamux::new(role, config)),
            MuxKind::SmuxV1 => Protocol::Smux(Smux::new(smux::Version::V1, role, config)),
            MuxKind::SmuxV2 => Protocol::Smux(Smux::new(smux::Version::V2, role, config)),
        })
    }

    /// Which multiplexer this is.
    #[must_use]
    pub fn kind(&self) -> MuxKind {
        match &self.0 {
            Protocol::Yamux(_) => MuxKind::Yamux,
            Protocol::Smux(smux) => smux.kind(),
        }
    }

    /// Whether streams have windows. Without (smux version 1) a peer may send any amount: the
    /// caller must bound what it holds for each stream, and stop reading or reset.
    #[must_use]
    pub fn has_windows(&self) -> bool {
        self.kind() != MuxKind::SmuxV1
    }

    /// Takes the next event out of `input`, consuming the bytes it is made of; `None` when `input`
    /// is used up (an incomplete header is kept inside). Answers to pings and refusals go to
    /// `queue`. Call until `None`: an event may need no byte of `input`.
    ///
    /// # Errors
    /// The rule that the peer broke. The mux is dead then and repeats the error; the error's
    /// go-away, if it has one, is in `queue`, and [`Mux::stream_ids`] still tells whose streams die
    /// with it.
    pub fn next_event(
        &mut self,
        input: &mut Slice,
        queue: &mut SendQueue,
    ) -> Result<Option<Event>, MuxError> {
        each!(self, mux => mux.next_event(input, queue))
    }

    /// Opens a stream; `None` when ids or `streams_max` are used up, or after a go-away.
    ///
    /// A yamux peer resets what exceeds its accept backlog ([`ACCEPT_BACKLOG`] or more): a caller
    /// that opens many at once compares [`Mux::unacked_count`].
    pub fn open(&mut self, queue: &mut SendQueue) -> Option<StreamId> {
        each!(self, mux => mux.open(queue))
    }

    /// Acknowledges a stream that the peer opened. A second call does nothing.
    pub fn accept(&mut self, id: StreamId, queue: &mut SendQueue) {
        each!(self, mux => mux.accept(id, queue));
    }

    /// Bytes we may send on the stream now (`u32::MAX` where the mux has no window); 0 for a stream
    /// that is gone or that we finished.
    #[must_use]
    pub fn send_credit(&self, id: StreamId) -> u32 {
        each!(self, mux => mux.send_credit(id))
    }

    /// Sends payload; the caller keeps to [`Mux::send_credit`]. What is beyond it is a bug of the
    /// caller and is dropped with a debug assertion.
    pub fn send(&mut self, id: StreamId, payload: Slice, queue: &mut SendQueue) {
        each!(self, mux => mux.send(id, payload, queue));
    }

    /// The same for bytes that must be copied anyway.
    pub fn send_bytes(&mut self, id: StreamId, payload: &[u8], queue: &mut SendQueue) {
        each!(self, mux => mux.send(id, payload, queue));
    }

    /// Lets the peer send `bytes` more (they were taken by the application, or the far side granted
    /// them). May be accumulated and sent later when `eager` is false (an end point; sent from half
    /// a window on), is sent at once when true (a relay). Nothing for a stream that is gone or that
    /// the peer finished, nor where the mux has no window.
    pub fn grant(&mut self, id: StreamId, bytes: u32, eager: bool, queue: &mut SendQueue) {
        each!(self, mux => mux.grant(id, bytes, eager, queue));
    }

    /// Ends our direction (FIN). A second call does nothing.
    pub fn finish(&mut self, id: StreamId, queue: &mut SendQueue) {
        each!(self, mux => mux.finish(id, queue));
    }

    /// Ends the stream at once in both directions. smux has no reset: FIN, and what still comes is
    /// dropped.
    pub fn reset(&mut self, id: StreamId, queue: &mut SendQueue) {
        each!(self, mux => mux.reset(id, queue));
    }

    /// Sends a keep-alive: a ping (yamux; `Pong` follows) or a NOP (smux; nothing follows).
    pub fn ping(&mut self, value: u32, queue: &mut SendQueue) {
        each!(self, mux => mux.ping(value, queue));
    }

    /// Accepts no new streams from now on and says so where the wire can (yamux: go-away code 0).
    /// What the peer opens still is refused; streams that are open go on.
    pub fn go_away(&mut self, queue: &mut SendQueue) {
        each!(self, mux => mux.go_away(queue));
    }

    /// Streams that are open.
    #[must_use]
    pub fn stream_count(&self) -> usize {
        each!(self, mux => mux.streams.len())
    }

    /// Ids of all open streams, ascending.
    #[must_use]
    pub fn stream_ids(&self) -> Vec<StreamId> {
        each!(self, mux => mux.streams.ids())
    }

    /// Streams that we opened and that the peer has not acknowledged (yamux only).
    #[must_use]
    pub fn unacked_count(&self) -> usize {
        each!(self, mux => mux.streams.unacked_count())
    }

    /// What the peer has sent so far.
    #[must_use]
    pub fn counters(&self) -> MuxCounters {
        each!(self, mux => mux.counters)
    }
}
