//! `dmsg-bench dead-service`: what the caller of a dead service costs those who call a living one from the same process.
//!
//! ```text
//!   honest    TASKS, each with a request per PAUSE, to the living service       all the time
//!   hammer    64 tasks, as fast as they are answered, to the dead one           begin nothing in every other slice
//!
//!   slices    ── off ── on ── on ── off ── off ── on ──▶      in pairs of random order, a ratio for each pair
//! ```
//!
//! Relay, services and callers run in this process and share its CPUs; the honest tasks are paced so that most of these are
//! free, since what a hammer must not do is to use up what others need. Two ways to call are measured: one
//! [`HttpClient`] that both services' callers share, and a [`ServiceAccess`] for each of them, as programs have. Each is
//! measured against every kind of dead service ([`Death`]).

mod world;

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use dmsg_bench::{
    Result, cpu, progress,
    report::{OutputArgs, Report, Section, Target},
    stats::percentile,
};
use dmsg_engine::client::Client;
use dmsg_http::{
    access::{AccessConfig, AccessPolicy, Paths, Readiness, ServiceAccess},
    http::{DmsgTransport, HttpClient, HttpConfig},
    service::{Endpoints, ServiceKind},
    transport::{Limits, TcpTransport},
    url::DmsgUrl,
};
use tokio::{sync::watch, task::JoinSet, time::sleep};

use self::world::{BODY_BYTES, Death, World};

/// What one request may use.
const LIMITS: Limits = Limits { timeout: Duration::from_secs(2), body_max_bytes: BODY_BYTES };

/// After a slice, before the next one, once what the hammer began is over.
const BETWEEN: Duration = Duration::from_millis(50);

/// What is not counted of a kind: the honest tasks open their streams.
const WARM_UP: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds of each slice
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Pairs of slices, with and without the hammer, for each kind of dead service
    #[arg(long, default_value_t = 8)]
    rounds: usize,
    /// Honest tasks
    #[arg(long, default_value_t = 32)]
    tasks: usize,
    /// Pause of each honest task between two requests, milliseconds, half of it at random
    #[arg(long, default_value_t = 20)]
    pause_ms: u64,
    /// Tasks that hammer
    #[arg(long, default_value_t = 64)]
    hammers: usize,
    /// Only these ways to call
    #[arg(long, value_enum)]
    way: Vec<Way>,
    /// Only these kinds of dead service
    #[arg(long, value_enum)]
    kind: Vec<Death>,
    #[command(flatten)]
    output: OutputArgs,
}

/// How both services are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Way {
    /// An access object with its own HTTP client for each.
    Access,
    /// One HTTP client for both.
    Http,
}

impl Way {
    fn title(self) -> &'static str {
        match self {
            Self::Access => "an access object each",
            Self::Http => "one HTTP client for both",
        }
    }

    fn id(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Http => "http",
        }
    }
}

/// Who calls one service.
#[derive(Clone)]
enum Caller {
    Access(ServiceAccess),
    Http(HttpClient<Client>, DmsgUrl),
}

