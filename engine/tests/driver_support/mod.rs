//! A machine for tests of the real drivers, and the variants of drivers to test.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    time::{Duration, Instant},
};

use dmsg_engine::{
    driver::{
        DriverConfig, DriverKind, DriverStats, DriverThread, Features, Mailbox, PostError,
        UringConfig, probe, spawn,
    },
    io::{CloseMode, Closed, ConnId, Io, Machine},
    pool::Slice,
};

/// Longer than anything healthy takes, shorter than a test runner's patience.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What the machine does with connections it accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sends back everything, pausing while its send queue is full.
    Echo,
    /// Keeps quiet; tests look at the events.
    Sink,
    /// Sends this many bytes of [`pattern`], then flushes and closes.
    Source(usize),
    /// Connects to the address and forwards both ways with back-pressure.
    Proxy(SocketAddr),
}

/// What the machine saw.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    Accepted(ConnId),
    Connected(ConnId),
    Received(ConnId, Vec<u8>),
    Writable(ConnId),
    Closed(ConnId, String),
    Timeout(Instant),
    Number(u64),
    Started(ConnId),
}

pub enum Order {
    Connect(SocketAddr),
    Send(ConnId, Vec<u8>),
    Close(ConnId, CloseMode),
    /// Queues bytes and closes within one verb.
    SendAndClose(ConnId, Vec<u8>, CloseMode),
    Pause(ConnId),
    Resume(ConnId),
    WakeAt(Instant),
    Number(u64),
    Call(Box<dyn FnOnce(&mut Io) + Send>),
    Stop,
}

pub struct Lab {
    role: Role,
    seen: Sender<Seen>,
    sent: HashMap<ConnId, usize>,
    partner: HashMap<ConnId, ConnId>,
}

impl Lab {
    pub fn new(role: Role, seen: Sender<Seen>) -> Self {
        Self { role, seen, sent: HashMap::new(), partner: HashMap::new() }
    }

    fn produce(&mut self, io: &mut Io, conn: ConnId, total: usize) {
        let sent = self.sent.entry(conn).or_default();
        while *sent < total && !io.is_full(conn) {
            let len = (total - *sent).min(5000);
            let Some(queue) = io.queue(conn) else { return };
            queue.push_slice(Slice::from_vec(pattern(*sent, len)));
            *sent += len;
        }
        if *sent == total {
            io.close(conn, CloseMode::Flush);
        }
    }

    /// Passes `data` on to `to` and stops `from` while that is full.
    fn forward(&mut self, io: &mut Io, from: ConnId, to: ConnId, data: Slice) {
        let Some(queue) = io.queue(to) else { return };
        queue.push_slice(data);
        if io.is_full(to) {
            io.pause(from);
        }
    }

    fn tell(&self, seen: Seen) {
        let _ = self.seen.send(seen);
    }
}

impl Machine for Lab {
    type Command = Order;

    fn accepted(&mut self, io: &mut Io, conn: ConnId, peer: SocketAddr) {
        assert!(peer.ip().is_loopback());
        self.tell(Seen::Accepted(conn));
        match self.role {
            Role::Source(total) => self.produce(io, conn, total),
            Role::Proxy(target) => {
                let partner = io.connect(target);
                self.partner.insert(conn, partner);
                self.partner.insert(partner, conn);
                io.pause(conn);
            }
            Role::Echo | Role::Sink => {}
        }
    }

    fn connected(&mut self, io: &mut Io, conn: ConnId) {
        self.tell(Seen::Connected(conn));
        if let Some(&partner) = self.partner.get(&conn) {
            io.resume(partner);
        }
    }

    fn received(&mut self, io: &mut Io, conn: ConnId, data: Slice) {
        assert!(!data.is_empty());
        match self.role {
            Role::Echo => self.forward(io, conn, conn, data),
            Role::Sink | Role::Source(_) => self.tell(Seen::Received(conn, data.to_vec())),
            Role::Proxy(_) => {
                let partner = self.partner[&conn];
                self.forward(io, conn, partner, data);
            }
        }
    }

    fn writable(&mut self, io: &mut Io, conn: ConnId) {
        match self.role {
            Role::Echo => io.resume(conn),
            Role::Sink => self.tell(Seen::Writable(conn)),
            Role::Source(total) => self.produce(io, conn, total),
            Role::Proxy(_) => io.resume(self.partner[&conn]),
        }
    }

    fn closed(&mut self, io: &mut Io, conn: ConnId, why: Closed) {
        if let Some(partner) = self.partner.get(&conn) {
            io.close(*partner, CloseMode::Flush);
        }
        assert!(io.queue(conn).is_none(), "a closed connection is dead");
        self.tell(Seen::Closed(
            conn,
            match why {
                Closed::ByPeer => "by peer".into(),
                Closed::ByUs => "by us".into(),
                Closed::Error(error) => format!("{:?}", error.kind()),
            },
        ));
    }

