//! The two halves of a relayed stream, and what they say to each other.

use std::{sync::mpsc::SyncSender, time::Instant};

use crate::{
    identity::PublicKey,
    io::ConnId,
    mux::{MuxKind, StreamId, id_map::Hint},
    pool::Slice,
    session::ObjectReader,
    timers::Place,
    wire::SignedObject,
};

use super::{RefuseReason, census::ClientInfo, waiting::Pending};

/// One half of a stream, anywhere on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamRef {
    /// Core of the session.
    pub core: u16,
    /// Connection of the session.
    pub conn: ConnId,
    /// Stream in the session.
    pub id: StreamId,
}

/// A checked request on its way to the destination's core.
pub struct Delivery {
    /// The initiator's half.
    pub from: StreamRef,
    /// The destination's connection, as the table had it.
    pub conn: ConnId,
    /// The destination.
    pub destination: PublicKey,
    /// The request, unchanged.
    pub request: SignedObject,
}

/// What one half tells the other.
#[derive(Debug)]
pub enum StreamMsg {
    /// The request was written to the destination, on the half that speaks.
    Delivered,
    /// The destination accepted; its response, unchanged.
    Accepted(SignedObject),
    /// The dial failed.
    Refused(RefuseReason),
    /// Payload.
    Data(Slice),
    /// The receiver behind the half that speaks lets this many bytes more come.
    Credit(u32),
    /// The half that speaks will send no more data.
    Finish,
    /// The stream is over in both directions.
    Reset,
}

/// What other threads may tell a relay core.
pub enum Command {
    /// Open a stream to a session of this core.
    Deliver(Box<Delivery>),
    /// A message between halves.
    Stream {
        /// The half that shall hear it.
        to: StreamRef,
        /// The half that speaks.
        from: StreamRef,
        /// What it says.
        msg: StreamMsg,
    },
    /// The same key has a newer session.
    Evict(ConnId),
    /// The session's mux, as discovery tells; used only if we have to speak before the peer has (`wire.md §3.2`).
    MuxHint(ConnId, MuxKind),
    /// This core has sent something: read it.
    Mail(u16),
    /// A lane that this core waits for has room.
    LaneHasRoom,
    /// Tell which clients this core has.
    Census(SyncSender<Vec<ClientInfo>>),
    /// Tell that this core still does its work.
    Probe(SyncSender<()>),
    /// Close everything and end.
    Stop,
}

/// One half: the stream as one session sees it.
pub(super) struct Half {
    pub(super) stage: Stage,
    /// Last time data or credit moved here.
    pub(super) active: Instant,
    /// Credit of our client from before the stream was relayed; the peer half gets it then.
    pub(super) early_credit: u32,
    /// Our client opened it and has no ACK yet.
    pub(super) unacked: bool,
    /// Where the mux has the stream.
    pub(super) mux_hint: Hint,
    /// Where the deadline of its stage is.
    pub(super) timer: Place,
}

impl Half {
    pub(super) fn new(stage: Stage, now: Instant) -> Self {
        Self {
            stage,
            active: now,
            early_credit: 0,
            unacked: false,
            mux_hint: Hint::default(),
            timer: Place::NONE,
        }
    }

    /// Whether it relays what `from` sends.
    pub(super) fn hears(&self, from: StreamRef) -> bool {
        matches!(&self.stage, Stage::Relaying(relaying) if relaying.peer == from)
    }
}

/// Where a half is in its life; the docs of `relay` have the picture.
pub(super) enum Stage {
    /// Opened by the client; its request is being read.
    Request(Box<ObjectReader>),
    /// The request is with the destination's core.
    Dialing {
        /// The destination's half, once it exists.
        peer: Option<StreamRef>,
    },
    /// Opened by us to the destination; its answer is being read.
    Answer(Box<Answer>),
    /// Data flows.
    Relaying(Relaying),
    /// We finished; what still comes is dropped until the client finishes too.
    Closing,
}

pub(super) struct Answer {
    pub(super) reader: ObjectReader,
    /// `None` when the initiator has given up. The answer is awaited all the same: a deployed client whose
    /// stream is closed before it answered ends its whole session (`wire.md §4.7`).
    pub(super) initiator: Option<StreamRef>,
    pub(super) request_hash: [u8; 32],
}

/// A half in the flow of data.
pub(super) struct Relaying {
    pub(super) peer: StreamRef,
    /// Where the peer's session has the peer half, on this core.
    pub(super) peer_hint: Hint,
    /// Came from the peer half, does not fit this session's send queue or credit yet.
    pub(super) pending: Pending,
    /// The peer half will send no more: finish once `pending` is out.
    pub(super) peer_done: bool,
    /// Our client has finished its direction.
    pub(super) client_done: bool,
    /// Our FIN is out.
    pub(super) fin_sent: bool,
    /// Credit for our client that waits until its connection takes it.
    pub(super) owed: u32,
    /// This half stands in its session's list of those that may send.
    pub(super) queued: bool,
    /// What our client sent, less what the peer's client granted beyond its first window.
    pub(super) ahead_bytes: i64,
    /// Our client is too far ahead, and its session is paused for it: what the receiver has taken since it last earned time.
    pub(super) hold: Option<u32>,
}

impl Relaying {
    pub(super) fn new(peer: StreamRef) -> Self {
        Self {
            peer,
            peer_hint: Hint::default(),
            pending: Pending::default(),
            peer_done: false,
            client_done: false,
            fin_sent: false,
            owed: 0,
            queued: false,
            ahead_bytes: 0,
            hold: None,
        }
    }
}

/// Bytes that wait in a half.
pub(super) fn pending_len(half: &Half) -> usize {
    match &half.stage {
        Stage::Relaying(relaying) => relaying.pending.len(),
        _ => 0,
    }
}
