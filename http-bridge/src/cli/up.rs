//! `dmsg up`: a visor's way to its services, from a configuration of `dmsg config gen`.
//!
//! ```text
//!   FILE ─▶ Visor ─▶ VisorStatus ─┬─▶ stdout: a table drawn in place, or one line per change
//!                                 └─▶ loopback: a page, JSON, metrics
//! ```
//!
//! Nothing waits for the network: the page and the first lines are there at once.

mod fresh;
mod lines;
mod page;
mod table;

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::{Args, ValueEnum};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use self::{fresh::Fresh, lines::Lines, table::Table};
use super::{
    exit::{Exit, Failure},
    flags::{DriverFlag, seconds},
    stop_signal,
};
use crate::{
    access::{AccessConfig, AccessPolicy},
    deployment::{
        DOCUMENT_BYTES_MAX,
        file::read_text,
        refresh::{LastGood, REFRESH_INTERVAL},
        visor::VisorConfig,
    },
    service::{Endpoints, ServiceKind},
    services::{CallOptions, config_bootstrapper::ConfigBootstrapperClient},
    visor::{Visor, VisorOptions},
};

/// Where the page is, unless something else is there or `--port` says otherwise.
const PAGE_PORT: u16 = 8090;

/// Between two looks at the status.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct UpArgs {
    /// The visor's configuration, as `dmsg config gen` writes it; the same as --config FILE.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,

    /// Which way requests take.
    #[arg(long, value_enum, default_value_t)]
    policy: PolicyFlag,

    /// Loopback port of the status page; 8090 if it is free, else any.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,

    /// Seconds between two calls of each service.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    interval: f64,

    /// Seconds between two looks for a newer deployment at the config bootstrapper, which is written into the
    /// configuration: sets of keys count at once, the rest after a restart; 0 for never.
    #[arg(long, value_name = "SECONDS", default_value_t = REFRESH_INTERVAL.as_secs_f64())]
    refresh: f64,

    /// Folder that keeps the list of servers found last; the configuration's local_path if not given.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,

    /// What moves the bytes.
    #[arg(long, value_enum, default_value_t)]
    driver: DriverFlag,
}

/// [`AccessPolicy`] as a flag.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum PolicyFlag {
    /// DMSG, and HTTP while that does not work.
    #[default]
    DmsgFirst,
    /// DMSG or nothing.
    DmsgOnly,
    /// HTTP, and DMSG while that does not work.
    HttpFirst,
    /// HTTP or nothing.
    HttpOnly,
}

impl From<PolicyFlag> for AccessPolicy {
    fn from(flag: PolicyFlag) -> Self {
        match flag {
            PolicyFlag::DmsgFirst => Self::DmsgFirst,
            PolicyFlag::DmsgOnly => Self::DmsgOnly,
            PolicyFlag::HttpFirst => Self::HttpFirst,
            PolicyFlag::HttpOnly => Self::HttpOnly,
        }
    }
}

pub(super) async fn run(args: UpArgs, config: Option<PathBuf>) -> Result<(), Failure> {
    let path = path(&args, config)?;
    let (options, local) = options(&args, &path)?;
    let fresh = fresh(&args, path, &local)?;
    let listener = super::local::listen(args.port, PAGE_PORT).await?;
    let page =
        listener.local_addr().map_err(|error| Failure::new(Exit::Other, error.to_string()))?;
    let conf = options.services.endpoints(ServiceKind::ConfigBootstrapper);
    let access = AccessConfig::with_policy(options.policy);
    let stop = stop_signal();
    let visor = Arc::new(Visor::start(options));
    let refreshed = fresh.filter(|_| conf != Endpoints::default()).map(|fresh| {
        let access = visor.overlay().access(ServiceKind::ConfigBootstrapper, &conf, access);
        let client = ConfigBootstrapperClient::new(Arc::new(access), CallOptions::default());
        AbortOnDropHandle::new(tokio::spawn(fresh.keep(client, Arc::downgrade(&visor))))
    });
    let served = tokio::spawn(page::serve(listener, Arc::clone(&visor)));
    let address = format!("http://{page}/");
    let shown = show(&visor, &address);
    let outcome = tokio::select! {
        outcome = shown => outcome.map_err(|error| Failure::stdout(&error)),
        () = stop => Ok(()),
    };
    drop(refreshed);
    served.abort();
    let _ = served.await;
    if let Some(visor) = Arc::into_inner(visor) {
        visor.close().await;
    }
    outcome
}

