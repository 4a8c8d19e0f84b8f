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
mod logging;
mod page;
mod proxy;
mod serve;
mod server;
mod service;
mod up;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, error::ErrorKind};
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

    /// Log more to stderr; -vv and -vvv more still. --log says it exactly.
    #[arg(short = 'v', global = true, action = clap::ArgAction::Count)]
    verbosity: u8,

    #[command(subcommand)]
    command: Command,
}

impl Cli {
    /// What is logged: what --log says, else what the subcommand logs by itself, and as many levels more as there are `-v`.
    fn log(&self) -> &str {
        const LEVELS: [&str; 3] = ["info", "debug", "trace"];
        let by_itself = self.command.default_log();
        let further = usize::from(self.verbosity) + usize::from(by_itself == "info");
        match (&self.log, self.verbosity) {
            (Some(log), _) => log,
            (None, 0) => by_itself,
            (None, _) => LEVELS[further.min(LEVELS.len()) - 1],
        }
    }
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
            // `curl -v` shows the requests besides.
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
        Ok(mut cli) => {
            if let Command::Curl(args) = &mut cli.command {
                args.verbose |= cli.verbosity > 0;
            }
            cli
        }
        Err(error) => {
            // Help and version are data, the rest is not; clap knows which.
            let _ = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if asked { Exit::Ok } else { Exit::Usage }.into();
        }
    };
    raise_file_limit();
    let outcome = logging::start(cli.log()).and_then(|()| dispatch(cli.command, cli.config));
    logging::flush();
    match outcome {
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

/// Raises the limit of open files to what the system allows: a connection is a file, and the usual limit is 1,024, for the
/// sake of programs that use `select`.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    // If it is refused, the limit stays, and who meets it says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Runs a subcommand to its end. What blocks behind it (a file being read) is not waited for.
fn on_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("dmsg-http")
        .enable_all()
        .build()
        .map_err(|error| {
            let what = format!(
                "cannot start the program's threads: {error}; raise the open-files limit (ulimit -n) or that of threads (-u)"
            );
            Failure::new(Exit::Other, what)
        })?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

/// Ends at a SIGINT or SIGTERM that comes after the call, not only after the first poll. To be called before a command says that
/// it is up: who reads that may stop it at once, and a signal that nobody waits for kills the process on the spot.
fn stop_signal() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
            tracing::error!("signals cannot be handled; only SIGKILL will stop this process");
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping");
    }
}
