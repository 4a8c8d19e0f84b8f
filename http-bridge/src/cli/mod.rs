//! The program `dmsg`.
//!
//! Data goes to stdout, everything else to stderr, always. Each option has one name, spelled
//! `--x-y` as a flag, `DMSG_X_Y` in the environment and `x_y` in the file of `--config`; in this order they win
//! (`config.rs`). The exit code says what went wrong (`exit.rs`).

mod conf;
mod config;
mod curl;
mod deployment;
mod discovery;
mod exit;
mod flags;
mod hints;
mod hosting;
mod invocation;
mod key;
mod local;
mod page;
mod proxy;
mod serve;
mod server;
mod service;
mod up;

use std::{ffi::OsString, io::IsTerminal, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, error::ErrorKind};
use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use self::exit::{Exit, Failure};

/// HTTP over DMSG: servers, discovery, and tools.
#[derive(Debug, Parser)]
#[command(name = "dmsg", version, after_help = exit::TABLE, propagate_version = true)]
struct Cli {
    /// File with options: top-level keys for all subcommands, a [section] for one.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// What is logged to stderr: off, error, warn, info, debug, trace, or directives such as
    /// info,hyper=warn. Default: warn for curl and key, info for curl -v and for what keeps running.
    #[arg(long, global = true, value_name = "LEVEL", value_parser = check_log)]
    log: Option<String>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make and show keys.
    Key(key::KeyArgs),
    /// Run a relay server.
    Server(server::ServerArgs),
    /// Run a discovery service.
    Discovery(discovery::DiscoveryArgs),
    /// Run one of the other services of a deployment.
    Service(Box<service::ServiceArgs>),
    /// Run a whole network in this process, on loopback.
    Local(local::LocalArgs),
    /// Run a config bootstrapper.
    Conf(Box<conf::ConfArgs>),
    /// Check a deployment; make a visor's configuration.
    Config(Box<deployment::ConfigArgs>),
    /// Fetch and send over DMSG.
    Curl(Box<curl::CurlArgs>),
    /// Let ordinary programs into the overlay: a local HTTP and SOCKS5 proxy.
    Proxy(Box<proxy::ProxyArgs>),
    /// Offer a folder or a local HTTP service over DMSG.
    Serve(Box<serve::ServeArgs>),
    /// Start a visor's access to its services, and show how it fares.
    Up(Box<up::UpArgs>),
}

impl Command {
    /// Whoever fetches something wants it and nothing else; whoever runs a service wants to see what it does.
    fn default_log(&self) -> &'static str {
        match self {
            Self::Key(_) => "warn",
            Self::Curl(args) if !args.verbose => "warn",
            Self::Config(args) => args.default_log(),
            // What it does shows on stdout.
            Self::Up(_) => "warn",
            _ => "info",
        }
    }
}

/// A word that is no level would pass as the name of a module, and silence everything else.
fn check_log(text: &str) -> Result<String, String> {
    let is_known = |part: &str| {
        let part = part.trim();
        part.contains(['=', '[']) || (!part.is_empty() && part.parse::<LevelFilter>().is_ok())
    };
    if let Some(part) = text.split(',').find(|part| !is_known(part)) {
        return Err(format!(
            "{part:?} is no level: off, error, warn, info, debug, trace, or MODULE=LEVEL are"
        ));
    }
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Runs the program with these arguments, of which the first is its name.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let cli = match config::parse(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are data, the rest is not; clap knows which.
            let _ = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if asked { Exit::Ok } else { Exit::Usage }.into();
        }
    };
    let log = cli.log.as_deref().unwrap_or_else(|| cli.command.default_log());
    match start_logging(log).and_then(|()| dispatch(cli.command, cli.config)) {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("dmsg: {}", failure.message);
            }
            failure.exit.into()
        }
    }
}

fn dispatch(command: Command, config: Option<PathBuf>) -> Result<(), Failure> {
    match command {
        Command::Key(args) => key::run(args),
        Command::Server(args) => on_runtime(server::run(args)),
        Command::Discovery(args) => on_runtime(discovery::run(args)),
        Command::Service(args) => on_runtime(service::run(*args)),
        Command::Local(args) => on_runtime(local::run(args)),
        Command::Conf(args) => on_runtime(conf::run(*args)),
        Command::Config(args) => on_runtime(deployment::run(*args)),
        Command::Curl(args) => on_runtime(curl::run(*args)),
        Command::Proxy(args) => on_runtime(proxy::run(*args)),
        Command::Serve(args) => on_runtime(serve::run(*args)),
        Command::Up(args) => on_runtime(up::run(*args, config)),
    }
}

/// Runs a subcommand to its end. What blocks behind it (a file being read) is not waited for.
fn on_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    raise_open_files_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("dmsg-http")
        .enable_all()
        .build()
        .map_err(|error| {
            let what = format!("cannot start the program's threads: {}", with_cause(&error));
            Failure::new(Exit::Other, what)
        })?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

/// A connection is an open file, and the usual soft limit of 1,024 is there for programs that use select(2): we take what we may.
fn raise_open_files_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        // If it is refused, less has to do; who runs out says so.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
}

/// An error, and what to do about it where that is not obvious.
fn with_cause(error: &std::io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE) => {
            format!("{error}; raise the open-files limit (ulimit -n)")
        }
        _ => error.to_string(),
    }
}

fn start_logging(level: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(level)
        .map_err(|error| Failure::new(Exit::Usage, format!("--log {level:?}: {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    Ok(())
}

/// Ends at SIGINT or SIGTERM.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tracing::error!("signals cannot be handled; only SIGKILL will stop this process");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping");
}
