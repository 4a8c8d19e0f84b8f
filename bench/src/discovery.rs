//! `dmsg-bench discovery`: lookups and registrations of a discovery full of entries, in each of its stores.
//!
//! ```text
//!   CPU "load": this process, and redis-server       CPU "server": one discovery process per store
//!   connections, kept alive ── GET entry/<key> ────▶ memory │ redb │ Redis
//! ```
//!
//! Each answer is compared with the entry that was registered. Registrations are measured while the store is filled: each with
//! its signature check, without HTTP in front.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
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
    cpu: usize,
}

/// Runs the whole comparison.
pub(crate) fn run(args: &Args) -> Result<()> {
    let cpus = cpu::choose();
    cpu::pin(&[cpus.load])?;
    let gate = Gate::new(cpus, 5).with_limit(gate::SLOW_NS);
    let folder = Folder::new()?;
    let redis = Redis::start(&args.redis_server, &folder.0);
    let mut report = Report::new("discovery", "The discovery: lookups and registrations");
    let mut lanes = Vec::new();
    let mut registrations =
        Section::new("discovery-register", "Registrations", "entries per second", true);
    registrations.method = format!(
        "{} signed entries of clients, one after the other, each checked and stored; once, while the store fills.",
        args.entries
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
        let filled = gate.measure(|| Lane::start(name, &store, args.entries, cpus))?;
        let rate = filled.value.registered_per_second;
        registrations
            .figure(name, "one writer")
            .push(Gated { value: rate, verdict: filled.verdict });
        lanes.push(filled.value);
    }
    let [mut rate, mut work, mut latency] = lookups(args);
    for round in 0..args.repeats {
        progress(&format!("lookups, round {} of {}", round + 1, args.repeats));
        for lane in &lanes {
            let sample = gate.measure(|| lane.ask(args))?;
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
    registered_per_second: f64,
}

struct Asked {
    lookups: u64,
    time: Duration,
    cpu: Duration,
    latencies: Vec<f64>,
}

impl Lane {
    fn start(name: &'static str, store: &str, entries: u32, cpus: Cpus) -> Result<Self> {
        let (entries, cpu) = (entries.to_string(), cpus.server.to_string());
        let arguments = ["discovery-party", "--store", store, "--entries", &entries, "--cpu", &cpu];
        let party = Party::spawn(&arguments)?;
        let address = party.word(0).parse()?;
        let registered_per_second = party.word(1).parse()?;
        Ok(Self { name, party, address, registered_per_second })
    }

    fn ask(&self, args: &Args) -> Result<Asked> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let before = self.party.cpu_time()?;
        let start = Instant::now();
        let until = start + Duration::from_millis(args.time_ms);
        let latencies = runtime.block_on(async {
            let connections = (0..args.connections)
                .map(|seed| tokio::spawn(connection(self.address, seed, args.entries, until)));
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
    entries: u32,
    until: Instant,
) -> Result<Vec<f64>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut random, mut latencies) = (u64::from(seed) + 1, Vec::new());
    let mut answer = Vec::new();
    while Instant::now() < until {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let key = secret((random >> 33) as u32 % entries).public_key();
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
    // Signing is the clients' work.
    let delegated = vec![secret(u32::MAX).public_key(), secret(u32::MAX - 1).public_key()];
    let texts: Vec<String> = (0..args.entries)
        .map(|index| {
            let key = secret(index);
            let mut entry = Entry::client(key.public_key(), delegated.clone());
            entry.timestamp = UnixNanos::system().0;
            entry.sign(&key);
            entry.to_text()
        })
        .collect();
    let start = Instant::now();
    for text in &texts {
        service.register(text.as_bytes(), false)?;
    }
    let rate = f64::from(args.entries) / start.elapsed().as_secs_f64();
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
    party::ready(&format!("{address} {rate}"))?;
    party::until_orphaned();
    Ok(())
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
