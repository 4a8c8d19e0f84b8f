//! Stream multiplexing: yamux and smux (v1, v2) as one sans-IO vocabulary (`wire.md §3.3`, `§3.4`).
//!
//! A [`Mux`] is the protocol state of one connection and nothing more: it checks every frame against the state
//! of its stream, accounts windows, answers pings, and cuts data into frames. It holds **no payload**: data goes
//! to the caller as slices of the receive block, as it arrives, and what the caller sends goes straight into the
//! connection's send queue. Credit is explicit in both directions, so a relay can pass on its peers' credit and a
//! client can grant what its application has read.

use crate::pool::{SendQueue, Slice};

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
#[derive(Debug)]
pub enum Event {
    /// The peer opened a stream; call [`Mux::accept`] (or [`Mux::reset`]) at once.
    Opened(StreamId),
    /// The peer acknowledged a stream that we opened (yamux only).
    Acked(StreamId),
    /// Payload, possibly a part of a frame. It counts against the window until [`Mux::grant`].
    Data(StreamId, Slice),
    /// The peer lets us send this many bytes more on the stream than before.
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

/// A rule of the mux that the peer broke; ends the session. STUB: helper gives one variant per rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MuxError {
    /// STUB
    #[error("unknown version {0}")]
    Version(u8),
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

/// The protocol state of one multiplexed connection.
pub struct Mux {}

impl Mux {
    /// A mux at the start of its connection.
    #[must_use]
    pub fn new(_kind: MuxKind, _role: Role, _config: MuxConfig) -> Self {
        todo!()
    }
    /// Which multiplexer this is.
    #[must_use]
    pub fn kind(&self) -> MuxKind {
        todo!()
    }
    /// Takes the next event out of `input`, consuming the bytes it is made of; `None` when `input` is used up
    /// (an incomplete header is kept inside). Answers to pings and refusals go to `queue`. After an error the mux is
    /// dead; the error's go-away, if it has one, is in `queue`.
    pub fn next_event(
        &mut self,
        _input: &mut Slice,
        _queue: &mut SendQueue,
    ) -> Result<Option<Event>, MuxError> {
        todo!()
    }
    /// Opens a stream; `None` when ids or `streams_max` are used up, or after a go-away.
    pub fn open(&mut self, _queue: &mut SendQueue) -> Option<StreamId> {
        todo!()
    }
    /// Acknowledges a stream that the peer opened.
    pub fn accept(&mut self, _id: StreamId, _queue: &mut SendQueue) {
        todo!()
    }
    /// Bytes we may send on the stream now (`u32::MAX` where the mux has no window); 0 for a stream that is gone or that we finished.
    #[must_use]
    pub fn send_credit(&self, _id: StreamId) -> u32 {
        todo!()
    }
    /// Sends payload; the caller keeps to [`Mux::send_credit`]. What is beyond it is a bug of the caller and is dropped with a debug assertion.
    pub fn send(&mut self, _id: StreamId, _payload: Slice, _queue: &mut SendQueue) {
        todo!()
    }
    /// The same for bytes that must be copied anyway.
    pub fn send_bytes(&mut self, _id: StreamId, _payload: &[u8], _queue: &mut SendQueue) {
        todo!()
    }
    /// Lets the peer send `bytes` more (they were taken by the application, or the far side granted them). May be
    /// accumulated and sent later when `eager` is false (an end point), is sent at once when true (a relay).
    pub fn grant(&mut self, _id: StreamId, _bytes: u32, _eager: bool, _queue: &mut SendQueue) {
        todo!()
    }
    /// Ends our direction (FIN). A second call does nothing.
    pub fn finish(&mut self, _id: StreamId, _queue: &mut SendQueue) {
        todo!()
    }
    /// Ends the stream at once in both directions. smux has no reset: FIN, and what still comes is dropped.
    pub fn reset(&mut self, _id: StreamId, _queue: &mut SendQueue) {
        todo!()
    }
    /// Sends a keep-alive: a ping (yamux; `Pong` follows) or a NOP (smux; nothing follows).
    pub fn ping(&mut self, _value: u32, _queue: &mut SendQueue) {
        todo!()
    }
    /// Streams that are open.
    #[must_use]
    pub fn stream_count(&self) -> usize {
        todo!()
    }
    /// Ids of all open streams.
    #[must_use]
    pub fn stream_ids(&self) -> Vec<StreamId> {
        todo!()
    }
}
