//! `dmsg-bench leak`: a program that keeps response bodies and neither reads nor drops them, beside tasks that go on making
//! requests with the same HTTP client to the same service.
//!
//! ```text
//!   warm-up  1 s, in which each task opens its stream; does not count
//!   quiet    64 tasks request, one body each, read to its end                 p50, p99
//!   storm    the same, while LEAKERS keep BODIES responses unread             p50, p99, ports over time, memory
//!   after    everything is dropped                                            pools must be at zero
//! ```
//!
//! Relay, service and caller run in this process, so its memory is that of all three. With `--no-reclaim` nothing is taken
//! back, as in clients that know no such thing: the tasks fail when the pool is full, and the run ends there.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use axum::body::Body;
use dmsg_bench::{
    Result, cpu, progress,
    report::{Curve, Curves, OutputArgs, Report, Section, Target},
    stats::percentile,
};
use dmsg_engine::client::Client;
use dmsg_http::{
    http::{
        HttpClient, HttpConfig, Request,
        server::{ServeConfig, serve},
    },
    url::{DEFAULT_PORT, DmsgUrl},
};
use http_body_util::{BodyExt, Full};
use tokio::task::JoinSet;

use crate::network::Network;

/// How often ports and memory are looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);

/// How long the pools may take to come to zero: a linger, and a little.
const AFTER_MAX: Duration = Duration::from_secs(20);

/// How long the honest tasks run before what they see counts: until each has its stream.
const WARM_UP: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Response bodies to keep unread
    #[arg(long, default_value_t = 200_000)]
    bodies: usize,
    /// Bytes of every body; above 64 KiB none is read ahead into memory, above 256 KiB it does not fit into a stream's window
    #[arg(long, default_value_t = 4096)]
    body_bytes: usize,
    /// Send the bodies chunked, as services do that do not say how long their answers are
    #[arg(long)]
    chunked: bool,
    /// Tasks that make requests meanwhile
    #[arg(long, default_value_t = 64)]
    tasks: usize,
    /// Tasks that leak
    #[arg(long, default_value_t = 8)]
    leakers: usize,
    /// Pause of each task between two requests, milliseconds
    #[arg(long, default_value_t = 100)]
    pause_ms: u64,
    /// Seconds of the quiet part
    #[arg(long, default_value_t = 5)]
    quiet_seconds: u64,
    /// Streams of the HTTP client
    #[arg(long, default_value_t = 1024)]
    streams_max: usize,
    /// Take no stream back, to see what happens then
    #[arg(long)]
    no_reclaim: bool,
    /// MiB of short bodies to read ahead into memory; 0: none, as if all were long
    #[arg(long, default_value_t = HttpConfig::default().unread_buffer_max_bytes >> 20)]
    read_ahead_mib: usize,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let _ = cpu::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(storm(args))?;
    args.output.finish(&report)
}

/// The service's answers, all alike.
fn serve_bodies(network: &Network, args: &Args) -> Result<()> {
    let listener = network.service.listen(DEFAULT_PORT)?;
    let (bytes, chunked) = (bytes::Bytes::from(vec![7; args.body_bytes]), args.chunked);
    let answer = tower::service_fn(move |_| {
        let body = Full::new(bytes.clone());
        // What may have trailers has no length.
        let body =
            if chunked { Body::new(body.with_trailers(async { None })) } else { Body::new(body) };
        async { Ok::<_, Infallible>(http::Response::new(body)) }
    });
    let config = ServeConfig::default();
    tokio::spawn(serve(listener, answer, config, Arc::default(), std::future::pending()));
    Ok(())
}

/// What the honest tasks saw.
#[derive(Default)]
struct Seen {
    ms: Mutex<Vec<f64>>,
    failed: AtomicU64,
    first_error: Mutex<Option<String>>,
}

impl Seen {
    fn sorted(&self) -> Vec<f64> {
        let mut ms = self.ms.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ms.sort_by(f64::total_cmp);
        ms
    }
}

