//! `dmsg-bench discovery`: lookups and registrations of a discovery full of entries, in each of its stores.
//!
//! ```text
//!   CPU "load": this process, and redis-server       CPU "server": one discovery process per store
//!   connections, kept alive ── GET entry/<key> ────▶ memory │ redb │ Redis
//! ```
//!
//! Each answer is compared with the entry that was registered. Registrations are measured while the store is filled, first by one
//! registrant and then by many at once: each with its signature check, and kept before it is answered, without HTTP in front.
//! A fill is never repeated, however slow the machine was meanwhile.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use dmsg_bench::{
    Result,
    cpu::{self, Cpus},
    gate::{self, Gate, Gated},
    party::{self, Party},
    progress,
    report::{OutputArgs, Report, Section, Target},
    stats::percentile,
};
use dmsg_engine::identity::SecretKey;
use dmsg_http::{
    discovery::{
        DiscoveryConfig, DiscoveryService, Entry, UnixNanos, router,
        service::RequestError,
        store::{MemoryStore, RedbStore, RedisStore, Store, StoreLimits},
    },
    http::server::{ServeConfig, ServeStats, serve},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Longest answer that is read: an entry with its head is below 1 KiB.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// The goal of the project, lookups a second.
const LOOKUPS_GOAL: f64 = 10_000.0;

/// Registrations by one registrant before the others join, at most, and the time that they may take.
const ALONE_COUNT: u32 = 2000;
const ALONE_TIME: Duration = Duration::from_secs(2);

const STORES: [&str; 3] = ["memory", "redb", "Redis"];

/// Measures a discovery.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Entries in the store
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    entries: u32,
    /// Connections that ask at once
    #[arg(long, value_name = "N", default_value_t = 64)]
    connections: u32,
    /// Registrants that fill a store at once
    #[arg(long, value_name = "N", default_value_t = 64)]
    registrants: u32,
    /// Repetitions of each measurement
    #[arg(long, value_name = "N", default_value_t = 5)]
    repeats: u32,
    /// Milliseconds of each measurement
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    time_ms: u64,
    /// The Redis to start; without it that store is left out
    #[arg(long, value_name = "PROGRAM", default_value = "redis-server")]
    redis_server: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// A discovery in a process of its own.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PartyArgs {
    /// memory, a file of redb, or a Redis' address
    #[arg(long)]
    store: String,
    #[arg(long)]
    entries: u32,
    #[arg(long)]
    registrants: u32,
    #[arg(long)]
    cpu: usize,
}

/// Runs the whole comparison.
pub(crate) fn run(args: &Args) -> Result<()> {
    let cpus = cpu::choose();
    cpu::pin(&[cpus.load])?;
    let gate = Gate::new(cpus, 5).with_limit(gate::SLOW_NS);
    let fill_gate = Gate::new(cpus, 1).with_limit(gate::SLOW_NS);
    let keys: Vec<String> = (0..args.entries).map(|n| secret(n).public_key().to_string()).collect();
    let keys: Arc<[String]> = keys.into();
    let folder = Folder::new()?;
    let redis = Redis::start(&args.redis_server, &folder.0);
    let mut report = Report::new("discovery", "The discovery: lookups and registrations");
    let mut lanes = Vec::new();
    let mut registrations =
        Section::new("discovery-register", "Registrations", "entries per second", true);
    registrations.method = format!(
        "{} signed entries of clients, each checked, and kept before it is answered; once, while the store fills: the first \
         {ALONE_COUNT} one after the other, then {} registrants at once.",
        args.entries, args.registrants
    );
    for name in STORES {
        let store = match (name, &redis) {
            ("memory", _) => "memory".to_owned(),
            ("redb", _) => folder.0.join("entries").display().to_string(),
            (_, Ok(redis)) => redis.url.clone(),
            (_, Err(error)) => {
                registrations.remarks.push(format!("{name} was not measured: {error}"));
                continue;
            }
        };
        progress(&format!("{name}: registering {} entries", args.entries));
        let filled = fill_gate.measure(|| Lane::start(name, &store, args, cpus))?;
        for (column, value) in ["one", "many"].into_iter().zip(filled.value.registered_per_second) {
            registrations.figure(name, column).push(Gated { value, verdict: filled.verdict });
        }
        lanes.push(filled.value);
    }
    let [mut rate, mut work, mut latency] = lookups(args);
    for round in 0..args.repeats {
        progress(&format!("lookups, round {} of {}", round + 1, args.repeats));
        for lane in &lanes {
            let sample = gate.measure(|| lane.ask(args, &keys))?;
            let Asked { lookups, time, cpu, mut latencies } = sample.value;
            let verdict = sample.verdict;
            let push = |section: &mut Section, column: &str, value: f64| {
                section.figure(lane.name, column).push(Gated { value, verdict });
            };
            push(&mut rate, "all", lookups as f64 / time.as_secs_f64());
            push(&mut work, "all", cpu.as_secs_f64() * 1e6 / lookups as f64);
            latencies.sort_by(f64::total_cmp);
            for (column, p) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
                push(&mut latency, column, percentile(&latencies, p));
            }
        }
    }
    for lane in &lanes {
        let what = format!("lookups a second, {} entries, {}", args.entries, lane.name);
        let value = rate.find(lane.name, "all").map(|figure| figure.median());
        report.targets.push(Target::at_least(&what, LOOKUPS_GOAL, "per second", value));
    }
    report.sections.extend([rate, work, latency, registrations]);
    args.output.finish(&report)
}

