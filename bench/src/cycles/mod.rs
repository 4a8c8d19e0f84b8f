//! `dmsg-bench cycles`: everything that can be opened is opened and given up at every point where it waits, over and over;
//! then nothing may be left.
//!
//! ```text
//!   for k in 0, 1, 2, …      poll the operation k times, then drop it      (cut.rs)
//!   until it completes       then k starts over at 0
//! ```
//!
//! Every other task polls without being woken, with k growing by a quarter, and so gives up between the points too.
//!
//! What can be given up: a dial, a request, the reading of a response, the sending of a body, an upgrade, a shut-down, a
//! server with a request on it (operations.rs). Tasks do so side by side on one client, and each cycle opens and drops one
//! stream at least, or would have.

mod cut;
mod operations;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use dmsg_bench::{
    Result, cpu, progress,
    report::{OutputArgs, Report, Section, Target},
};
use tokio::task::JoinSet;

use self::operations::{OPERATIONS, Parties};
use crate::network::{Network, until};

/// How long the pools may take to come to zero: the engine's linger of 10 s, and a little.
const AFTER_MAX: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Cycles of opening and dropping
    #[arg(long, default_value_t = 200_000)]
    cycles: usize,
    /// Tasks that do them side by side
    #[arg(long, default_value_t = 16)]
    tasks: usize,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(cycles(args))?;
    args.output.finish(&report)?;
    if report.targets.iter().all(|target| target.met == Some(true)) {
        Ok(())
    } else {
        Err("something was left behind, or failed by itself: see the targets".into())
    }
}

/// What the cycles of one operation came to.
#[derive(Default)]
struct Tally {
    cut: AtomicUsize,
    completed: AtomicUsize,
    failed: AtomicUsize,
    /// The most polls after which it was still not complete.
    polls_most: AtomicUsize,
}

async fn cycles(args: &Args) -> Result<Report> {
    let network = Network::start("cycles", true).await?;
    let parties = Arc::new(Parties::start(&network)?);
    // Whatever is opened once and kept is open before the count.
    for operation in &OPERATIONS {
        (operation.run)(&parties, 0).await?;
    }
    parties.client.close_idle();
    let before = Held::now(&network, &parties);
    let (left, tallies) = (Arc::new(AtomicUsize::new(args.cycles)), Arc::new(tallies()));
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for task in 0..args.tasks {
        tasks.spawn(cycle(task, Arc::clone(&parties), Arc::clone(&left), Arc::clone(&tallies)));
    }
    let mut told = Instant::now();
    while !tasks.is_empty() {
        let joined = tokio::time::timeout(Duration::from_millis(250), tasks.join_next()).await;
        if let Ok(Some(done)) = joined {
            done?;
        }
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            progress(&format!(
                "{} cycles to go, {:?}",
                left.load(Relaxed),
                Held::now(&network, &parties)
            ));
        }
    }
    let lasted = begun.elapsed();
    let settled = until(AFTER_MAX, || {
        parties.client.close_idle();
        Held::now(&network, &parties).is_within(&before)
    });
    let settled = settled.await;
    let after = Held::now(&network, &parties);
    let mut report = report(args, lasted, settled, &before, &after, &tallies);
    for (who, ends) in [
        ("caller's", network.caller.stats().sessions_ended),
        ("service's", network.service.stats().sessions_ended),
    ] {
        if !ends.is_empty() {
            let why = network.relay.stats().closed;
            report.sections[0]
                .remarks
                .push(format!("{who} sessions ended: {ends:?}; relay: {why:?}"));
        }
    }
    drop(parties);
    network.close().await;
    Ok(report)
}

fn tallies() -> Vec<Tally> {
    OPERATIONS.iter().map(|_| Tally::default()).collect()
}

async fn cycle(
    task: usize,
    parties: Arc<Parties>,
    left: Arc<AtomicUsize>,
    tallies: Arc<Vec<Tally>>,
) {
    // Each task begins with another operation, so that all kinds are under way at once.
    for index in (0..OPERATIONS.len()).cycle().skip(task) {
        let (operation, tally) = (&OPERATIONS[index], &tallies[index]);
        let is_eager = task % 2 == 1;
        let mut polls = 0;
        loop {
            if left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err() {
                return;
            }
            match cut::after(polls, is_eager, (operation.run)(&parties, task)).await {
                None => {
                    tally.cut.fetch_add(1, Relaxed);
                    tally.polls_most.fetch_max(polls, Relaxed);
                    // An eager one is polled by the thousand.
                    polls += if is_eager { 1 + polls / 4 } else { 1 };
                }
                Some(Ok(())) => {
                    tally.completed.fetch_add(1, Relaxed);
                    break;
                }
                Some(Err(error)) => {
                    if tally.failed.fetch_add(1, Relaxed) == 0 {
                        progress(&format!("{} failed at {polls} polls: {error}", operation.name));
                    }
                    break;
                }
            }
        }
    }
}

