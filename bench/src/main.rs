//! `dmsg-bench`: starts every party itself on loopback, measures, and reports. See the library's docs for its parts.

mod cycles;
mod dead;
mod discovery;
mod http;
mod instructions;
mod leak;
mod network;
mod relay;

use clap::{Parser, Subcommand};
use dmsg_bench::{Result, cpu, gate::Gate};

/// Measures the DMSG engine against its ceilings, every party on this machine.
#[derive(Debug, Parser)]
#[command(name = "dmsg-bench", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    relay: relay::Args,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure the data plane: relay, rivals, ceilings (the same as without a subcommand)
    Relay(relay::Args),
    /// Measure a discovery full of entries, in each of its stores
    Discovery(discovery::Args),
    /// A discovery of a run, in a process of its own
    #[command(hide = true)]
    DiscoveryParty(discovery::PartyArgs),
    /// Measure HTTP requests over DMSG beside plain hyper over TCP
    Http(http::Args),
    /// Keep response bodies unread by the hundred thousand, beside tasks that go on making requests
    Leak(leak::Args),
    /// Hammer a dead service, and measure what that costs the callers of another one
    DeadService(dead::Args),
    /// Open everything that can be opened and give it up at every point, and look what is left
    Cycles(cycles::Args),
    /// A party of a run, in a process of its own
    #[command(hide = true)]
    Party(relay::PartyArgs),
    /// Run one operation a fixed number of times, for scripts/instruction-gate; without a name, list them
    Instructions {
        /// Which
        name: Option<String>,
    },
    /// Show the state of the machine: the bounce of a cache line between the two CPUs of a run
    Gate,
}

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => relay::run(&cli.relay),
        Some(Command::Relay(args)) => relay::run(&args),
        Some(Command::Discovery(args)) => discovery::run(&args),
        Some(Command::DiscoveryParty(args)) => discovery::serve_party(&args),
        Some(Command::Http(args)) => http::run(&args),
        Some(Command::Leak(args)) => leak::run(&args),
        Some(Command::DeadService(args)) => dead::run(&args),
        Some(Command::Cycles(args)) => cycles::run(&args),
        Some(Command::Party(args)) => relay::serve(&args),
        Some(Command::Instructions { name }) => instructions::run(name.as_deref()),
        Some(Command::Gate) => show_gate(),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dmsg-bench: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn show_gate() -> Result<()> {
    let cpus = cpu::choose();
    let gate = Gate::new(cpus, 1);
    for _ in 0..10 {
        match gate.bounce_ns() {
            Some(ns) => println!("CPU {} to {} and back: {ns:.0} ns", cpus.server, cpus.load),
            None => println!("no measurement: there is one CPU only, or others use them fully"),
        }
    }
    Ok(())
}
