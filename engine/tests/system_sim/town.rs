//! A relay of one or two cores with its clients.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
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
    relay::{self, Cores, Relay, RelayConfig, RelayLimits, Stats},
    wire::{Addr, Port},
};
use tokio::sync::oneshot;

/// Where everybody listens.
const PORT: u16 = 80;

struct Queue<C>(Arc<Mutex<VecDeque<C>>>);

impl<C> Clone for Queue<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C> Queue<C> {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn push(&self, command: C) {
        self.0.lock().unwrap().push_back(command);
    }

    fn pop(&self) -> Option<C> {
        self.0.lock().unwrap().pop_front()
    }
}

impl Post for Queue<Command> {
    fn post(&self, command: Command) -> Result<(), PostError<Command>> {
        self.push(command);
        Ok(())
    }

    fn post_release(&self, command: Command) {
        self.push(command);
    }
}

pub struct Core {
    pub node: NodeId,
    pub address: SocketAddr,
    mail: Queue<relay::Command>,
}

pub struct Resident {
    pub node: NodeId,
    pub key: PublicKey,
    pub mux: MuxKind,
    pub listener: Listener,
    shared: Arc<Shared>,
    link: Arc<EngineLink>,
    commands: Queue<Command>,
}

pub struct PendingDial {
    pub from: usize,
    pub to: usize,
    id: DialId,
    lease: Arc<Lease>,
    pub outcome: oneshot::Receiver<Result<Stream, DialError>>,
}

pub struct Town {
    pub net: Net,
    pub cores: Vec<Core>,
    pub residents: Vec<Resident>,
    pub stats: Arc<Stats>,
    server: PublicKey,
}

impl Town {
    pub fn new(net: Net, cores_count: u16) -> Self {
        let mut net = net;
        let secret_key = SecretKey::from_seed(b"the relay");
        let server = secret_key.public_key();
        let (table, stats) = (Arc::new(Cores::new(cores_count)), Arc::new(Stats::default()));
        let cores = (0..cores_count)
            .map(|index| {
                let config = RelayConfig {
                    secret_key: secret_key.clone(),
                    limits: RelayLimits::default(),
                    newcomers: None,
                };
                let mail = Queue::new();
                let post = mail.clone();
                table.register(index, move |command| post.push(command));
                let node =
                    net.add(Relay::new(config, index, Arc::clone(&table), Arc::clone(&stats)));
                Core { node, address: net.listen(node), mail }
            })
            .collect();
        Self { net, cores, residents: Vec::new(), stats, server }
    }

    pub fn add_resident(&mut self, mux: MuxKind) {
        let index = self.residents.len();
        let key = SecretKey::from_seed(format!("resident {index}").as_bytes());
        let mut config = ClientConfig::new(key.clone());
        config.mux = mux;
        let commands = Queue::new();
        let link = Arc::new(EngineLink::new(commands.clone()));
        let shared = Shared::new(StreamPool::new(config.stream_limits()));
        let machine = ClientMachine::new(config, Arc::clone(&link), Arc::clone(&shared));
        let node = self.net.add(machine);
        let key = key.public_key();
        let port = Port::new(PORT).unwrap();
        let listener = shared.listeners.listen(&shared.ports, key, port, 64).unwrap();
        link.post_release(Command::Servers(vec![self.target(index)]));
        self.residents.push(Resident { node, key, mux, listener, shared, link, commands });
    }

    /// The relay, at the address of the core that this resident uses.
    fn target(&self, resident: usize) -> ServerTarget {
        let core = &self.cores[resident % self.cores.len()];
        ServerTarget { key: self.server, addresses: vec![core.address], weight: 1 }
    }

    pub fn dial(&mut self, from: usize, to: usize) -> PendingDial {
        let started = self.net.now();
        let to_addr = Addr { key: self.residents[to].key, port: Port::new(PORT).unwrap() };
        let candidates = vec![self.target(from)];
        let Resident { link, shared, .. } = &self.residents[from];
        let (reply, outcome) = oneshot::channel();
        let holder = Holder { label: "test".into(), destination: Some(to_addr.key) };
        let id = link.next_dial_id();
        let lease = Lease::new(shared.permits.try_acquire(&holder).expect("a free place"));
        link.post_release(Command::Dial(Box::new(DialRequest {
            id,
            purpose: Purpose::Stream { to: to_addr, reply },
            candidates,
            lease: Arc::clone(&lease),
            started,
            deadline: started + Duration::from_secs(20),
        })));
        PendingDial { from, to, id, lease, outcome }
    }

    /// What `Client::dial` does when its future is dropped.
    pub fn cancel(&mut self, dial: PendingDial) {
        dial.lease.release();
        self.residents[dial.from].link.post_release(Command::CancelDial(dial.id));
    }

    pub fn close(&mut self, resident: usize) {
        self.residents[resident].link.post_release(Command::Close);
    }

    pub fn sessions(&self, resident: usize) -> usize {
        self.residents[resident].shared.board.sessions().len()
    }

    /// Lets time pass up to `deadline`, while mail between threads takes its time.
    pub fn run_until(&mut self, deadline: Instant) {
        while self.net.now() < deadline {
            self.deliver();
            let mut first = true;
            let left = deadline - self.net.now();
            self.net.run_while(left, |_| std::mem::take(&mut first));
        }
        self.deliver();
    }

    pub fn run_for(&mut self, time: Duration) {
        self.run_until(self.net.now() + time);
    }

    fn deliver(&mut self) {
        for resident in &self.residents {
            while let Some(command) = resident.commands.pop() {
                self.net.post::<ClientMachine>(resident.node, command);
            }
        }
        for core in &self.cores {
            // A part of it may come later than what arrives from the network meanwhile.
            while self.net.rng().below(8) > 0
                && let Some(command) = core.mail.pop()
            {
                self.net.post::<Relay>(core.node, command);
            }
        }
    }

    pub fn has_mail(&self) -> bool {
        self.cores.iter().any(|core| !core.mail.0.lock().unwrap().is_empty())
    }

    /// Everything is given back but the sessions, if `sessions` of them are up.
    pub fn assert_nothing_held(&mut self, sessions: usize) {
        for index in 0..self.residents.len() {
            let node = self.residents[index].node;
            let (dials, streams, timers) =
                self.net.with(node, |machine: &mut ClientMachine, _| machine.held_counts());
            assert_eq!((dials, streams), (0, 0), "dials and streams of resident {index}");
            assert!(timers <= 3, "{timers} timers of resident {index}");
            let shared = &self.residents[index].shared;
            assert_eq!(shared.permits.used_count(), 0, "places of resident {index}");
            assert_eq!(shared.ports.used_count(), 1, "ports beside the listener's");
        }
        let gauges = [&self.stats.stream_halves, &self.stats.pending_bytes, &self.stats.handshakes];
        assert_eq!(gauges.map(|gauge| gauge.load(Relaxed)), [0; 3], "halves, bytes, handshakes");
        assert_eq!(self.stats.sessions.load(Relaxed), sessions as u64);
        let mut timers = 0;
        for core in &self.cores {
            let (pending, held) = self.net.with(core.node, |relay: &mut Relay, _| {
                (relay.pending_bytes(), relay.timer_count())
            });
            assert_eq!(pending, 0);
            timers += held;
        }
        assert_eq!(timers, sessions, "one timer for each session");
    }
}