    fn command(&mut self, io: &mut Io, order: Order) {
        match order {
            Order::Connect(to) => {
                let conn = io.connect(to);
                self.tell(Seen::Started(conn));
            }
            Order::Send(conn, bytes) => {
                if let Some(queue) = io.queue(conn) {
                    queue.push_slice(Slice::from_vec(bytes));
                }
            }
            Order::SendAndClose(conn, bytes, mode) => {
                if let Some(queue) = io.queue(conn) {
                    queue.push_slice(Slice::from_vec(bytes));
                }
                io.close(conn, mode);
            }
            Order::Close(conn, mode) => io.close(conn, mode),
            Order::Pause(conn) => io.pause(conn),
            Order::Resume(conn) => io.resume(conn),
            Order::WakeAt(at) => io.wake_at(at),
            Order::Number(number) => self.tell(Seen::Number(number)),
            Order::Call(call) => call(io),
            Order::Stop => io.stop(),
        }
    }

    fn timeout(&mut self, io: &mut Io) {
        self.tell(Seen::Timeout(io.now()));
    }
}

/// A running driver with its machine.
pub struct Bed {
    pub driver: Option<DriverThread<Order>>,
    pub mailbox: Mailbox<Order>,
    pub address: SocketAddr,
    stats: Arc<DriverStats>,
    seen: Receiver<Seen>,
    aside: Vec<Seen>,
}

impl Bed {
    pub fn start(variant: &Variant, role: Role) -> Self {
        Self::start_as(variant, role, variant.kind)
    }

    /// Starts, and checks that the driver is of the kind expected.
    pub fn start_as(variant: &Variant, role: Role, expected: DriverKind) -> Self {
        Self::start_with(variant.config(), role, expected)
    }

