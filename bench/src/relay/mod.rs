//! `dmsg-bench relay`: the data plane of the relay, its rivals and its ceilings.
//!
//! ```text
//!   CPU "load": this process, one thread        CPU "server": one child per contender
//!   sources ──────────────────────────────────▶ our relay │ a rival │ (a server given by --peer-server)
//!   sinks   ◀──────────────────────────────────
//! ```
//!
//! Every contender gets the same bytes from the same load. What is compared is work per CPU-second of the server's process,
//! system time included: with one CPU for the load, the load and not the server limits the rate.

mod bulk;
mod contender;
mod end_to_end;
mod load;
mod neighbours;
mod plain;
mod rivals;
mod setup;
mod small;
mod targets;

use std::time::Duration;

use dmsg_bench::{
    Result,
    cpu::{self, Cpus},
    gate::{self, Gate},
    progress,
    report::{OutputArgs, Report},
};

use self::contender::{Contender, PeerServer};
pub(crate) use self::contender::{PartyArgs, serve};

/// Measures the data plane.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Args {
    /// Fewer and shorter repetitions: a look, not a result
    #[arg(long)]
    quick: bool,
    /// Only parts whose name contains this; may be given several times (see --list)
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Show the names of all parts
    #[arg(long)]
    list: bool,
    /// Only contenders whose name contains this; may be given several times
    #[arg(long, value_name = "NAME")]
    contender: Vec<String>,
    /// Repetitions of each measurement [default: 5, with --quick 3]
    #[arg(long, value_name = "N")]
    repeats: Option<u32>,
    /// Milliseconds of each measurement [default: 400, with --quick 150]
    #[arg(long, value_name = "MS")]
    time_ms: Option<u64>,
    /// Tries of each measurement until the machine is in its fast state
    #[arg(long, value_name = "N", default_value_t = 5)]
    tries: u32,
    /// A cache-line bounce at or above this is the slow state
    #[arg(long, value_name = "NS", default_value_t = gate::SLOW_NS)]
    slow_ns: f64,
    /// Measure this server too; on this machine its CPU time is read from the process that listens there
    #[arg(long, value_name = "PK@ADDRESS")]
    peer_server: Option<PeerServer>,
    /// Only frames of this many bytes, in the parts that compare several; may be given several times
    #[arg(long, value_name = "BYTES")]
    frame: Vec<usize>,
    #[command(flatten)]
    tuning: contender::Tuning,
    #[command(flatten)]
    output: OutputArgs,
}

/// What every part of the run needs.
#[derive(Debug)]
pub(crate) struct Bench {
    cpus: Cpus,
    /// CPUs that this program was started on; the load's thread has only one of them.
    allowed: Vec<usize>,
    gate: Gate,
    repeats: u32,
    time: Duration,
    quick: bool,
    contenders: Vec<String>,
    peer: Option<PeerServer>,
    frames: Vec<usize>,
    tuning: contender::Tuning,
}

/// A part: its name, what it is about, and how it is run.
type Part = (&'static str, &'static str, fn(&Bench, &mut Report) -> Result<()>);

const PARTS: [Part; 13] = [
    ("relay-64-pairs", "64 pairs of sessions, frames spread over other sessions", bulk::pairs),
    ("plain-tcp", "what receiving alone costs", plain::tcp),
    ("relay-overload", "the same in front of receivers that are too slow", bulk::greedy),
    ("relay-streams", "one pair of sessions with 1, 16 and 256 streams", bulk::streams),
    ("end-to-end", "our clients through the server, stream crypto included", end_to_end::run),
    ("rtt", "ping-pong over one stream", small::round_trips),
    ("chat-512", "512 connections with one message each", small::chat),
    ("opens", "stream opens: server CPU, rate, latency", setup::opens),
    ("dial", "whole dials with our clients", setup::dials),
    ("handshakes", "session handshakes", setup::handshakes),
    ("memory", "memory of idle sessions and streams", setup::memory),
    ("fairness", "throughput beside receivers that never read", neighbours::fairness),
    ("cores", "two server threads against one", neighbours::cores),
];

/// Runs the parts that were asked for.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.list {
        PARTS.iter().for_each(|(name, about, _)| println!("{name:<20} {about}"));
        return Ok(());
    }
    let wanted =
        |name: &str| args.only.is_empty() || args.only.iter().any(|only| name.contains(only));
    if !PARTS.iter().any(|(name, ..)| wanted(name)) {
        return Err(format!("no part is called {:?}; see --list", args.only).into());
    }
    let cpus = cpu::choose();
    if cpus.server == cpus.load {
        progress("one CPU only: server and load share it, and no comparison is gated");
    }
    let _ = cpu::raise_file_limit();
    let bench = Bench {
        cpus,
        allowed: cpu::allowed(),
        gate: Gate::new(cpus, args.tries).with_limit(args.slow_ns),
        repeats: args.repeats.unwrap_or(if args.quick { 3 } else { 5 }).max(1),
        time: Duration::from_millis(args.time_ms.unwrap_or(if args.quick { 150 } else { 400 })),
        quick: args.quick,
        contenders: args.contender.clone(),
        peer: args.peer_server.clone(),
        frames: args.frame.clone(),
        tuning: args.tuning.clone(),
    };
    let mut report = Report::new("relay", "The data plane: relay, rivals, ceilings");
    cpu::pin(&[cpus.load])?;
    if let Some(bytes) =
        args.frame.iter().find(|&&bytes| bulk::FRAMES.iter().all(|frame| frame.0 != bytes))
    {
        let known: Vec<_> = bulk::FRAMES.iter().map(|frame| frame.0.to_string()).collect();
        let text = format!("no part has frames of {bytes} bytes, only of {}", known.join(", "));
        return Err(text.into());
    }
    let mut failed = Vec::new();
    for (name, about, part) in PARTS.iter().filter(|(name, ..)| wanted(name)) {
        progress(&format!("{name}: {about}"));
        if let Err(error) = part(&bench, &mut report) {
            // The other parts are worth their minutes all the same.
            progress(&format!("{name} has failed: {error}"));
            failed.push(*name);
        }
    }
    targets::judge(&mut report);
    args.output.finish(&report)?;
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", ")).into()) }
}

impl Bench {
    /// Whether frames of this size take part.
    fn wants_frames(&self, bytes: usize) -> bool {
        self.frames.is_empty() || self.frames.contains(&bytes)
    }

    /// Whether a contender takes part.
    fn wants(&self, contender: Contender) -> bool {
        let name = contender.name();
        self.contenders.is_empty() || self.contenders.iter().any(|only| name.contains(only))
    }
}