fn lookups(args: &Args) -> [Section; 3] {
    let mut sections = [
        Section::new("discovery-lookups", "Lookups", "per second", true),
        Section::new("discovery-cpu", "The discovery's CPU time per lookup", "µs", false),
        Section::new("discovery-latency", "Time of a lookup", "µs", false),
    ];
    for section in &mut sections {
        section.method = format!(
            "{} kept-alive connections ask for random ones of {} entries, the discovery on one CPU, load (and redis-server) \
             on the other; every answer is compared.",
            args.connections, args.entries
        );
    }
    sections
}

struct Lane {
    name: &'static str,
    party: Party,
    address: SocketAddr,
    /// By one registrant, and by many.
    registered_per_second: [f64; 2],
}

struct Asked {
    lookups: u64,
    time: Duration,
    cpu: Duration,
    latencies: Vec<f64>,
}

impl Lane {
    fn start(name: &'static str, store: &str, args: &Args, cpus: Cpus) -> Result<Self> {
        let [entries, registrants, cpu] =
            [args.entries.to_string(), args.registrants.to_string(), cpus.server.to_string()];
        let party = Party::spawn(&[
            "discovery-party",
            "--store",
            store,
            "--entries",
            &entries,
            "--registrants",
            &registrants,
            "--cpu",
            &cpu,
        ])?;
        let address = party.word(0).parse()?;
        let registered_per_second = [party.word(1).parse()?, party.word(2).parse()?];
        Ok(Self { name, party, address, registered_per_second })
    }

    fn ask(&self, args: &Args, keys: &Arc<[String]>) -> Result<Asked> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let before = self.party.cpu_time()?;
        let start = Instant::now();
        let until = start + Duration::from_millis(args.time_ms);
        let latencies = runtime.block_on(async {
            let connections = (0..args.connections)
                .map(|seed| tokio::spawn(connection(self.address, seed, Arc::clone(keys), until)));
            let mut all = Vec::new();
            for connection in connections.collect::<Vec<_>>() {
                all.extend(connection.await??);
            }
            Result::Ok(all)
        })?;
        let cpu = self.party.cpu_time()?.saturating_sub(before);
        Ok(Asked { lookups: latencies.len() as u64, time: start.elapsed(), cpu, latencies })
    }
}

/// Asks one question after the other; the microseconds of each.
async fn connection(
    address: SocketAddr,
    seed: u32,
    keys: Arc<[String]>,
    until: Instant,
) -> Result<Vec<f64>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut random, mut latencies) = (u64::from(seed) + 1, Vec::new());
    let mut answer = Vec::new();
    while Instant::now() < until {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let key = &keys[(random >> 33) as usize % keys.len()];
        let question =
            format!("GET /dmsg-discovery/entry/{key} HTTP/1.1\r\nHost: discovery\r\n\r\n");
        let asked = Instant::now();
        stream.write_all(question.as_bytes()).await?;
        read_answer(&mut stream, &mut answer).await?;
        latencies.push(asked.elapsed().as_secs_f64() * 1e6);
        let text = std::str::from_utf8(&answer)?;
        if !text.starts_with("HTTP/1.1 200 ") || !text.contains(&format!("\"static\":\"{key}\"")) {
            return Err(format!("the answer for {key} is another: {text}").into());
        }
    }
    Ok(latencies)
}

/// One answer with its length in its head, and no byte more.
async fn read_answer(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Result<()> {
    answer.clear();
    loop {
        if stream.read_buf(answer).await? == 0 || answer.len() > ANSWER_MAX_BYTES {
            return Err("the discovery broke off, or its answer has no end".into());
        }
        let Some(head) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&answer[..head])?.to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.ok_or("the answer has no length")?.trim().parse()?;
        if answer.len() >= head + 4 + length {
            return Ok(());
        }
    }
}