    pub fn start_with(mut config: DriverConfig, role: Role, expected: DriverKind) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let stats = Arc::clone(&config.stats);
        config.listeners.push(listener);
        let (sender, seen) = mpsc::channel();
        let driver = spawn(config, move |_| Lab::new(role, sender)).unwrap();
        assert_eq!(driver.kind, expected);
        let mailbox = driver.mailbox.clone();
        Self { driver: Some(driver), mailbox, address, stats, seen, aside: Vec::new() }
    }

    pub fn stats(&self) -> Arc<DriverStats> {
        Arc::clone(&self.stats)
    }

    pub fn order(&self, order: Order) {
        if let Err(PostError::Full(_) | PostError::Stopped(_)) = self.mailbox.post(order) {
            panic!("the driver takes no order");
        }
    }

    /// The next thing seen for which `pick` gives something; what it passes over stays for later.
    pub fn wait<T>(&mut self, mut pick: impl FnMut(&Seen) -> Option<T>) -> T {
        if let Some(found) = self.aside.iter().position(|seen| pick(seen).is_some()) {
            return pick(&self.aside.remove(found)).unwrap();
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let seen = self.seen.recv_timeout(left).unwrap_or_else(|_| {
                panic!("nothing of the kind was seen, but {:?}", self.aside);
            });
            if let Some(found) = pick(&seen) {
                return found;
            }
            self.aside.push(seen);
        }
    }

    pub fn wait_accepted(&mut self) -> ConnId {
        self.wait(|seen| if let Seen::Accepted(conn) = seen { Some(*conn) } else { None })
    }

    pub fn wait_closed(&mut self, conn: ConnId) -> String {
        self.wait(|seen| match seen {
            Seen::Closed(id, why) if *id == conn => Some(why.clone()),
            _ => None,
        })
    }

    /// Collects received bytes until there are `len`.
    pub fn wait_bytes(&mut self, conn: ConnId, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            bytes.extend(self.wait(|seen| match seen {
                Seen::Received(id, bytes) if *id == conn => Some(bytes.clone()),
                _ => None,
            }));
        }
        bytes
    }

    /// Waits until every order posted so far was carried out and the turn after it ended.
    pub fn settle(&mut self) {
        for number in [u64::MAX - 1, u64::MAX] {
            self.order(Order::Number(number));
            self.wait(|seen| (*seen == Seen::Number(number)).then_some(()));
        }
    }

    /// Everything seen and not waited for.
    pub fn rest(&mut self) -> Vec<Seen> {
        self.aside.extend(self.seen.try_iter());
        std::mem::take(&mut self.aside)
    }

    pub fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    pub fn connected_pair(&mut self) -> (TcpStream, ConnId) {
        let peer = self.connect();
        (peer, self.wait_accepted())
    }

    /// Stops the driver and gives what was seen and not waited for.
    pub fn stop(&mut self) -> Vec<Seen> {
        if let Some(driver) = self.driver.take() {
            let _ = self.mailbox.post(Order::Stop);
            driver.thread.join().expect("the driver did not panic").expect("nor fail");
        }
        self.rest()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

pub fn connect(to: SocketAddr) -> TcpStream {
    let peer = TcpStream::connect(to).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    peer.set_write_timeout(Some(PATIENCE)).unwrap();
    peer
}

/// `len` bytes of an endless pattern from `offset`; the period is a prime, so shifted bytes do not
/// pass for right ones.
pub fn pattern(offset: usize, len: usize) -> Vec<u8> {
    (offset..offset + len).map(|i| (i % 65_521).wrapping_mul(31) as u8 ^ (i % 251) as u8).collect()
}

/// Writes `len` bytes of the pattern from another thread, in writes of `step`.
pub fn write_pattern(
    peer: &TcpStream,
    len: usize,
    step: usize,
) -> std::thread::JoinHandle<TcpStream> {
    let mut peer = peer.try_clone().unwrap();
    std::thread::spawn(move || {
        let mut sent = 0;
        while sent < len {
            let part = step.min(len - sent);
            peer.write_all(&pattern(sent, part)).unwrap();
            sent += part;
        }
        peer
    })
}

/// Reads `len` bytes in reads of at most `step` and checks each.
pub fn read_pattern(mut peer: &TcpStream, len: usize, step: usize) {
    let mut buffer = vec![0; step];
    let mut seen = 0;
    while seen < len {
        let count = peer.read(&mut buffer).unwrap();
        assert!(count > 0, "the stream ended after {seen} of {len} bytes");
        assert!(buffer[..count] == pattern(seen, count), "wrong bytes near offset {seen}");
        seen += count;
    }
}

/// A driver with some of its abilities taken away.
#[derive(Debug, Clone)]
pub struct Variant {
    pub name: &'static str,
    pub kind: DriverKind,
    pub uring: UringConfig,
}

impl Variant {
    pub fn epoll() -> Self {
        Self { name: "epoll", kind: DriverKind::Epoll, uring: UringConfig::default() }
    }

    pub fn uring(name: &'static str, features: Features) -> Self {
        let uring = UringConfig { features, ..UringConfig::default() };
        Self { name, kind: DriverKind::Uring, uring }
    }

    pub fn config(&self) -> DriverConfig {
        let mut config = DriverConfig::new(self.name);
        config.kind = self.kind;
        config.uring = self.uring;
        config
    }
}

/// Every variant that can run here.
pub fn variants() -> Vec<Variant> {
    let all = Features::ALL;
    let mut tiny = Variant::uring("tiny", all);
    // Two submissions, four completions and two small buffers: every queue overflows, and buffers
    // run out.
    tiny.uring = UringConfig {
        submissions: 2,
        completions: 4,
        buffers_count: 2,
        buffer_bytes: 2048,
        ..tiny.uring
    };
    let uring = [
        Variant::uring("all", all),
        Variant::uring("no deferral", Features { defer_taskrun: false, ..all }),
        Variant::uring("no multishot recv", Features { multishot_recv: false, ..all }),
        Variant::uring("no bundles", Features { bundles: false, ..all }),
        Variant::uring("no multishot accept", Features { multishot_accept: false, ..all }),
        Variant::uring("no buffer ring", Features { buffer_ring: false, ..all }),
        Variant::uring("no restrictions", Features { restrictions: false, ..all }),
        Variant::uring("none", Features::NONE),
        tiny,
    ];
    let mut variants = vec![Variant::epoll()];
    match probe() {
        Ok(_) => variants.extend(uring),
        Err(unavailable) => println!("skipped: io_uring unavailable ({unavailable})"),
    }
    variants
}

/// Runs a scenario on every variant, and names the one that fails.
pub fn on_each(scenario: impl Fn(&Variant)) {
    for variant in variants() {
        let start = Instant::now();
        print!("on {} … ", variant.name);
        scenario(&variant);
        println!("{:?}", start.elapsed());
    }
}

/// Like [`on_each`], all at once; for scenarios that mostly wait.
pub fn on_each_at_once(scenario: impl Fn(&Variant) + Sync) {
    let variants = variants();
    std::thread::scope(|scope| {
        for variant in &variants {
            let thread = std::thread::Builder::new().name(format!("on {}", variant.name));
            thread.spawn_scoped(scope, || scenario(variant)).unwrap();
        }
    });
}
