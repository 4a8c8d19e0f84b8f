//! A machine in the simulated network, whatever its type.

use std::{
    any::Any,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use super::event::Event;
use crate::{
    io::{Closed, ConnId, Io, Machine},
    pool::Slice,
};

/// A node of a [`super::Net`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(super) u32);

impl NodeId {
    /// The virtual address of the node: 10.0.0.1, 10.0.0.2 …
    #[must_use]
    pub fn ip(self) -> IpAddr {
        let [_, a, b, c] = (self.0 + 1).to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(10, a, b, c))
    }
}

/// [`Machine`] without its type parameter, so that machines of different types share a network.
pub(super) trait AnyMachine {
    fn accepted(&mut self, io: &mut Io, conn: ConnId, peer: SocketAddr);
    fn connected(&mut self, io: &mut Io, conn: ConnId);
    fn received(&mut self, io: &mut Io, conn: ConnId, data: Slice);
    fn writable(&mut self, io: &mut Io, conn: ConnId);
    fn closed(&mut self, io: &mut Io, conn: ConnId, why: Closed);
    fn command(&mut self, io: &mut Io, command: Box<dyn Any>);
    fn timeout(&mut self, io: &mut Io);
    fn as_any(&mut self) -> &mut dyn Any;
}

impl<M: Machine + 'static> AnyMachine for M {
    fn accepted(&mut self, io: &mut Io, conn: ConnId, peer: SocketAddr) {
        Machine::accepted(self, io, conn, peer);
    }
    fn connected(&mut self, io: &mut Io, conn: ConnId) {
        Machine::connected(self, io, conn);
    }
    fn received(&mut self, io: &mut Io, conn: ConnId, data: Slice) {
        Machine::received(self, io, conn, data);
    }
    fn writable(&mut self, io: &mut Io, conn: ConnId) {
        Machine::writable(self, io, conn);
    }
    fn closed(&mut self, io: &mut Io, conn: ConnId, why: Closed) {
        Machine::closed(self, io, conn, why);
    }
    fn command(&mut self, io: &mut Io, command: Box<dyn Any>) {
        let command = command.downcast::<M::Command>();
        Machine::command(self, io, *command.expect("`Net::post` checked the type"));
    }
    fn timeout(&mut self, io: &mut Io) {
        Machine::timeout(self, io);
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

pub(super) struct Node {
    pub(super) machine: Box<dyn AnyMachine>,
    pub(super) io: Io,
    /// What the node's wall clock shows beyond the network's, nanoseconds.
    pub(super) wall_skew: i64,
    /// A frozen node runs no verb; its kernel goes on.
    pub(super) frozen: bool,
    /// Verbs that wait for the thaw.
    pub(super) held: Vec<Event>,
    pub(super) stopping: bool,
    pub(super) next_port: u16,
    /// The earliest `Timer` on the agenda.
    pub(super) timer_at: Option<Duration>,
}