impl Caller {
    /// Whether a whole answer came.
    async fn ask(&self) -> bool {
        match self {
            Self::Access(access) => {
                let request = http::Request::get("/").body(Bytes::new());
                let Ok(request) = request else { return false };
                access.send(request, LIMITS).await.is_ok()
            }
            Self::Http(client, url) => {
                let answer = client.get(url.clone()).timeout(LIMITS.timeout).send().await;
                let Ok(answer) = answer else { return false };
                answer.bytes().await.is_ok()
            }
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut report = Report::new("dead-service", "A dead service that is hammered, and another");
    for way in [Way::Access, Way::Http] {
        if args.way.is_empty() || args.way.contains(&way) {
            runtime.block_on(measure(args, way, &mut report))?;
        }
    }
    args.output.finish(&report)
}

/// The living and the dead service's callers.
fn callers(
    world: &World,
    way: Way,
    death: Death,
    ready: &watch::Receiver<Readiness>,
) -> Result<[Caller; 2]> {
    let urls = [world.living()?, world.dead(death)?];
    let shared = HttpClient::new(world.caller.clone());
    Ok(match way {
        Way::Http => urls.map(|url| Caller::Http(shared.clone(), url)),
        Way::Access => urls.map(|url| {
            let client = HttpClient::with_config(world.caller.clone(), HttpConfig::default());
            let paths = Paths {
                dmsg: Arc::new(DmsgTransport::over(client)),
                readiness: ready.clone(),
                http: Arc::new(TcpTransport::new()),
            };
            let endpoints = Endpoints { dmsg: Some(url), http: None };
            let config = AccessConfig::with_policy(AccessPolicy::DmsgOnly);
            let kind = ServiceKind::TransportDiscovery;
            Caller::Access(ServiceAccess::new(kind, &endpoints, paths, config, Arc::default()))
        }),
    })
}

/// What the tasks of one kind count.
#[derive(Default)]
struct Seen {
    /// Of the honest requests, since it was last taken.
    ms: Mutex<Vec<f64>>,
    failed: AtomicU64,
    attempts: AtomicU64,
    under_way: AtomicU64,
    is_over: AtomicBool,
}

/// One slice.
struct Slice {
    p50: f64,
    p99: f64,
    mean: f64,
    per_second: f64,
    attempts_per_second: f64,
    /// Of all CPUs that the process may use, 0 to 100.
    busy_percent: f64,
}

async fn measure(args: &Args, way: Way, report: &mut Report) -> Result<()> {
    let id = |what: &str| format!("dead-service-{}-{what}", way.id());
    let title = |what: &str| format!("{what}, {}", way.title());
    let mut latency = Section::new(&id("latency"), &title("Honest requests"), "ms", false);
    let mut ratios = Section::new(&id("ratio"), &title("Beside the hammer / without"), "×", false);
    let mut load = Section::new(&id("load"), &title("What was done"), "", false);
    latency.method = format!(
        "{} tasks ask the living service for {BODY_BYTES} bytes each {} to {} ms; {} pairs of slices of {} s, with and without \
         {} tasks that ask a dead service as fast as they are answered, or for 2 s; relay, services and callers in one process",
        args.tasks,
        args.pause_ms / 2,
        args.pause_ms,
        args.rounds,
        args.seconds,
        args.hammers,
    );
    ratios.method = "of the two slices of each pair".to_owned();
    load.method =
        "busy: part of the CPU time that this machine has, all parties together".to_owned();
    let mut failed = 0;
    for death in Death::ALL {
        if !args.kind.is_empty() && !args.kind.contains(&death) {
            continue;
        }
        progress(&format!("{}: {}", way.id(), death.name()));
        let world = World::start().await?;
        let ready = watch::Sender::new(Readiness::Ready { sessions: 1 });
        let [living, dead] = callers(&world, way, death, &ready.subscribe())?;
        let seen = Arc::<Seen>::default();
        let mut honest = JoinSet::new();
        let hammers = Hammers::start(args.hammers, &dead, &seen);
        for task in 0..args.tasks {
            honest.spawn(ask_now_and_then(living.clone(), args.pause_ms, task, Arc::clone(&seen)));
        }
        sleep(WARM_UP).await;
        for round in 0..args.rounds {
            let mut pair = [None, None];
            let first = usize::from(RandomState::new().hash_one(round) & 1 == 0);
            for on in [first, 1 - first] {
                pair[on] = Some(slice(args, &seen, &hammers, on == 1).await?);
            }
            let [Some(off), Some(on)] = pair else { continue };
            for (row, slice) in [("quiet", &off), ("hammer", &on)] {
                let row = format!("{}, {row}", death.name());
                latency.put(&row, "p50", slice.p50);
                latency.put(&row, "mean", slice.mean);
                latency.put(&row, "p99", slice.p99);
                load.put(&row, "honest requests/s", slice.per_second);
                load.put(&row, "hammer's attempts/s", slice.attempts_per_second);
                load.put(&row, "busy %", slice.busy_percent);
            }
            ratios.put(death.name(), "p50", on.p50 / off.p50);
            ratios.put(death.name(), "mean", on.mean / off.mean);
            ratios.put(death.name(), "p99", on.p99 / off.p99);
        }
        seen.is_over.store(true, Relaxed);
        while honest.join_next().await.is_some() {}
        failed += seen.failed.load(Relaxed);
        for column in ["p50", "mean"] {
            let ratio = ratios.find(death.name(), column).map(|figure| figure.median());
            let what = format!("{}: {}, {column}", way.title(), death.name());
            report.targets.push(Target::at_most(&what, 1.1, "×", ratio));
        }
        drop((hammers, living, dead));
        world.close().await;
    }
    let what = format!("{}: honest requests failed", way.title());
    report.targets.push(Target::at_most(&what, 0.0, "", Some(failed as f64)));
    report.sections.extend([ratios, latency, load]);
    Ok(())
}

async fn ask_now_and_then(caller: Caller, pause_ms: u64, task: usize, seen: Arc<Seen>) {
    let random = RandomState::new();
    let mut turn = 0_u64;
    while !seen.is_over.load(Relaxed) {
        // Tasks that go in step would be a crowd of their own.
        turn += 1;
        let share = random.hash_one((task, turn)) % 1024;
        sleep(Duration::from_micros(pause_ms * 1000 / 2 * (1024 + share) / 1024)).await;
        let begun = Instant::now();
        if caller.ask().await {
            let ms = begun.elapsed().as_secs_f64() * 1e3;
            seen.ms.lock().unwrap_or_else(PoisonError::into_inner).push(ms);
        } else {
            seen.failed.fetch_add(1, Relaxed);
        }
    }
}

/// Tasks that hammer as long as they are told to, and are waited for then.
struct Hammers {
    strike: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Hammers {
    fn start(count: usize, dead: &Caller, seen: &Arc<Seen>) -> Self {
        let (strike, mut tasks) = (watch::Sender::new(false), JoinSet::new());
        for _ in 0..count {
            let (caller, seen, mut strikes) = (dead.clone(), Arc::clone(seen), strike.subscribe());
            tasks.spawn(async move {
                while strikes.wait_for(|strike| *strike).await.is_ok() {
                    seen.under_way.fetch_add(1, Relaxed);
                    let _ = caller.ask().await;
                    seen.attempts.fetch_add(1, Relaxed);
                    seen.under_way.fetch_sub(1, Relaxed);
                }
            });
        }
        Self { strike, _tasks: tasks }
    }
}

async fn slice(args: &Args, seen: &Seen, hammers: &Hammers, strikes: bool) -> Result<Slice> {
    let take = || std::mem::take(&mut *seen.ms.lock().unwrap_or_else(PoisonError::into_inner));
    take();
    seen.attempts.store(0, Relaxed);
    let (begun, cpu_before) = (Instant::now(), cpu::process_time(std::process::id())?);
    hammers.strike.send_replace(strikes);
    sleep(Duration::from_secs_f64(args.seconds)).await;
    hammers.strike.send_replace(false);
    let (mut ms, attempts) = (take(), seen.attempts.load(Relaxed));
    let (lasted, cpu_after) = (begun.elapsed(), cpu::process_time(std::process::id())?);
    while seen.under_way.load(Relaxed) > 0 {
        sleep(BETWEEN).await;
    }
    sleep(BETWEEN).await;
    ms.sort_by(f64::total_cmp);
    let seconds = lasted.as_secs_f64();
    let busy = (cpu_after - cpu_before).as_secs_f64() / seconds / cpu::allowed().len() as f64;
    Ok(Slice {
        p50: percentile(&ms, 0.5),
        p99: percentile(&ms, 0.99),
        mean: ms.iter().sum::<f64>() / ms.len().max(1) as f64,
        per_second: ms.len() as f64 / seconds,
        attempts_per_second: attempts as f64 / seconds,
        busy_percent: 100.0 * busy,
    })
}
