//! What happens between the machines: the simulated kernels and cables.

use std::{io::ErrorKind, time::Duration};

use super::{
    Net, NodeId, WALL_START_NANOS,
    event::{Event, Parcel, Side, Why},
    node::{AnyMachine, Node},
    raw::{RawPeers, Service},
    wire::{Chunking, Owner, Phase, Wire, WireId},
};
use crate::{
    driver::USER_TIMEOUT,
    io::{Action, CloseMode, Io},
    pool::{SendQueue, Slice},
};

/// A send call moves at most this many bytes at once.
const PARCEL_BYTES_MAX: usize = 64 * 1024;

/// Verbs.
impl Net {
    /// Runs `f` on a node's machine and carries out what it asks for.
    pub(super) fn verb<R>(
        &mut self,
        id: NodeId,
        f: impl FnOnce(&mut dyn AnyMachine, &mut Io) -> R,
    ) -> R {
        let now = self.now();
        let nanos = i64::try_from(self.now.as_nanos()).unwrap_or(i64::MAX);
        let node = &mut self.nodes[id.0 as usize];
        let wall = WALL_START_NANOS.saturating_add(nanos).saturating_add(node.wall_skew);
        node.io.set_time(now, wall);
        let result = f(node.machine.as_mut(), &mut node.io);
        self.carry_out(id);
        result
    }

    fn carry_out(&mut self, id: NodeId) {
        while let Some(action) = self.node(id).io.next_action() {
            match action {
                Action::Connect(conn, to) => self.connect(id, conn, to),
                Action::Close(conn, mode) => self.close(id, conn, mode),
                Action::Pause(_) => {}
                Action::Resume(conn) => {
                    if let Some(&(wire, side)) = self.ends.get(&(id, conn)) {
                        self.wake_reader(wire, side);
                    }
                }
            }
        }
        while let Some(conn) = self.node(id).io.next_dirty() {
            if let Some(&(wire, side)) = self.ends.get(&(id, conn)) {
                self.pump(wire, side);
            }
        }
        if let Some(at) = self.node(id).io.wake_time() {
            let at = at.saturating_duration_since(self.base).max(self.now);
            let node = self.node(id);
            if node.timer_at.is_none_or(|earlier| at < earlier) {
                node.timer_at = Some(at);
                self.agenda.push(at, Event::Timer(id));
            }
        }
        let node = self.node(id);
        if node.io.is_stopped() && !node.stopping {
            node.stopping = true;
            for conn in node.io.live_conns() {
                node.io.close(conn, CloseMode::Flush);
            }
            self.services.retain(|_, service| !matches!(service, Service::Node(n) if *n == id));
            self.carry_out(id);
        }
    }

