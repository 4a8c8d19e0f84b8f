//! A network in simulated time: machines, connections and faults in one thread, replayed by a seed.
//!
//! ```
//! # use dmsg_engine::{driver::sim::Net, io::{Closed, ConnId, Io, Machine}, pool::Slice};
//! # use std::{net::SocketAddr, time::Duration};
//! # struct Echo;
//! # impl Machine for Echo {
//! #     type Command = ();
//! #     fn accepted(&mut self, _: &mut Io, _: ConnId, _: SocketAddr) {}
//! #     fn connected(&mut self, _: &mut Io, _: ConnId) {}
//! #     fn received(&mut self, io: &mut Io, conn: ConnId, data: Slice) {
//! #         io.queue(conn).unwrap().push_slice(data);
//! #     }
//! #     fn writable(&mut self, _: &mut Io, _: ConnId) {}
//! #     fn closed(&mut self, _: &mut Io, _: ConnId, _: Closed) {}
//! #     fn command(&mut self, _: &mut Io, _: ()) {}
//! #     fn timeout(&mut self, _: &mut Io) {}
//! # }
//! let mut net = Net::new(7);
//! let server = net.add(Echo);
//! let address = net.listen(server);
//! let peer = net.raw_connect(address);
//! net.raw_write(&peer, b"hello");
//! net.run_for(Duration::from_secs(1));
//! assert_eq!(net.raw_read(&peer), b"hello");
//! ```
//!
//! Nodes are machines ([`Net::add`]) or scripted peers ([`Net::raw_connect`], [`Net::raw_listen`]).
//! Nothing happens until a test lets time pass ([`Net::step`], [`Net::run_for`], [`Net::run_idle`],
//! [`Net::run_while`]); then events come in the order of virtual time, and within one instant in
//! the order they were caused. Faults are calls: [`Net::kill`], [`Net::black_hole`],
//! [`Net::refuse`], [`Net::freeze`], [`Net::crash`], [`Net::jump_wall_clock`]. A panic prints the
//! seed. What is left out of TCP: keep-alive probes, half-close, loss and retransmission (a delay
//! is all an application sees of those).

mod event;
mod kernel;
mod life;
mod node;
mod raw;
mod rng;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    time::{Duration, Instant},
};

use self::{
    event::{Agenda, Event, Side},
    node::Node,
    raw::{RawPeers, Service},
    wire::Wire,
};
pub use self::{
    node::NodeId,
    raw::{RawConn, RawListener, RawState},
    rng::Rng,
    wire::{Chunking, Link, WireId},
};
use crate::io::{ConnId, Io, Machine};

/// Wall-clock time at the start of every simulation: 2025-01-01T00:00:00Z, in Unix nanoseconds.
pub const WALL_START_NANOS: i64 = 1_735_689_600_000_000_000;

/// Events within one instant at most: beyond it two machines provoke each other without end.
const EVENTS_PER_INSTANT_MAX: u64 = 20_000_000;

/// A simulated network.
pub struct Net {
    seed: u64,
    rng: Rng,
    base: Instant,
    now: Duration,
    events_this_instant: u64,
    agenda: Agenda,
    nodes: Vec<Node>,
    outbound: BTreeMap<NodeId, Link>,
    default_link: Link,
    wires: BTreeMap<WireId, Wire>,
    wires_made: u64,
    ends: HashMap<(NodeId, ConnId), (WireId, Side)>,
    raws: RawPeers,
    raw_ports: u16,
    services: BTreeMap<SocketAddr, Service>,
    refused: BTreeSet<SocketAddr>,
    unreachable: BTreeSet<SocketAddr>,
}