fn path(args: &UpArgs, config: Option<PathBuf>) -> Result<PathBuf, Failure> {
    args.file.clone().or(config).ok_or_else(|| {
        Failure::usage(
            "no configuration: make one with `dmsg config gen -o FILE` and give --config FILE",
        )
    })
}

/// What keeps the configuration fresh, unless nobody wants that. The record of what the deployment last set is where
/// `dmsg config gen` put it, whatever `--dir` says.
fn fresh(args: &UpArgs, path: PathBuf, local: &Path) -> Result<Option<Fresh>, Failure> {
    let interval = seconds("--refresh", args.refresh)?;
    if interval.is_zero() {
        return Ok(None);
    }
    let interval = interval.max(Duration::from_secs(1));
    Ok(Some(Fresh { config: path, last: LastGood::in_folder(local), interval }))
}

/// What the visor is started with, and its configuration's `local_path`.
fn options(args: &UpArgs, path: &Path) -> Result<(VisorOptions, PathBuf), Failure> {
    let interval = seconds("--interval", args.interval)?;
    if interval < Duration::from_millis(100) {
        return Err(Failure::usage("--interval: at least 0.1 s is wanted"));
    }
    let read = |what: String| Failure::new(Exit::Read, format!("{}: {what}", path.display()));
    let text = read_text(path, DOCUMENT_BYTES_MAX)
        .map_err(|error| read(error.to_string()))?
        .ok_or_else(|| read("there is no such file".to_owned()))?;
    let text = zeroize::Zeroizing::new(text);
    let config = VisorConfig::parse(&text).map_err(|problems| {
        let lines: Vec<_> =
            problems.iter().map(|problem| format!("{}:{problem}", path.display())).collect();
        Failure::usage(lines.join("\n"))
    })?;
    let mut options = VisorOptions::new(config.secret_key().clone(), config.services());
    options.sessions = config.sessions_count();
    options.policy = args.policy.into();
    options.driver = args.driver.into();
    options.call_interval = interval;
    // As written it is relative to the configuration, wherever the program was started.
    let local = path.parent().unwrap_or_else(|| Path::new("")).join(config.local_path());
    options.local_path = Some(args.dir.clone().unwrap_or_else(|| local.clone()));
    Ok((options, local))
}

/// What writes to stdout: a reader that does not read holds up this thread, and not the visor.
struct Writer {
    texts: mpsc::Sender<String>,
    failed: oneshot::Receiver<io::Error>,
}

impl Writer {
    fn start() -> Self {
        let (texts, mut written) = mpsc::channel::<String>(1);
        let (failure, failed) = oneshot::channel();
        std::thread::spawn(move || {
            let mut stdout = io::stdout();
            while let Some(text) = written.blocking_recv() {
                let result = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
                if let Err(error) = result {
                    let _ = failure.send(error);
                    return;
                }
            }
        });
        Self { texts, failed }
    }

    async fn write(&mut self, text: String) -> io::Result<()> {
        match self.texts.send(text).await {
            Ok(()) => Ok(()),
            Err(_) => Err((&mut self.failed).await.unwrap_or_else(io::Error::other)),
        }
    }
}

/// Shows the status on stdout for ever.
async fn show(visor: &Visor, page: &str) -> io::Result<()> {
    let mut writer = Writer::start();
    let mut table = io::stdout().is_terminal().then(|| Table::new(page));
    let mut lines = Lines::new(page);
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    loop {
        looks.tick().await;
        let status = visor.status();
        let text = match &mut table {
            Some(table) => table.draw(&status, table::size()),
            None => lines.changes(&status),
        };
        if !text.is_empty() {
            writer.write(text).await?;
        }
    }
}

/// A time as people read it.
fn spell(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1.0 {
        format!("{:.1} ms", seconds * 1e3)
    } else if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else if seconds < 3600.0 {
        format!("{} min {} s", seconds as u64 / 60, seconds as u64 % 60)
    } else {
        format!("{} h {} min", seconds as u64 / 3600, seconds as u64 % 3600 / 60)
    }
}