/// What is held at one moment.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// Of both clients.
    streams: usize,
    ports: usize,
    /// In their sessions, those included whose handle is gone.
    in_sessions: usize,
    in_relay: usize,
    pooled: usize,
    descriptors: usize,
    mib: f64,
}

impl Held {
    fn now(network: &Network, parties: &Parties) -> Self {
        let clients = [&network.caller, &network.service];
        let sum = |count: &dyn Fn(&dmsg_engine::client::Client) -> usize| {
            clients.iter().map(|client| count(client)).sum()
        };
        let (idle, in_use) = parties.client.stream_counts();
        Self {
            streams: sum(&|client| client.stats().streams),
            ports: sum(&|client| client.stats().ports_used),
            in_sessions: sum(&|client| client.sessions().iter().map(|s| s.streams).sum()),
            in_relay: usize::try_from(network.relay.stats().streams).unwrap_or(usize::MAX),
            pooled: idle + in_use,
            descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            mib: cpu::anonymous_bytes(std::process::id())
                .map_or(f64::NAN, |bytes| bytes as f64 / 1048576.0),
        }
    }

    /// Nothing but what there was before: the listeners' ports.
    fn is_within(&self, before: &Self) -> bool {
        (self.streams, self.in_sessions, self.in_relay, self.pooled) == (0, 0, 0, 0)
            && self.ports == before.ports
            && self.descriptors <= before.descriptors
    }
}

fn report(
    args: &Args,
    lasted: Duration,
    settled: Option<Duration>,
    before: &Held,
    after: &Held,
    tallies: &[Tally],
) -> Report {
    let mut report = Report::new("cycles", "Opened and given up at every point");
    let mut by_operation = Section::new("cycles-operations", "What was given up", "cycles", false);
    by_operation.method = format!(
        "{} cycles in {:.0} s by {} tasks of one client, relay and service in the same process; each operation is dropped \
         after 0, 1, 2, … polls until it completes, then from 0 again; every other task polls without being woken, k growing by \
         a quarter",
        args.cycles,
        lasted.as_secs_f64(),
        args.tasks
    );
    for (operation, tally) in OPERATIONS.iter().zip(tallies) {
        for (column, value) in [
            ("given up", &tally.cut),
            ("completed", &tally.completed),
            ("failed by itself", &tally.failed),
            ("most polls", &tally.polls_most),
        ] {
            by_operation.put(operation.name, column, value.load(Relaxed) as f64);
        }
    }
    let mut held = Section::new("cycles-held", "What is held", "", false);
    held.method = format!(
        "before the first cycle and {} after the last",
        settled.map_or_else(
            || "20 s (it did not come to rest)".to_owned(),
            |took| format!("{took:.1?}")
        )
    );
    for (column, at) in [("before", before), ("after", after)] {
        for (row, value) in [
            ("streams of both clients", at.streams as f64),
            ("ports, those of listeners included", at.ports as f64),
            ("streams in their sessions", at.in_sessions as f64),
            ("streams in the relay", at.in_relay as f64),
            ("streams of the HTTP client", at.pooled as f64),
            ("file descriptors", at.descriptors as f64),
            ("MiB of the process", at.mib),
        ] {
            held.put(row, column, value);
        }
    }
    let failed: usize = tallies.iter().map(|tally| tally.failed.load(Relaxed)).sum();
    let completed = |tally: &&Tally| tally.completed.load(Relaxed) == 0;
    let streams = after.streams + after.in_sessions + after.in_relay + after.pooled;
    let more = |after: usize, before: usize| Some(after as f64 - before as f64);
    report.targets = vec![
        Target::at_most("operations that failed by themselves", 0.0, "", Some(failed as f64)),
        Target::at_most("streams left anywhere", 0.0, "", Some(streams as f64)),
        Target::at_most("ports more than before", 0.0, "", more(after.ports, before.ports)),
        Target::at_most(
            "file descriptors more than before",
            0.0,
            "",
            more(after.descriptors, before.descriptors),
        ),
    ];
    if args.cycles >= 5000 {
        let never = tallies.iter().filter(completed).count();
        report.targets.push(Target::at_most(
            "operations that never completed",
            0.0,
            "",
            Some(never as f64),
        ));
    }
    report.sections = vec![by_operation, held];
    report
}