/// Building, time.
impl Net {
    /// An empty network. Everything random in it, its machines' randomness included, follows from
    /// `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            rng: Rng::new(seed),
            base: Instant::now(),
            now: Duration::ZERO,
            events_this_instant: 0,
            agenda: Agenda::default(),
            nodes: Vec::new(),
            outbound: BTreeMap::new(),
            default_link: Link::default(),
            wires: BTreeMap::new(),
            wires_made: 0,
            ends: HashMap::new(),
            raws: BTreeMap::new(),
            raw_ports: 0,
            services: BTreeMap::new(),
            refused: BTreeSet::new(),
            unreachable: BTreeSet::new(),
        }
    }

    /// Adds a node that runs `machine`. Its first verb is whatever happens to it; use [`Net::with`]
    /// to start it.
    pub fn add<M: Machine + 'static>(&mut self, machine: M) -> NodeId {
        let id = NodeId(u32::try_from(self.nodes.len()).expect("fewer than 2^32 nodes"));
        let mut rng = Rng::new(self.rng.next_u64());
        let random = Box::new(move |bytes: &mut [u8]| rng.fill(bytes));
        self.nodes.push(Node {
            machine: Box::new(machine),
            io: Io::new(random, self.now(), WALL_START_NANOS),
            wall_skew: 0,
            frozen: false,
            held: Vec::new(),
            stopping: false,
            next_port: 40_000,
            timer_at: None,
        });
        id
    }

    /// Gives the node a fresh address that others can connect to.
    pub fn listen(&mut self, node: NodeId) -> SocketAddr {
        let mut address = SocketAddr::new(node.ip(), 1000);
        while self.services.contains_key(&address) {
            address.set_port(address.port() + 1);
        }
        self.listen_at(node, address);
        address
    }

    /// Makes the node listen at an address of the test's choice; a former listener there is
    /// replaced.
    pub fn listen_at(&mut self, node: NodeId, address: SocketAddr) {
        self.services.insert(address, Service::Node(node));
    }

    /// Nobody listens at `address` any more: connections to it are refused.
    pub fn unlisten(&mut self, address: SocketAddr) {
        self.services.remove(&address);
    }

    /// Calls `f` with the node's machine, then carries out what it asked for.
    ///
    /// # Panics
    /// If the node runs a machine of another type.
    pub fn with<M: Machine + 'static, R>(
        &mut self,
        node: NodeId,
        f: impl FnOnce(&mut M, &mut Io) -> R,
    ) -> R {
        self.verb(node, |machine, io| {
            f(machine.as_any().downcast_mut::<M>().expect("the node runs another machine"), io)
        })
    }

    /// Posts a command to the node's machine, which gets it when time next passes.
    ///
    /// # Panics
    /// If the node runs a machine of another type.
    pub fn post<M: Machine + 'static>(&mut self, node: NodeId, command: M::Command) {
        let machine = self.nodes[node.0 as usize].machine.as_any();
        assert!(machine.is::<M>(), "the node runs another machine");
        self.agenda.push(self.now, Event::Command(node, Box::new(command)));
    }

    /// Whether the node's machine has asked to stop and its connections are closed.
    #[must_use]
    pub fn is_stopped(&self, node: NodeId) -> bool {
        self.nodes[node.0 as usize].stopping && !self.ends.keys().any(|(owner, _)| *owner == node)
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The network's own randomness, for a test's choices.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.base + self.now
    }

    /// Virtual time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now
    }

    /// Lets the next event happen, and time pass up to it. False when nothing is left to happen.
    pub fn step(&mut self) -> bool {
        let Some((at, event)) = self.agenda.pop() else { return false };
        if at > self.now {
            self.now = at;
            self.events_this_instant = 0;
        }
        self.events_this_instant += 1;
        assert!(
            self.events_this_instant < EVENTS_PER_INSTANT_MAX,
            "time stands still: machines provoke each other without end"
        );
        self.handle(event);
        true
    }

    /// Lets `duration` pass.
    pub fn run_for(&mut self, duration: Duration) {
        self.run_to(self.now + duration);
    }

    /// Lets time pass until `deadline`.
    pub fn run_until(&mut self, deadline: Instant) {
        self.run_to(deadline.saturating_duration_since(self.base));
    }

    /// Runs until nothing but timers is left to happen, and not beyond `within`: true when it is
    /// so.
    pub fn run_idle(&mut self, within: Duration) -> bool {
        self.run_while(within, |net| !net.agenda.is_idle())
    }

    /// Runs while `condition` holds, and not beyond `within`: true when it ceased to hold.
    pub fn run_while(
        &mut self,
        within: Duration,
        mut condition: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        let deadline = self.now + within;
        while condition(self) {
            if self.agenda.next_at().is_none_or(|at| at > deadline) {
                self.run_to(deadline);
                return !condition(self);
            }
            self.step();
        }
        true
    }

    fn run_to(&mut self, deadline: Duration) {
        while self.agenda.next_at().is_some_and(|at| at <= deadline) {
            self.step();
        }
        if deadline > self.now {
            self.now = deadline;
            self.events_this_instant = 0;
        }
    }
}