    pub(super) fn node(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    pub(super) fn handle(&mut self, event: Event) {
        let subject = match &event {
            Event::Accepted(node, ..)
            | Event::Writable(node, _)
            | Event::Closed(node, ..)
            | Event::Timer(node)
            | Event::Command(node, _) => Some(*node),
            Event::SynAck(wire) => self.owner_node(*wire, 0),
            _ => None,
        };
        if let Some(id) = subject
            && self.node(id).frozen
        {
            return self.node(id).held.push(event);
        }
        match event {
            Event::Syn(wire) => self.syn(wire),
            Event::SynAck(wire) => self.syn_ack(wire),
            Event::Arrive(wire, side, parcel) => self.arrive(wire, side, parcel),
            Event::Deliver(wire, side) => self.deliver(wire, side),
            Event::Pump(wire, side) => self.pump(wire, side),
            Event::FlushEnd(wire, side) => self.flush_end(wire, side),
            Event::Unacknowledged(wire) => self.reset(wire, ErrorKind::TimedOut),
            Event::Accepted(id, conn, peer) => {
                self.verb(id, |machine, io| machine.accepted(io, conn, peer));
            }
            Event::Writable(id, conn) => {
                if self.ends.contains_key(&(id, conn)) {
                    self.verb(id, |machine, io| machine.writable(io, conn));
                }
            }
            Event::Closed(id, conn, why) => {
                self.ends.remove(&(id, conn));
                self.node(id).io.remove_conn(conn);
                self.verb(id, |machine, io| machine.closed(io, conn, why.into()));
            }
            Event::Timer(id) => {
                let now = self.now();
                let node = self.node(id);
                node.timer_at = None;
                if node.io.wake_time().is_some_and(|at| at <= now) {
                    node.io.take_wake_at();
                    self.verb(id, |machine, io| machine.timeout(io));
                } else {
                    self.carry_out(id);
                }
            }
            Event::Command(id, command) => {
                if !self.node(id).stopping {
                    self.verb(id, |machine, io| machine.command(io, command));
                }
            }
        }
    }
}

/// Bytes.
impl Net {
    /// Moves bytes from the send queue of `side` onto the wire while there is room.
    pub(super) fn pump(&mut self, id: WireId, side: Side) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let owner = wire.halves[side].owner;
        if !matches!(wire.halves[side].phase, Phase::Open | Phase::Flushing) {
            return;
        }
        let Some(queue) = queue_of(&mut self.nodes, &mut self.raws, owner, (id, side)) else {
            return;
        };
        let mut moved = false;
        loop {
            let half = &mut wire.halves[side];
            let room = half.link.capacity_bytes.saturating_sub(half.unread_bytes);
            let len = room.min(queue.len()).min(PARCEL_BYTES_MAX);
            if len == 0 {
                break;
            }
            let bytes = take(queue, len);
            half.unread_bytes += len;
            moved = true;
            if !wire.black_hole {
                let at = arrival(wire, side, len, self.now, &mut self.rng);
                let parcel = Parcel::Data(Slice::from_vec(bytes));
                self.agenda.push(at, Event::Arrive(id, 1 - side, parcel));
            }
        }
        let done = queue.is_empty() && wire.halves[side].phase == Phase::Flushing;
        if moved && wire.black_hole && !std::mem::replace(&mut wire.doubted, true) {
            self.agenda.push(self.now + USER_TIMEOUT, Event::Unacknowledged(id));
        }
        if let Owner::Node(node, conn) = owner
            && self.node(node).io.note_sent(conn)
        {
            self.agenda.push(self.now, Event::Writable(node, conn));
        }
        if done {
            self.send(id, side, Parcel::Fin);
            self.end(id, side, Why::ByUs);
        }
    }

