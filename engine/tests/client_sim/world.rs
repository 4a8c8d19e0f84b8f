//! Clients and scripted servers in one simulated network, and an executor that lets time pass while
//! it polls.

use std::{
    collections::VecDeque,
    future::Future,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use dmsg_engine::{
    client::{
        ClientConfig, DialError, EngineLink, Lease, Listener, Post, Stream,
        machine::{ClientMachine, Command, DialId, DialRequest, Purpose, ServerTarget, Shared},
    },
    driver::{
        PostError,
        sim::{Net, NodeId},
    },
    identity::{PublicKey, SecretKey},
    mux::MuxKind,
    pool::{Holder, StreamPool},
    wire::{Addr, Port},
};
use tokio::sync::oneshot;

use crate::scripted::{Script, ScriptedServer, Tell};

/// Longer than anything a test waits for.
pub const LONG: Duration = Duration::from_secs(120);

#[derive(Clone, Default)]
struct Queue(Arc<Mutex<VecDeque<Command>>>);

impl Post for Queue {
    fn post(&self, command: Command) -> Result<(), PostError<Command>> {
        self.post_release(command);
        Ok(())
    }

    fn post_release(&self, command: Command) {
        self.0.lock().unwrap().push_back(command);
    }
}

/// Who dials `to` in a test.
pub fn holder(to: Addr) -> Holder {
    Holder { label: "test".into(), destination: Some(to.key) }
}

pub struct SimClient {
    pub node: NodeId,
    pub key: PublicKey,
    pub link: Arc<EngineLink>,
    pub shared: Arc<Shared>,
    commands: Queue,
}

pub struct SimServer {
    pub node: NodeId,
    pub key: PublicKey,
    pub address: SocketAddr,
}

impl SimServer {
    pub fn target(&self) -> ServerTarget {
        ServerTarget { key: self.key, addresses: vec![self.address], weight: 1 }
    }
}

pub struct PendingDial {
    pub id: DialId,
    pub lease: Arc<Lease>,
    pub outcome: oneshot::Receiver<Result<Stream, DialError>>,
}

pub struct World {
    pub net: Net,
    pub clients: Vec<SimClient>,
    pub servers: Vec<SimServer>,
    mux: MuxKind,
    time: Arc<Mutex<Instant>>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self::with_mux(seed, MuxKind::Yamux)
    }

    pub fn with_mux(seed: u64, mux: MuxKind) -> Self {
        let net = Net::new(seed);
        let time = Arc::new(Mutex::new(net.now()));
        Self { net, clients: Vec::new(), servers: Vec::new(), mux, time }
    }

    /// One server and `clients` clients with a session each.
    pub fn connected(seed: u64, clients: usize) -> Self {
        let mut world = Self::new(seed);
        world.add_server();
        for _ in 0..clients {
            world.add_client(|_| {});
        }
        world.connect_all();
        world
    }

    /// Two clients that hold a session with each of `servers` servers, all of which have answered a ping.
    pub fn all_connected(seed: u64, servers: usize) -> Self {
        let mut world = Self::new(seed);
        world.add_servers(servers);
        for _ in 0..2 {
            world.add_client(|config| config.min_sessions = 0);
        }
        world.connect_all();
        world.pass(Duration::from_secs(5));
        world
    }

    pub fn add_server(&mut self) -> usize {
        let key = SecretKey::from_seed(format!("server {}", self.servers.len()).as_bytes());
        let node = self.net.add(ScriptedServer::new(key.clone(), self.mux));
        let address = self.net.listen(node);
        self.servers.push(SimServer { node, key: key.public_key(), address });
        self.servers.len() - 1
    }

    /// Lists a server that a test has added to the network itself.
    pub fn add_peer_server(&mut self, node: NodeId, key: PublicKey) {
        let address = self.net.listen(node);
        self.servers.push(SimServer { node, key, address });
    }

    /// Lists a server that is played by hand.
    pub fn add_raw_server(&mut self, address: SocketAddr, key: PublicKey) {
        let node = self.net.add(ScriptedServer::new(SecretKey::from_seed(b"idle"), self.mux));
        self.servers.push(SimServer { node, key, address });
    }

    pub fn add_servers(&mut self, count: usize) {
        for _ in 0..count {
            self.add_server();
        }
    }

    /// Ends a server's process and starts another at its address.
    pub fn restart_server(&mut self, index: usize) {
        let key = SecretKey::from_seed(format!("server {index}").as_bytes());
        self.net.crash(self.servers[index].node);
        let node = self.net.add(ScriptedServer::new(key, self.mux));
        self.net.listen_at(node, self.servers[index].address);
        self.servers[index].node = node;
    }

    pub fn add_client(&mut self, configure: impl FnOnce(&mut ClientConfig)) -> usize {
        let key = SecretKey::from_seed(format!("client {}", self.clients.len()).as_bytes());
        let mut config = ClientConfig::new(key.clone());
        config.mux = self.mux;
        configure(&mut config);
        let commands = Queue::default();
        let link = Arc::new(EngineLink::new(commands.clone()));
        // The pool's clock is the simulation's; `deliver` sets it.
        let (time, epoch) = (Arc::clone(&self.time), self.net.now());
        let clock = move || epoch.max(*time.lock().unwrap());
        let places = StreamPool::with_clock(config.stream_limits(), Arc::new(clock));
        let shared = Shared::new(places);
        let machine = ClientMachine::new(config, Arc::clone(&link), Arc::clone(&shared));
        let node = self.net.add(machine);
        self.clients.push(SimClient { node, key: key.public_key(), link, shared, commands });
        self.clients.len() - 1
    }

    /// Gives a client the list of all servers.
    pub fn list_servers(&mut self, client: usize) {
        let targets = self.servers.iter().map(SimServer::target).collect();
        self.clients[client].link.post_release(Command::Servers(targets));
    }

    /// Gives every client the list, and waits for a session each.
    pub fn connect_all(&mut self) {
        for client in 0..self.clients.len() {
            self.list_servers(client);
        }
        let all = self.clients.len();
        assert!(self.until(LONG, |world| (0..all).all(|index| world.sessions(index) > 0)));
    }

    pub fn sessions(&self, client: usize) -> usize {
        self.clients[client].shared.board.sessions().len()
    }

    pub fn ports(&self, client: usize) -> usize {
        self.clients[client].shared.ports.used_count()
    }

    /// Dials, streams and timers of a client's machine.
    pub fn held(&mut self, client: usize) -> (usize, usize, usize) {
        self.net
            .with(self.clients[client].node, |machine: &mut ClientMachine, _| machine.held_counts())
    }

    pub fn script(&mut self, server: usize, script: Script) {
        self.tell(server, Tell::Script(script));
    }

    pub fn tell(&mut self, server: usize, tell: Tell) {
        self.net.post::<ScriptedServer>(self.servers[server].node, tell);
    }

    pub fn server<R>(&mut self, server: usize, look: impl FnOnce(&ScriptedServer) -> R) -> R {
        self.net.with(self.servers[server].node, |machine: &mut ScriptedServer, _| look(machine))
    }

    pub fn listen(&mut self, client: usize, port: u16, queue_max: usize) -> Listener {
        let SimClient { shared, key, .. } = &self.clients[client];
        let port = Port::new(port).unwrap();
        shared.listeners.listen(&shared.ports, *key, port, queue_max).unwrap()
    }

    pub fn addr(&self, client: usize, port: u16) -> Addr {
        Addr { key: self.clients[client].key, port: Port::new(port).unwrap() }
    }

    /// Starts a dial through `servers`, with the default limit.
    pub fn dial_via(&mut self, client: usize, to: Addr, servers: &[usize]) -> PendingDial {
        let candidates = servers.iter().map(|&index| self.servers[index].target()).collect();
        let shared = &self.clients[client].shared;
        let lease = Lease::new(shared.permits.try_acquire(&holder(to)).expect("a free place"));
        self.dial_under(client, to, lease, candidates)
    }

    /// Starts a dial whose place is taken already.
    pub fn dial_leased(
        &mut self,
        client: usize,
        to: Addr,
        lease: Arc<Lease>,
        servers: &[usize],
    ) -> PendingDial {
        let candidates = servers.iter().map(|&index| self.servers[index].target()).collect();
        self.dial_under(client, to, lease, candidates)
    }

    fn dial_under(
        &mut self,
        client: usize,
        to: Addr,
        lease: Arc<Lease>,
        candidates: Vec<ServerTarget>,
    ) -> PendingDial {
        let started = self.net.now();
        let link = &self.clients[client].link;
        let (reply, outcome) = oneshot::channel();
        let id = link.next_dial_id();
        link.post_release(Command::Dial(Box::new(DialRequest {
            id,
            purpose: Purpose::Stream { to, reply },
            candidates,
            lease: Arc::clone(&lease),
            started,
            deadline: started + Duration::from_secs(20),
        })));
        PendingDial { id, lease, outcome }
    }

    /// A stream that waits to be accepted, if there is one.
    pub fn try_accept(&mut self, listener: &mut Listener) -> Option<Stream> {
        match pin!(listener.accept()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(stream) => Some(stream.unwrap()),
            Poll::Pending => None,
        }
    }

    pub fn dial(&mut self, client: usize, to: Addr) -> Result<Stream, DialError> {
        let all: Vec<_> = (0..self.servers.len()).collect();
        let pending = self.dial_via(client, to, &all);
        self.finish(pending)
    }

    /// Dials a stream that may be reclaimed.
    pub fn dial_reclaimable(&mut self, client: usize, to: Addr) -> Result<Stream, DialError> {
        let shared = &self.clients[client].shared;
        let permit =
            shared.permits.try_acquire(&holder(to)).expect("a place, if need be reclaimed");
        let candidates = self.servers.iter().map(SimServer::target).collect();
        let pending = self.dial_under(client, to, Lease::reclaimable(permit), candidates);
        self.finish(pending)
    }

    pub fn finish(&mut self, pending: PendingDial) -> Result<Stream, DialError> {
        self.wait(pending.outcome).expect("a dial always gets an answer")
    }

    /// A stream between two clients: the dialled end and the accepted end.
    pub fn pair(&mut self, from: usize, to: usize) -> (Stream, Stream) {
        let mut listener = self.listen(to, 80, 16);
        let dialled = self.dial(from, self.addr(to, 80)).unwrap();
        let accepted = self.wait(listener.accept()).unwrap();
        (dialled, accepted)
    }

    /// Polls `future` while simulated time passes.
    pub fn wait<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        let mut out = None;
        let done = self.until(LONG, |_| {
            if let Poll::Ready(value) =
                future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            {
                out = Some(value);
            }
            out.is_some()
        });
        assert!(done, "nothing came of it within {LONG:?}");
        out.unwrap()
    }

    /// Lets time pass until `condition` holds; false if it does not within `limit`.
    pub fn until(&mut self, limit: Duration, mut condition: impl FnMut(&mut Self) -> bool) -> bool {
        let deadline = self.net.now() + limit;
        loop {
            self.deliver();
            if condition(self) {
                return true;
            }
            self.deliver();
            if self.net.now() >= deadline {
                return false;
            }
            // One event, if it lies before the deadline; else time alone passes.
            let mut first = true;
            let left = deadline - self.net.now();
            self.net.run_while(left, |_| std::mem::take(&mut first));
        }
    }

    /// Lets `duration` pass.
    pub fn pass(&mut self, duration: Duration) {
        let end = self.net.now() + duration;
        self.until(duration, |world| world.net.now() >= end);
    }

    fn deliver(&mut self) {
        *self.time.lock().unwrap() = self.net.now();
        for client in &self.clients {
            let commands = std::mem::take(&mut *client.commands.0.lock().unwrap());
            for command in commands {
                self.net.post::<ClientMachine>(client.node, command);
            }
        }
    }
}