/// Links and faults.
impl Net {
    /// The link of connections made from now on.
    pub fn set_link(&mut self, link: Link) {
        self.default_link = link;
    }

    /// What the node sends on connections made from now on travels over `link`.
    pub fn set_outbound(&mut self, node: NodeId, link: Link) {
        self.outbound.insert(node, link);
    }

    /// Changes one direction of a connection that stands: what `from` sends. No effect when it is
    /// gone.
    pub fn shape(&mut self, from: NodeId, wire: WireId, link: Link) {
        let Some(wire_now) = self.wires.get_mut(&wire) else { return };
        for half in &mut wire_now.halves {
            if matches!(half.owner, wire::Owner::Node(node, _) if node == from) {
                half.link = link;
            }
        }
        self.nudge(wire);
    }

    /// The connection behind a node's `conn`; `None` when it is gone.
    #[must_use]
    pub fn wire(&self, node: NodeId, conn: ConnId) -> Option<WireId> {
        self.ends.get(&(node, conn)).map(|(wire, _)| *wire)
    }

    /// The connections of a node, oldest first.
    #[must_use]
    pub fn wires(&self, node: NodeId) -> Vec<WireId> {
        let mut wires: Vec<_> =
            self.ends.iter().filter(|((n, _), _)| *n == node).map(|(_, (wire, _))| *wire).collect();
        wires.sort_unstable();
        wires.dedup();
        wires
    }

    /// Resets a connection: both ends learn of it now, bytes under way are lost.
    pub fn kill(&mut self, wire: WireId) {
        self.reset(wire, std::io::ErrorKind::ConnectionReset);
    }

    /// From now on everything sent over `wire` vanishes and neither end is told. An end that sends
    /// gets `TimedOut` after the user timeout of the real drivers.
    pub fn black_hole(&mut self, wire: WireId) {
        if let Some(wire) = self.wires.get_mut(&wire) {
            wire.black_hole = true;
        }
    }

    /// Connections to `address` are refused from now on, or again accepted.
    pub fn refuse(&mut self, address: SocketAddr, refuse: bool) {
        if refuse {
            self.refused.insert(address);
        } else {
            self.refused.remove(&address);
        }
    }

    /// Connection requests to `address` vanish from now on, or again arrive.
    pub fn lose_connects(&mut self, address: SocketAddr, lose: bool) {
        if lose {
            self.unreachable.insert(address);
        } else {
            self.unreachable.remove(&address);
        }
    }

    /// Stops the node's process: no verb runs until [`Net::thaw`], while its kernel still accepts
    /// connections and bytes.
    pub fn freeze(&mut self, node: NodeId) {
        self.nodes[node.0 as usize].frozen = true;
    }

    /// Continues a frozen node; what it missed happens now.
    pub fn thaw(&mut self, node: NodeId) {
        let node_now = &mut self.nodes[node.0 as usize];
        node_now.frozen = false;
        for event in std::mem::take(&mut node_now.held) {
            self.agenda.push(self.now, event);
        }
        for wire in self.wires(node) {
            self.nudge(wire);
        }
    }

    /// Ends the node at once, as a killed process: its listeners are gone, peers see a reset, no
    /// verb runs any more.
    pub fn crash(&mut self, node: NodeId) {
        self.services.retain(|_, service| !matches!(service, Service::Node(n) if *n == node));
        for wire in self.wires(node) {
            self.kill(wire);
        }
        self.ends.retain(|(owner, _), _| *owner != node);
        self.freeze(node);
        self.nodes[node.0 as usize].stopping = true;
    }

    /// Moves the node's wall clock by `nanos` against its monotonic clock.
    pub fn jump_wall_clock(&mut self, node: NodeId, nanos: i64) {
        let skew = &mut self.nodes[node.0 as usize].wall_skew;
        *skew = skew.saturating_add(nanos);
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("simulation seed {} after {:?}", self.seed, self.now);
        }
    }
}

#[cfg(test)]
mod tests;