/// Requests until told to stop, one at a time, each body read to its end.
async fn request_on(
    client: HttpClient<Client>,
    url: DmsgUrl,
    pause: Duration,
    stop: Arc<AtomicBool>,
    seen: Arc<Seen>,
) {
    while !stop.load(Relaxed) {
        let begun = Instant::now();
        let whole = async {
            let response = client.send(Request::get(url.clone())).await?;
            response.into_body().read_to_end(u64::MAX).await
        };
        match whole.await {
            Ok(_) => {
                let ms = begun.elapsed().as_secs_f64() * 1e3;
                seen.ms.lock().unwrap_or_else(PoisonError::into_inner).push(ms);
            }
            Err(error) => {
                seen.failed.fetch_add(1, Relaxed);
                let mut first = seen.first_error.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert_with(|| error.to_string());
            }
        }
        tokio::time::sleep(pause).await;
    }
}

struct Load {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    seen: Arc<Seen>,
}

impl Load {
    fn start(client: &HttpClient<Client>, url: &DmsgUrl, args: &Args) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
        let mut tasks = JoinSet::new();
        for _ in 0..args.tasks {
            let pause = Duration::from_millis(args.pause_ms);
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            tasks.spawn(request_on(client.clone(), url.clone(), pause, stop, seen));
        }
        Self { tasks, stop, seen }
    }

    /// What was seen so far does not count.
    fn forget(&self) {
        self.seen.ms.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn end(mut self) -> Arc<Seen> {
        self.stop.store(true, Relaxed);
        while self.tasks.join_next().await.is_some() {}
        self.seen
    }
}