fn secret(index: u32) -> SecretKey {
    SecretKey::from_seed(&index.to_le_bytes())
}

/// The child: fills its store, then serves.
pub(crate) fn serve_party(args: &PartyArgs) -> Result<()> {
    // Signing is the clients' work: on any CPU, and not measured.
    let mut cpus = cpu::allowed();
    cpus.push(args.cpu);
    cpu::pin(&cpus)?;
    let texts = signed_entries(args.entries);
    cpu::pin(&[args.cpu])?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let limits = StoreLimits::default();
    let store: Arc<dyn Store> = match args.store.as_str() {
        "memory" => Arc::new(MemoryStore::new(limits)),
        url if url.contains("://") => {
            Arc::new(runtime.block_on(RedisStore::connect(&[url.to_owned()], limits))?)
        }
        file => Arc::new(RedbStore::open(Path::new(file), limits, UnixNanos::system())?),
    };
    let service = DiscoveryService::new(DiscoveryConfig::default(), store);
    let rates = fill(&service, &texts, args.registrants)?;
    drop(texts);
    let _maintenance = runtime.block_on(async { service.spawn_maintenance() });
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let mut config = ServeConfig::default();
    config.connections_per_key_max = config.connections_max;
    let serving = serve(
        listener,
        router(service),
        config,
        Arc::<ServeStats>::default(),
        std::future::pending(),
    );
    runtime.spawn(serving);
    party::ready(&format!("{address} {} {}", rates[0], rates[1]))?;
    party::until_orphaned();
    Ok(())
}

/// Signed entries of clients with two servers, made by two threads.
fn signed_entries(count: u32) -> Vec<String> {
    let delegated = vec![secret(u32::MAX).public_key(), secret(u32::MAX - 1).public_key()];
    let one = |index: u32| {
        let key = secret(index);
        let mut entry = Entry::client(key.public_key(), delegated.clone());
        entry.timestamp = UnixNanos::system().0;
        entry.sign(&key);
        entry.to_text()
    };
    let half = count / 2;
    std::thread::scope(|scope| {
        let second = scope.spawn(|| (half..count).map(one).collect::<Vec<_>>());
        let mut texts: Vec<_> = (0..half).map(one).collect();
        texts.extend(second.join().expect("signing does not panic"));
        texts
    })
}

/// Registers all entries; how many a second one registrant did, and then many at once. Says on stderr how far it is.
fn fill(service: &DiscoveryService, texts: &[String], registrants: u32) -> Result<[f64; 2]> {
    let start = Instant::now();
    let alone = texts.len().min(ALONE_COUNT as usize);
    let mut next = 0;
    while next < alone && start.elapsed() < ALONE_TIME {
        service.register(texts[next].as_bytes(), false)?;
        next += 1;
    }
    let alone = next as f64 / start.elapsed().as_secs_f64();
    let (start, rest) = (Instant::now(), &texts[next..]);
    let next = AtomicU32::new(0);
    let register = || -> std::result::Result<(), RequestError> {
        let step = (rest.len() / 10).max(1);
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed) as usize;
            let Some(text) = rest.get(index) else { return Ok(()) };
            service.register(text.as_bytes(), false)?;
            if index > 0 && index.is_multiple_of(step) {
                progress(&format!("  {index} of {} entries, {:.1?}", rest.len(), start.elapsed()));
            }
        }
    };
    std::thread::scope(|scope| {
        let registrants: Vec<_> = (0..registrants).map(|_| scope.spawn(register)).collect();
        registrants.into_iter().try_for_each(|one| one.join().expect("registering does not panic"))
    })?;
    let many =
        if rest.is_empty() { alone } else { rest.len() as f64 / start.elapsed().as_secs_f64() };
    Ok([alone, many])
}

/// A `redis-server` of our own on a Unix socket; it shares the load's CPU, which it inherits.
struct Redis {
    child: Child,
    url: String,
}

impl Redis {
    fn start(program: &Path, folder: &Path) -> io::Result<Self> {
        let socket = folder.join("redis");
        let child = Command::new(program)
            .args(["--port", "0", "--save", "", "--dir"])
            .arg(folder)
            .arg("--unixsocket")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let redis = Self { child, url: format!("redis+unix://{}", socket.display()) };
        let limit = Instant::now() + Duration::from_secs(10);
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            if Instant::now() > limit {
                return Err(io::Error::other("redis-server does not listen"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(redis)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder of this run, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("dmsg-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
