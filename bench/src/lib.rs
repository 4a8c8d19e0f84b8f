//! Benchmarks of the DMSG engine: the parts that every run of `dmsg-bench` shares.
//!
//! ```text
//!   main.rs ── subcommands: relay · … · gate
//!                 │ start Parties (this program again, each pinned to a CPU), put load on them
//!                 ▼
//!   gate     the cores' state before and after each measurement; repeats it in the slow state
//!   cpu      CPUs and pinning, CPU time of threads and processes, resident memory
//!   party    a child process that is measured
//!   facts    machine, kernel, commit, command: beside every figure
//!   report   figures with median and spread → table (stdout), JSON, page with SVG plots
//! ```
//!
//! # How a subcommand is added
//!
//! 1. A module of `main.rs` (`bench/src/NAME/mod.rs` or `NAME.rs`) with `#[derive(clap::Args)] pub struct Args`, which
//!    flattens [`report::OutputArgs`] (`--json FILE`, `--report DIR`), and `pub fn run(args: &Args) -> dmsg_bench::Result<()>`.
//! 2. A variant in `Command` of `main.rs` and its arm in `main`.
//! 3. `run` makes a [`report::Report`], takes a [`gate::Gate`], and for each measurement calls [`gate::Gate::measure`]: what
//!    that returns goes into a [`report::Figure`] together with the gate's verdict. Contenders that are compared take turns
//!    within one run (round by round, not one after the other), because the machine changes under a long run.
//! 4. Servers run in a process of their own: a hidden subcommand that pins itself with [`cpu::pin`], calls
//!    [`party::ready`] and serves until [`party::until_orphaned`] returns; the parent starts it with [`party::Party::spawn`]
//!    and reads its CPU time and memory from outside.
//! 5. At the end [`report::OutputArgs::finish`] writes table, JSON and page. Progress goes to stderr with [`progress`].
//!
//! Speed is never asserted in a test; a figure that was not measured is not printed. `benches/micro.rs` measures single
//! operations with criterion.

pub mod cpu;
pub mod facts;
pub mod gate;
pub mod party;
pub mod report;
pub mod stats;

/// The error of a program that a person runs: a sentence.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// What most of this program returns.
pub type Result<T> = std::result::Result<T, Error>;

/// A line of progress on stderr; stdout has the results alone.
pub fn progress(line: &str) {
    eprintln!("dmsg-bench: {line}");
}
