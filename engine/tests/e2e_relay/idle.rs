//! What sessions cost that carry nothing. The server's thread is measured by the processor's own clock, so that a busy machine
//! does not matter much, and the bound is far above what is needed: a loop that spins is found, speed is measured in `bench`.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use dmsg_engine::{
    driver::{DriverConfig, spawn},
    identity::{PublicKey, SecretKey},
    mux::{Mux, MuxConfig, MuxKind, Role},
    pool::{SendQueue, Slice},
    relay::{Command, Cores, Relay, RelayConfig, RelayLimits, Stats},
    session::{SessionHandshake, Step},
};

use crate::drivers;

/// A name that no other thread of this process has.
const THREAD: &str = "idle-relay";

/// User wish 17 has 1,000 for a hundredth of a core. They are pinged thirty times as often here.
const SESSIONS: usize = 300;

/// As often as a session's keep-alive may be due.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// How long is measured.
const TIME: Duration = Duration::from_secs(4);

/// A client that answers pings and nothing else.
pub(crate) struct Idler {
    stream: TcpStream,
    mux: Mux,
}

impl Idler {
    pub(crate) fn connect(address: SocketAddr, server: PublicKey) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        let (key, ephemeral) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        let mut out = Vec::new();
        let mut handshake = SessionHandshake::initiator(&key, server, ephemeral, &mut out);
        stream.write_all(&out).unwrap();
        loop {
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes).unwrap();
            assert!(count > 0, "refused");
            let mut out = Vec::new();
            let step = handshake.receive(Slice::from_vec(bytes[..count].to_vec()), &mut out);
            stream.write_all(&out).unwrap();
            if let Step::Done(_) = step.unwrap() {
                break;
            }
        }
        stream.set_nonblocking(true).unwrap();
        let mux = Mux::new(MuxKind::Yamux, Role::Client, MuxConfig::default());
        let mut idler = Self { stream, mux };
        idler.ping();
        idler
    }

    pub(crate) fn ping(&mut self) {
        let mut queue = SendQueue::default();
        self.mux.ping(0, &mut queue);
        self.send(&queue);
    }

    fn send(&mut self, queue: &SendQueue) {
        let bytes: Vec<u8> = queue.pieces().flatten().copied().collect();
        self.stream.write_all(&bytes).unwrap();
    }

    /// Answers what came; true if anything did.
    pub(crate) fn answer(&mut self) -> bool {
        let mut bytes = [0; 256];
        let Ok(count) = self.stream.read(&mut bytes) else { return false };
        assert!(count > 0, "the server gave this client up");
        let (mut input, mut queue) =
            (Slice::from_vec(bytes[..count].to_vec()), SendQueue::default());
        while self.mux.next_event(&mut input, &mut queue).unwrap().is_some() {}
        self.send(&queue);
        true
    }
}

/// Processor time of the relay's thread.
fn cpu_time() -> Duration {
    for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.trim_end() == THREAD {
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap();
            return Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap());
        }
    }
    panic!("no thread of that name");
}

#[test]
fn idle_sessions_cost_next_to_nothing() {
    for kind in drivers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let key = SecretKey::generate().unwrap();
        let server = key.public_key();
        let limits = RelayLimits { ping_interval: PING_INTERVAL, ..RelayLimits::default() };
        let config = RelayConfig { secret_key: key, limits, newcomers: None };
        let (cores, stats) = (Arc::new(Cores::new(1)), Arc::new(Stats::default()));
        let driver = DriverConfig { kind, listeners: vec![listener], ..DriverConfig::new(THREAD) };
        let counted = Arc::clone(&stats);
        let thread = spawn(driver, move |mailbox| {
            cores.register(0, move |command| mailbox.post_release(command));
            Relay::new(config, 0, cores, stats)
        })
        .unwrap();
        let mut idlers: Vec<_> = (0..SESSIONS).map(|_| Idler::connect(address, server)).collect();
        let (begun, before) = (Instant::now(), cpu_time());
        let mut answers = 0;
        while begun.elapsed() < TIME {
            answers += idlers.iter_mut().filter_map(|idler| idler.answer().then_some(())).count();
            std::thread::yield_now();
        }
        let (took, used) = (begun.elapsed(), cpu_time() - before);
        let share = used.as_secs_f64() / took.as_secs_f64();
        println!(
            "{kind:?}: {SESSIONS} sessions, {answers} answers in {took:.1?}: {:.2} % of a core",
            100.0 * share
        );
        assert_eq!(counted.sessions.load(Relaxed), SESSIONS as u64);
        assert!(answers >= 2 * SESSIONS, "the pings did not come: {answers}");
        // 300 sessions pinged each second are as 9,000 pinged each half minute: 9 % of a core by the wish, twice that for a debug build.
        assert!(share < 0.18, "{share}");
        thread.mailbox.post_release(Command::Stop);
        thread.thread.join().unwrap().unwrap();
    }
}
