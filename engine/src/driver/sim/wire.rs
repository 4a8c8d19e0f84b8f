//! One simulated TCP connection.
//!
//! ```text
//!  send queue ──(room)──▶ on the way ──(latency)──▶ inbox ──(not paused, chunking)──▶ received
//!      ▲                  └──────── unread: at most capacity_bytes ──────┘                │
//!      └─────────────────────────────── room again ◀───────────────────────────────────────┘
//! ```

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use super::{NodeId, event::Why};
use crate::{io::ConnId, pool::Slice};

/// A simulated connection, as tests name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WireId(pub(super) u64);

/// How the bytes of one direction are cut before they are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunking {
    /// As they were sent.
    Whole,
    /// In pieces of 1 to this many bytes, by the seed.
    Random(usize),
    /// In pieces of this many bytes; 1 shows every boundary to a parser.
    Exactly(usize),
}

/// The properties of one direction of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// Time from sending to arrival.
    pub latency: Duration,
    /// Up to this much is added to `latency`, by the seed. Bytes never overtake each other.
    pub jitter: Duration,
    /// Bytes sent and not yet read at most: the socket buffers of both kernels.
    pub capacity_bytes: usize,
    /// Bytes per second; `None` is infinitely fast.
    pub rate: Option<u64>,
    /// How arriving bytes are cut.
    pub chunking: Chunking,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            latency: Duration::from_micros(100),
            jitter: Duration::ZERO,
            capacity_bytes: 256 * 1024,
            rate: None,
            chunking: Chunking::Whole,
        }
    }
}

/// Who holds one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Node(NodeId, ConnId),
    /// A scripted peer; its bytes are in [`super::raw::RawPeer`].
    Raw,
    /// The destination of a connection request that has not arrived.
    Nobody,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Open,
    /// Closed by its owner, with bytes left to send.
    Flushing,
    /// Its owner has been told, or will be by an event that is on the agenda.
    Gone,
}

/// One end: what it has received and what it may send.
#[derive(Debug)]
pub(super) struct Half {
    pub(super) owner: Owner,
    pub(super) phase: Phase,
    /// Arrived, not yet delivered.
    pub(super) inbox: VecDeque<Slice>,
    /// What follows the inbox.
    pub(super) inbox_end: Option<Why>,
    /// A `Deliver` is on the agenda.
    pub(super) delivering: bool,
    /// The direction away from this side.
    pub(super) link: Link,
    /// Bytes this side sent and the other has not read.
    pub(super) unread_bytes: usize,
    pub(super) last_arrival: Duration,
    pub(super) line_free_at: Duration,
}

impl Half {
    fn new(owner: Owner, link: Link) -> Self {
        Self {
            owner,
            phase: Phase::Connecting,
            inbox: VecDeque::new(),
            inbox_end: None,
            delivering: false,
            link,
            unread_bytes: 0,
            last_arrival: Duration::ZERO,
            line_free_at: Duration::ZERO,
        }
    }
}

#[derive(Debug)]
pub(super) struct Wire {
    pub(super) halves: [Half; 2],
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    /// Everything sent vanishes.
    pub(super) black_hole: bool,
    /// `Unacknowledged` is on the agenda.
    pub(super) doubted: bool,
}

impl Wire {
    pub(super) fn new(owner: Owner, links: [Link; 2], from: SocketAddr, to: SocketAddr) -> Self {
        let halves = [Half::new(owner, links[0]), Half::new(Owner::Nobody, links[1])];
        Self { halves, from, to, black_hole: false, doubted: false }
    }
}
