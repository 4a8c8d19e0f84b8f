//! Scripted peers: ends of a connection that a test writes and reads by hand.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{Ipv4Addr, SocketAddr},
};

use super::{
    Net, NodeId,
    event::{Event, Parcel, Why},
    wire::{Owner, Phase, Wire, WireId},
};
use crate::pool::SendQueue;

/// A scripted peer's end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawConn(pub(super) WireId, pub(super) usize);

impl RawConn {
    /// The connection, for faults.
    #[must_use]
    pub fn wire(&self) -> WireId {
        self.0
    }
}

/// A scripted server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawListener(pub(super) SocketAddr);

/// How a scripted peer's connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawState {
    /// The request is under way.
    Connecting,
    /// Bytes flow.
    Open,
    /// The other side closed, and everything it sent has arrived.
    ClosedByPeer,
    /// The test closed it.
    ClosedByUs,
    /// Refused, reset or timed out.
    Failed(std::io::ErrorKind),
}

#[derive(Debug)]
pub(super) struct RawPeer {
    pub(super) arrived: Vec<u8>,
    pub(super) outbox: SendQueue,
    pub(super) reading: bool,
    pub(super) state: RawState,
}

impl RawPeer {
    pub(super) fn new(state: RawState) -> Self {
        Self { arrived: Vec::new(), outbox: SendQueue::default(), reading: true, state }
    }

    pub(super) fn end(&mut self, why: Why) {
        self.state = match why {
            Why::ByPeer => RawState::ClosedByPeer,
            Why::ByUs => RawState::ClosedByUs,
            Why::Error(kind) => RawState::Failed(kind),
        };
    }
}

/// Raw peers of one wire: usually one, two when a test connects to its own listener.
pub(super) type RawPeers = BTreeMap<(WireId, usize), RawPeer>;

/// Who answers at an address.
#[derive(Debug)]
pub(super) enum Service {
    Node(NodeId),
    Raw(VecDeque<RawConn>),
}

/// Scripted peers.
impl Net {
    /// Connects to `to` as a scripted peer.
    pub fn raw_connect(&mut self, to: SocketAddr) -> RawConn {
        self.raw_ports = self.raw_ports.wrapping_add(1);
        let from = SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).into(), self.raw_ports);
        let wire = self.open(Wire::new(Owner::Raw, [self.default_link; 2], from, to));
        self.raws.insert((wire, 0), RawPeer::new(RawState::Connecting));
        RawConn(wire, 0)
    }

    /// A scripted server at a fresh address.
    pub fn raw_listen(&mut self) -> (SocketAddr, RawListener) {
        self.raw_ports = self.raw_ports.wrapping_add(1);
        let address = SocketAddr::new(Ipv4Addr::new(192, 0, 2, 2).into(), self.raw_ports);
        (address, self.raw_listen_at(address))
    }

    /// A scripted server at an address of the test's choice; a former listener there is replaced.
    pub fn raw_listen_at(&mut self, address: SocketAddr) -> RawListener {
        self.services.insert(address, Service::Raw(VecDeque::new()));
        RawListener(address)
    }

    /// The next connection to a scripted server, if one has come.
    pub fn raw_accept(&mut self, listener: &RawListener) -> Option<RawConn> {
        match self.services.get_mut(&listener.0) {
            Some(Service::Raw(waiting)) => waiting.pop_front(),
            _ => None,
        }
    }

    /// Sends `bytes`, as fast as the link and the reader allow.
    pub fn raw_write(&mut self, conn: &RawConn, bytes: &[u8]) {
        if let Some(peer) = self.raws.get_mut(&(conn.0, conn.1)) {
            peer.outbox.push_bytes(bytes);
            self.agenda.push(self.now, Event::Pump(conn.0, conn.1));
        }
    }

    /// Bytes written that have not left.
    #[must_use]
    pub fn raw_unsent_bytes(&self, conn: &RawConn) -> usize {
        self.raws.get(&(conn.0, conn.1)).map_or(0, |peer| peer.outbox.len())
    }

    /// Takes what has arrived.
    pub fn raw_read(&mut self, conn: &RawConn) -> Vec<u8> {
        self.raws
            .get_mut(&(conn.0, conn.1))
            .map(|peer| std::mem::take(&mut peer.arrived))
            .unwrap_or_default()
    }

    /// How the connection stands.
    #[must_use]
    pub fn raw_state(&self, conn: &RawConn) -> RawState {
        self.raws.get(&(conn.0, conn.1)).map_or(RawState::ClosedByUs, |peer| peer.state)
    }

    /// Reads nothing from now on, so that the sender meets back-pressure; or reads again.
    pub fn raw_set_reading(&mut self, conn: &RawConn, reading: bool) {
        if let Some(peer) = self.raws.get_mut(&(conn.0, conn.1)) {
            peer.reading = reading;
            self.nudge(conn.0);
        }
    }

    /// Stops reading: the sender meets back-pressure.
    pub fn raw_stop_reading(&mut self, conn: &RawConn) {
        self.raw_set_reading(conn, false);
    }

    /// Closes after everything written has left.
    pub fn raw_close(&mut self, conn: &RawConn) {
        if let Some(wire) = self.wires.get_mut(&conn.0)
            && wire.halves[conn.1].phase != Phase::Gone
        {
            if wire.halves[conn.1].phase == Phase::Connecting {
                return self.end(conn.0, conn.1, Why::ByUs);
            }
            wire.halves[conn.1].phase = Phase::Flushing;
            self.agenda.push(self.now, Event::Pump(conn.0, conn.1));
            self.nudge(conn.0);
        }
    }

    /// Closes with a reset.
    pub fn raw_reset(&mut self, conn: &RawConn) {
        self.send(conn.0, conn.1, Parcel::Reset);
        self.end(conn.0, conn.1, Why::ByUs);
    }
}
