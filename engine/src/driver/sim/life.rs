//! How simulated connections come to be and end.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use super::{
    Net, NodeId,
    event::{Event, Parcel, Side, Why},
    kernel::arrival,
    raw::{RawConn, RawPeer, RawState, Service},
    wire::{Owner, Phase, Wire, WireId},
};
use crate::io::{CloseMode, ConnId, FLUSH_TIMEOUT};

/// What Linux's default of six retries of a connection request takes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(127);

impl Net {
    pub(super) fn open(&mut self, wire: Wire) -> WireId {
        let id = WireId(self.wires_made);
        self.wires_made += 1;
        if self.unreachable.contains(&wire.to) {
            self.agenda.push(self.now + CONNECT_TIMEOUT, Event::Unacknowledged(id));
        } else {
            self.agenda.push(self.now + wire.halves[0].link.latency, Event::Syn(id));
        }
        self.wires.insert(id, wire);
        id
    }

    pub(super) fn connect(&mut self, id: NodeId, conn: ConnId, to: SocketAddr) {
        let link = self.outbound.get(&id).copied().unwrap_or(self.default_link);
        if self.node(id).stopping {
            let why = Why::Error(ErrorKind::NotConnected);
            return self.agenda.push(self.now, Event::Closed(id, conn, why));
        }
        let node = self.node(id);
        let from = SocketAddr::new(id.ip(), node.next_port);
        node.next_port = node.next_port.checked_add(1).unwrap_or(40_000);
        let wire = self.open(Wire::new(Owner::Node(id, conn), [link, self.default_link], from, to));
        self.ends.insert((id, conn), (wire, 0));
    }

    pub(super) fn syn(&mut self, id: WireId) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let (from, to) = (wire.from, wire.to);
        if wire.halves[0].phase == Phase::Gone {
            self.wires.remove(&id);
            return;
        }
        let refused = self.refused.contains(&to);
        let owner = match self.services.get_mut(&to).filter(|_| !refused) {
            None => Owner::Nobody,
            Some(Service::Raw(waiting)) => {
                waiting.push_back(RawConn(id, 1));
                self.raws.insert((id, 1), RawPeer::new(RawState::Open));
                Owner::Raw
            }
            Some(Service::Node(node)) => {
                let conn = self.nodes[node.0 as usize].io.add_conn();
                self.ends.insert((*node, conn), (id, 1));
                self.agenda.push(self.now, Event::Accepted(*node, conn, from));
                Owner::Node(*node, conn)
            }
        };
        if let Owner::Node(node, _) = owner
            && let Some(link) = self.outbound.get(&node)
        {
            wire.halves[1].link = *link;
        }
        wire.halves[1].owner = owner;
        if owner == Owner::Nobody {
            wire.halves[1].phase = Phase::Gone;
            self.send(id, 1, Parcel::Reset);
        } else {
            wire.halves[1].phase = Phase::Open;
            let at = arrival(wire, 1, 0, self.now, &mut self.rng);
            self.agenda.push(at, Event::SynAck(id));
        }
    }

    pub(super) fn syn_ack(&mut self, id: WireId) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let half = &mut wire.halves[0];
        if half.phase != Phase::Connecting {
            return;
        }
        half.phase = Phase::Open;
        match half.owner {
            Owner::Node(node, conn) => self.verb(node, |machine, io| machine.connected(io, conn)),
            Owner::Raw | Owner::Nobody => {
                if let Some(peer) = self.raws.get_mut(&(id, 0)) {
                    peer.state = RawState::Open;
                }
            }
        }
        self.nudge(id);
    }

    pub(super) fn close(&mut self, node: NodeId, conn: ConnId, mode: CloseMode) {
        let Some(&(id, side)) = self.ends.get(&(node, conn)) else { return };
        let Some(wire) = self.wires.get_mut(&id) else { return };
        match (wire.halves[side].phase, mode) {
            (Phase::Gone, _) => {}
            (Phase::Open, CloseMode::Flush) => {
                wire.halves[side].phase = Phase::Flushing;
                self.agenda.push(self.now + FLUSH_TIMEOUT, Event::FlushEnd(id, side));
                self.wake_reader(id, side);
                self.pump(id, side);
            }
            _ => {
                self.send(id, side, Parcel::Reset);
                self.end(id, side, Why::ByUs);
            }
        }
    }

    pub(super) fn flush_end(&mut self, id: WireId, side: Side) {
        if self.wires.get(&id).is_some_and(|wire| wire.halves[side].phase == Phase::Flushing) {
            self.send(id, side, Parcel::Reset);
            self.end(id, side, Why::ByUs);
        }
    }

    /// Ends both sides with an error.
    pub(super) fn reset(&mut self, id: WireId, kind: ErrorKind) {
        self.end(id, 0, Why::Error(kind));
        self.end(id, 1, Why::Error(kind));
    }

    /// Ends one side: its owner is told, what it has not read is dropped.
    pub(super) fn end(&mut self, id: WireId, side: Side, why: Why) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let half = &mut wire.halves[side];
        if half.phase == Phase::Gone {
            return;
        }
        half.phase = Phase::Gone;
        let dropped: usize = half.inbox.drain(..).map(|slice| slice.len()).sum();
        match half.owner {
            Owner::Node(node, conn) => {
                self.agenda.push(self.now, Event::Closed(node, conn, why));
            }
            Owner::Raw => {
                if let Some(peer) = self.raws.get_mut(&(id, side)) {
                    peer.end(why);
                }
            }
            Owner::Nobody => {}
        }
        let other = &mut wire.halves[1 - side];
        other.unread_bytes -= dropped;
        if other.phase == Phase::Gone {
            self.wires.remove(&id);
        } else if dropped > 0 {
            self.agenda.push(self.now, Event::Pump(id, 1 - side));
        }
    }
}