async fn storm(args: &Args) -> Result<Report> {
    let network = Network::start("leak", !args.no_reclaim).await?;
    serve_bodies(&network, args)?;
    let url = network.url(DEFAULT_PORT, "/")?;
    let mut config = HttpConfig::default();
    config.streams_max = args.streams_max;
    config.unread_buffer_max_bytes = args.read_ahead_mib << 20;
    if args.no_reclaim {
        config.unread_buffer_max_bytes = 0;
        config.unread_min_age = None;
        config.abandoned_timeout = Duration::from_secs(1 << 20);
    }
    let client = HttpClient::with_config(network.caller.clone(), config);

    progress(&format!("{} tasks make requests, nobody leaks", args.tasks));
    let load = Load::start(&client, &url, args);
    tokio::time::sleep(WARM_UP).await;
    load.forget();
    tokio::time::sleep(Duration::from_secs(args.quiet_seconds)).await;
    let quiet = load.end().await;
    let quiet_ms = quiet.sorted();
    let before = memory_mib();

    progress(&format!("{} bodies are kept unread meanwhile", args.bodies));
    let load = Load::start(&client, &url, args);
    let kept = Arc::new(Mutex::new(Vec::with_capacity(args.bodies)));
    let (left, leak_failed) =
        (Arc::new(AtomicUsize::new(args.bodies)), Arc::new(AtomicU64::new(0)));
    let mut leakers = JoinSet::new();
    for _ in 0..args.leakers {
        let (client, url, kept) = (client.clone(), url.clone(), Arc::clone(&kept));
        let (left, failed) = (Arc::clone(&left), Arc::clone(&leak_failed));
        leakers.spawn(async move {
            while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                match client.send(Request::get(url.clone())).await {
                    Ok(response) => {
                        kept.lock().unwrap_or_else(PoisonError::into_inner).push(response);
                    }
                    Err(_) => drop(failed.fetch_add(1, Relaxed)),
                }
            }
        });
    }
    let begun = Instant::now();
    let (mut ports, mut memory) = (Vec::new(), Vec::new());
    let mut told = Instant::now();
    while !leakers.is_empty() {
        let _ = tokio::time::timeout(SAMPLE_INTERVAL, leakers.join_next()).await;
        let at = begun.elapsed().as_secs_f64();
        ports.push((at, network.caller.ports_in_use() as f64));
        memory.push((at, memory_mib()));
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            progress(&format!(
                "{} bodies to go, {} ports, {:.0} MiB, {} requests failed",
                left.load(Relaxed),
                network.caller.ports_in_use(),
                memory_mib(),
                load.seen.failed.load(Relaxed)
            ));
        }
        if args.no_reclaim && load.seen.failed.load(Relaxed) >= args.tasks as u64 {
            leakers.shutdown().await;
        }
    }
    let lasted = begun.elapsed();
    let seen = load.end().await;
    let storm_ms = seen.sorted();
    let held = std::mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner));
    let (leaked, counts) = (held.len(), network.caller.stats());
    let (held_mib, buffer_bytes) = (memory_mib(), client.unread_buffer_bytes());
    let buffer_mib = buffer_bytes as f64 / 1048576.0;

    progress("everything is dropped");
    drop(held);
    let dropped = Instant::now();
    let is_zero = || {
        let stats = network.caller.stats();
        (stats.streams, stats.ports_used) == (0, 0) && client.stream_counts() == (0, 0)
    };
    while !is_zero() && dropped.elapsed() < AFTER_MAX {
        // Short rests are drained first, and their streams kept for the next request, which will not come.
        client.close_idle();
        tokio::time::sleep(Duration::from_millis(20)).await;
        ports.push((begun.elapsed().as_secs_f64(), network.caller.ports_in_use() as f64));
    }
    let left_over = network.caller.stats().ports_used + network.caller.stats().streams;

    let mut report = Report::new("leak", "Leak storm");
    let mut latency = Section::new("leak-latency", "Requests beside the leak", "ms", false);
    latency.method = format!(
        "{} tasks, one request of {} bytes each per {} ms, one HTTP client with {} streams, relay and service in \
         the same process; storm: {leaked} bodies kept unread in {:.0} s by {} more tasks of the same client",
        args.tasks,
        args.body_bytes,
        args.pause_ms,
        args.streams_max,
        lasted.as_secs_f64(),
        args.leakers,
    );
    for (row, ms) in [("quiet", &quiet_ms), ("storm", &storm_ms)] {
        for (column, p) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            latency.put(row, column, percentile(ms, p));
        }
    }
    if let Some(error) = seen.first_error.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let ended = network.relay.stats().refused;
        latency
            .remarks
            .push(format!("the first failure: {error}; streams that the relay ended: {ended:?}"));
    }
    let mut counted = Section::new("leak-counts", "What was counted", "", false);
    for (row, value) in [
        ("requests answered, quiet", quiet_ms.len() as f64),
        ("requests answered, storm", storm_ms.len() as f64),
        ("requests failed, quiet", quiet.failed.load(Relaxed) as f64),
        ("requests failed, storm", seen.failed.load(Relaxed) as f64),
        ("bodies kept", leaked as f64),
        ("leaking requests failed", leak_failed.load(Relaxed) as f64),
        ("streams at most", counts.streams_peak as f64),
        ("MiB before", before),
        ("MiB with all bodies kept", held_mib),
        ("MiB of these read ahead", buffer_mib),
        ("MiB after", memory_mib()),
        ("ports and streams left", left_over as f64),
    ] {
        counted.put(row, "value", value);
    }
    report.targets = vec![
        Target::at_most("requests failed", 0.0, "", Some(seen.failed.load(Relaxed) as f64)),
        Target::at_most(
            "p99 in the storm over the quiet p99",
            5.0,
            "×",
            Some(percentile(&storm_ms, 0.99) / percentile(&quiet_ms, 0.99)),
        ),
        // Its head, and a word on why its stream is gone.
        Target::at_most(
            "memory of a kept body, beside what was read ahead",
            1.5,
            "KiB",
            Some((held_mib - before - buffer_mib) * 1024.0 / leaked as f64),
        ),
        Target::at_most("ports and streams left", 0.0, "", Some(left_over as f64)),
    ];
    report.sections = vec![
        latency,
        counted,
        curve("leak-ports", "Ports in use over time", "ports", ports),
        curve("leak-memory", "Memory of the whole process over time", "MiB", memory),
    ];
    network.close().await;
    Ok(report)
}

fn curve(id: &str, title: &str, unit: &str, points: Vec<(f64, f64)>) -> Section {
    let mut section = Section::new(id, title, unit, false);
    let curves = vec![Curve { name: unit.to_owned(), points }];
    section.curves = Some(Curves { x_axis: "s".to_owned(), curves });
    section
}

fn memory_mib() -> f64 {
    cpu::anonymous_bytes(std::process::id()).map_or(f64::NAN, |bytes| bytes as f64 / 1048576.0)
}