    /// Sends a parcel from `side`, behind everything sent before.
    pub(super) fn send(&mut self, id: WireId, side: Side, parcel: Parcel) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        if !wire.black_hole {
            let at = arrival(wire, side, 0, self.now, &mut self.rng);
            self.agenda.push(at, Event::Arrive(id, 1 - side, parcel));
        }
    }

    fn arrive(&mut self, id: WireId, side: Side, parcel: Parcel) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        if wire.black_hole {
            return;
        }
        let half = &mut wire.halves[side];
        match (parcel, half.phase) {
            (Parcel::Data(slice), Phase::Gone) => {
                wire.halves[1 - side].unread_bytes -= slice.len();
                self.agenda.push(self.now, Event::Pump(id, 1 - side));
            }
            (_, Phase::Gone) => {}
            (Parcel::Data(slice), _) => half.inbox.push_back(slice),
            (Parcel::Fin, _) => half.inbox_end = Some(Why::ByPeer),
            (Parcel::Reset, Phase::Connecting) => {
                self.end(id, side, Why::Error(ErrorKind::ConnectionRefused));
            }
            (Parcel::Reset, _) => self.end(id, side, Why::Error(ErrorKind::ConnectionReset)),
        }
        self.wake_reader(id, side);
    }

    /// Gives the owner of `side` one piece of what has arrived.
    fn deliver(&mut self, id: WireId, side: Side) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let chunking = wire.halves[1 - side].link.chunking;
        let half = &mut wire.halves[side];
        half.delivering = false;
        let (owner, closing) = (half.owner, half.phase == Phase::Flushing);
        if matches!(half.phase, Phase::Connecting | Phase::Gone) || self.is_deaf(id, side) {
            return;
        }
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let half = &mut wire.halves[side];
        let Some(front) = half.inbox.front_mut() else {
            // A flush goes on when the peer has closed its side; an open connection ends with it.
            if let (Some(why), false) = (half.inbox_end, closing) {
                self.end(id, side, why);
            }
            return;
        };
        let len = match chunking {
            Chunking::Whole => front.len(),
            Chunking::Random(max) => 1 + self.rng.below(max.max(1) as u64) as usize,
            Chunking::Exactly(len) => len.max(1),
        };
        let piece = front.split_to(len);
        if front.is_empty() {
            half.inbox.pop_front();
        }
        wire.halves[1 - side].unread_bytes -= piece.len();
        self.agenda.push(self.now, Event::Pump(id, 1 - side));
        match owner {
            Owner::Node(node, conn) if !closing => {
                self.verb(node, |machine, io| machine.received(io, conn, piece));
            }
            Owner::Raw => {
                if let Some(peer) = self.raws.get_mut(&(id, side)) {
                    peer.arrived.extend_from_slice(&piece);
                }
            }
            Owner::Node(..) | Owner::Nobody => {}
        }
        self.wake_reader(id, side);
    }

    /// Whether the owner of `side` reads nothing now.
    fn is_deaf(&self, id: WireId, side: Side) -> bool {
        match self.wires.get(&id).map(|wire| (wire.halves[side].owner, wire.halves[side].phase)) {
            Some((_, Phase::Flushing)) => false,
            Some((Owner::Node(node, conn), _)) => {
                let node = &self.nodes[node.0 as usize];
                node.frozen || node.io.is_paused(conn)
            }
            Some((Owner::Raw, _)) => self.raws.get(&(id, side)).is_none_or(|peer| !peer.reading),
            Some((Owner::Nobody, _)) | None => true,
        }
    }

    /// Puts a `Deliver` on the agenda when there is something to deliver and nobody refuses it.
    pub(super) fn wake_reader(&mut self, id: WireId, side: Side) {
        if self.is_deaf(id, side) {
            return;
        }
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let half = &mut wire.halves[side];
        let something = !half.inbox.is_empty() || half.inbox_end.is_some();
        if something && !half.delivering && half.phase != Phase::Gone {
            half.delivering = true;
            self.agenda.push(self.now, Event::Deliver(id, side));
        }
    }

    /// Looks at both directions again after something outside changed.
    pub(super) fn nudge(&mut self, id: WireId) {
        for side in 0..2 {
            self.wake_reader(id, side);
            self.agenda.push(self.now, Event::Pump(id, side));
        }
    }

    fn owner_node(&self, id: WireId, side: Side) -> Option<NodeId> {
        match self.wires.get(&id)?.halves[side].owner {
            Owner::Node(node, _) => Some(node),
            Owner::Raw | Owner::Nobody => None,
        }
    }
}

fn queue_of<'a>(
    nodes: &'a mut [Node],
    raws: &'a mut RawPeers,
    owner: Owner,
    key: (WireId, Side),
) -> Option<&'a mut SendQueue> {
    match owner {
        Owner::Node(node, conn) => nodes[node.0 as usize].io.driver_queue(conn),
        Owner::Raw => raws.get_mut(&key).map(|peer| &mut peer.outbox),
        Owner::Nobody => None,
    }
}

/// Copies the first `len` bytes out of `queue` and removes them.
fn take(queue: &mut SendQueue, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    for piece in queue.pieces() {
        let missing = len - bytes.len();
        bytes.extend_from_slice(&piece[..piece.len().min(missing)]);
        if bytes.len() == len {
            break;
        }
    }
    queue.advance(len);
    bytes
}

/// When `len` bytes that `side` sends now arrive: never before what it sent earlier.
pub(super) fn arrival(
    wire: &mut Wire,
    side: Side,
    len: usize,
    now: Duration,
    rng: &mut super::Rng,
) -> Duration {
    let half = &mut wire.halves[side];
    let line = match half.link.rate {
        Some(rate) => Duration::from_nanos(len as u64 * 1_000_000_000 / rate.max(1)),
        None => Duration::ZERO,
    };
    half.line_free_at = half.line_free_at.max(now) + line;
    let jitter = u64::try_from(half.link.jitter.as_nanos()).unwrap_or(u64::MAX);
    let jitter = Duration::from_nanos(rng.below(jitter));
    half.last_arrival = half.last_arrival.max(half.line_free_at + half.link.latency + jitter);
    half.last_arrival
}
