//! What is going to happen in the simulated network, in the order of time and, within one instant,
//! of asking.

use std::{any::Any, collections::BTreeMap, io, time::Duration};

use super::{NodeId, wire::WireId};
use crate::{
    io::{Closed, ConnId},
    pool::Slice,
};

/// One end of a wire: 0 connected, 1 was connected to.
pub(super) type Side = usize;

/// What travels along one direction of a wire.
#[derive(Debug)]
pub(super) enum Parcel {
    Data(Slice),
    Fin,
    Reset,
}

#[derive(Debug)]
pub(super) enum Event {
    /// A connection request reaches its destination.
    Syn(WireId),
    /// The answer reaches the one who asked.
    SynAck(WireId),
    /// The node learns of a new connection.
    Accepted(NodeId, ConnId, std::net::SocketAddr),
    /// A parcel reaches this side.
    Arrive(WireId, Side, Parcel),
    /// This side may read.
    Deliver(WireId, Side),
    /// This side may have room to send.
    Pump(WireId, Side),
    Writable(NodeId, ConnId),
    Closed(NodeId, ConnId, Why),
    /// A flush has lasted long enough.
    FlushEnd(WireId, Side),
    /// The kernel gives up on a peer that acknowledges nothing.
    Unacknowledged(WireId),
    Timer(NodeId),
    Command(NodeId, Box<dyn Any>),
}

/// [`Closed`], but cheap to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    ByPeer,
    ByUs,
    Error(io::ErrorKind),
}

impl From<Why> for Closed {
    fn from(why: Why) -> Self {
        match why {
            Why::ByPeer => Self::ByPeer,
            Why::ByUs => Self::ByUs,
            Why::Error(kind) => Self::Error(kind.into()),
        }
    }
}

/// The future, ordered.
#[derive(Default)]
pub(super) struct Agenda {
    events: BTreeMap<(Duration, u64), Event>,
    asked: u64,
    /// Events that are not timers: the network is idle at zero.
    busy: usize,
}

impl Agenda {
    pub(super) fn push(&mut self, at: Duration, event: Event) {
        self.busy += usize::from(!is_timer(&event));
        self.events.insert((at, self.asked), event);
        self.asked += 1;
    }

    pub(super) fn next_at(&self) -> Option<Duration> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    pub(super) fn pop(&mut self) -> Option<(Duration, Event)> {
        let ((at, _), event) = self.events.pop_first()?;
        self.busy -= usize::from(!is_timer(&event));
        Some((at, event))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.busy == 0
    }
}

/// Timers recur for ever in a healthy machine, so they do not keep the network busy.
fn is_timer(event: &Event) -> bool {
    matches!(event, Event::Timer(_) | Event::FlushEnd(..) | Event::Unacknowledged(_))
}
