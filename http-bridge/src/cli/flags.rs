//! Options that several subcommands share, and the engine client they describe.

use std::{
    fs, io::Read, os::unix::fs::PermissionsExt, path::PathBuf, str::FromStr, time::Duration,
};

use clap::{Args, ValueEnum};
use dmsg_engine::{
    client::{Client, ServerRecord},
    driver::DriverKind,
    identity::{PublicKey, SecretKey},
};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::exit::{Exit, Failure};
use crate::{
    discovery::DiscoveryClient,
    overlay::{Overlay, OverlayConfig},
    resolve::ServerChoice,
};

/// How long a look-up waits for the first session: as long as a dial may take.
const READY_WAIT: Duration = Duration::from_secs(20);

/// Who we are.
#[derive(Debug, Clone, Args)]
pub(super) struct IdentityFlags {
    /// File with the secret key in hex, as `dmsg key new --out` writes it.
    #[arg(long, value_name = "FILE")]
    pub(super) secret_key_file: Option<PathBuf>,

    /// The secret key in hex. Meant for the environment: arguments are seen by every user of the machine.
    #[arg(long, value_name = "HEX", conflicts_with = "secret_key_file")]
    secret_key: Option<SecretText>,
}

/// A secret on its way through the argument parser; redacted and zeroised.
#[derive(Clone)]
struct SecretText(Zeroizing<String>);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretText(redacted)")
    }
}

impl FromStr for SecretText {
    type Err = std::convert::Infallible;

    /// Takes any text, and leaves the check to us: the argument parser's error would repeat the text, and a
    /// mistyped secret is most of a secret.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

impl IdentityFlags {
    /// The key that was given, if one was.
    pub(super) fn given(&self) -> Result<Option<SecretKey>, Failure> {
        match (&self.secret_key, &self.secret_key_file) {
            (Some(SecretText(text)), _) => text.trim().parse().map(Some).map_err(|error| {
                Failure::usage(format!("--secret-key or DMSG_SECRET_KEY: no secret key: {error}"))
            }),
            (None, Some(path)) => read_key(path).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// The key that was given, else a fresh one that nobody will know again.
    pub(super) fn given_or_fresh(&self) -> Result<SecretKey, Failure> {
        self.given()?.map_or_else(fresh_key, Ok)
    }

    /// The key that was given; `why` says what it is for.
    pub(super) fn required(&self, why: &str) -> Result<SecretKey, Failure> {
        self.given()?.ok_or_else(|| {
            Failure::usage(format!(
                "{why} needs a secret key: make one with `dmsg key new --out FILE` and give \
                 --secret-key-file FILE, or set DMSG_SECRET_KEY"
            ))
        })
    }
}

/// A fresh secret key.
pub(super) fn fresh_key() -> Result<SecretKey, Failure> {
    SecretKey::generate()
        .map_err(|error| Failure::new(Exit::Other, format!("no randomness: {error}")))
}

/// Bytes of a key file that are read: 64 digits and whatever white space stands around them.
const KEY_FILE_MAX_BYTES: usize = 1024;

/// Reads a key file; warns when others can read it too.
pub(super) fn read_key(path: &std::path::Path) -> Result<SecretKey, Failure> {
    let fail = |what: String| Failure::new(Exit::Read, format!("{}: {what}", path.display()));
    let mut text = Zeroizing::new(Vec::with_capacity(KEY_FILE_MAX_BYTES + 1));
    fs::File::open(path)
        .and_then(|file| file.take(KEY_FILE_MAX_BYTES as u64 + 1).read_to_end(&mut text))
        .map_err(|error| fail(error.to_string()))?;
    if text.len() > KEY_FILE_MAX_BYTES {
        return Err(fail(format!("no secret key: more than {KEY_FILE_MAX_BYTES} bytes")));
    }
    let text = std::str::from_utf8(&text)
        .map_err(|_| fail("no secret key: a key is written in hex digits".to_owned()))?;
    warn_of_readers(path);
    text.trim().parse().map_err(|error| fail(format!("no secret key: {error}")))
}

/// Warns if others can read a file that is secret.
pub(super) fn warn_of_readers(path: &std::path::Path) {
    if let Ok(meta) = fs::metadata(path)
        && meta.permissions().mode() & 0o077 != 0
    {
        tracing::warn!(file = %path.display(), "other users can access this key file: chmod 600");
    }
}

/// CPUs of a list as the kernel writes them: `0,2-3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CpuList(pub(super) Vec<usize>);

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| match text.trim().parse::<usize>() {
            Ok(cpu) if cpu < CPUS_MAX => Ok(cpu),
            _ => Err(format!(
                "{text:?} is no number of a CPU (0 to {}); write CPUs as 0,2-3",
                CPUS_MAX - 1
            )),
        };
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("{part:?} begins above its end"));
            }
            cpus.extend((first..=last).filter(|cpu| !cpus.contains(cpu)).collect::<Vec<_>>());
        }
        Ok(Self(cpus))
    }
}

/// CPUs that a list can name: as many as the kernel's own set of them.
const CPUS_MAX: usize = 1024;

/// Which driver moves the bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum DriverFlag {
    /// io_uring where the kernel allows it, else epoll.
    #[default]
    Auto,
    /// io_uring, or an error that says why not.
    Uring,
    /// epoll.
    Epoll,
}

impl From<DriverFlag> for DriverKind {
    fn from(flag: DriverFlag) -> Self {
        match flag {
            DriverFlag::Auto => Self::Auto,
            DriverFlag::Uring => Self::Uring,
            DriverFlag::Epoll => Self::Epoll,
        }
    }
}

/// What the servers of `--server` are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum ServerChoiceFlag {
    /// No others are used.
    #[default]
    Strict,
    /// Others are used while none of them can be had.
    Preferred,
}

impl From<ServerChoiceFlag> for ServerChoice {
    fn from(flag: ServerChoiceFlag) -> Self {
        match flag {
            ServerChoiceFlag::Strict => Self::Configured,
            ServerChoiceFlag::Preferred => Self::Preferred,
        }
    }
}

/// The name of a driver, for people.
pub(super) fn driver_name(kind: DriverKind) -> &'static str {
    match kind {
        DriverKind::Auto => "auto",
        DriverKind::Uring => "io_uring",
        DriverKind::Epoll => "epoll",
    }
}

/// A relay server, `<public key>@<host>:<port>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerFlag {
    pub(super) key: PublicKey,
    pub(super) address: String,
}

impl FromStr for ServerFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?} is not <public key>@<host>:<port>");
        let (key, address) = text.trim().split_once('@').ok_or_else(form)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(form)?;
        if host.is_empty() || port.parse::<u16>().map_or(true, |port| port == 0) {
            return Err(form());
        }
        let key = key.parse().map_err(|error| format!("{error}"))?;
        Ok(Self { key, address: address.to_owned() })
    }
}

/// Ten years: far from what clocks can add.
const SECONDS_MAX: Duration = Duration::from_secs(315_360_000);

/// The value of a flag that is a time.
pub(super) fn seconds(flag: &str, value: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(value).ok().filter(|seconds| *seconds <= SECONDS_MAX).ok_or_else(
        || {
            let max = SECONDS_MAX.as_secs();
            Failure::usage(format!("{flag} {value}: a number of seconds is wanted, at most {max}"))
        },
    )
}

/// How a client reaches the network.
#[derive(Debug, Args)]
pub(super) struct ClientFlags {
    #[command(flatten)]
    pub(super) identity: IdentityFlags,

    /// URL of a discovery: http://host:port, or dmsg://<key> together with --server.
    #[arg(long, value_name = "URL")]
    pub(super) discovery: Option<String>,

    /// A relay server to use, <key>@<host>:<port>; may be repeated. Without --discovery, peers are
    /// looked for behind these servers only.
    #[arg(long, value_name = "KEY@ADDRESS")]
    pub(super) server: Vec<ServerFlag>,

    /// Whether the servers of --server are the only ones to hold sessions with, or the first choice among those that the
    /// discovery lists.
    #[arg(long, value_enum, default_value_t)]
    pub(super) server_choice: ServerChoiceFlag,

    /// Sessions to hold; 0 means one to every server.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub(super) sessions: usize,

    /// What moves the bytes.
    #[arg(long, value_enum, default_value_t)]
    pub(super) driver: DriverFlag,
}

/// Whether others shall find us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Visibility {
    /// We only dial.
    Hidden,
    /// Our entry is published.
    Published,
}

impl ClientFlags {
    /// Starts the client; sessions come up behind. The second value turns true when peers can find us.
    pub(super) fn start(
        &self,
        key: SecretKey,
        seen: Visibility,
    ) -> Result<(Client, watch::Receiver<bool>), Failure> {
        let mut config = self.overlay(key)?;
        config.publishes &= seen == Visibility::Published;
        let overlay =
            Overlay::start(config).map_err(|error| Failure::new(Exit::Other, error.to_string()))?;
        let client = overlay.client().expect("a started overlay has one").clone();
        Ok((client, overlay.published()))
    }

    pub(super) fn overlay(&self, key: SecretKey) -> Result<OverlayConfig, Failure> {
        let servers: Vec<ServerRecord> = self.server.iter().map(record).collect();
        let mut config = match &self.discovery {
            None if servers.is_empty() => {
                return Err(Failure::usage(
                    "no way into the network: give --discovery URL, or --server KEY@ADDRESS",
                ));
            }
            None => OverlayConfig::direct(key, servers),
            Some(discovery) if discovery.starts_with("dmsg://") => {
                if servers.is_empty() {
                    return Err(Failure::usage(
                        "a discovery at dmsg:// is reached through relay servers: name one with \
                         --server KEY@ADDRESS, or give an http:// address",
                    ));
                }
                check_discovery(discovery)?;
                OverlayConfig::dmsg_http(key, servers, discovery.parse()?)
            }
            Some(discovery) => {
                check_http(discovery)?;
                let mut config = OverlayConfig::standard(key, check_discovery(discovery)?);
                config.servers = servers;
                config
            }
        };
        config.choice = self.server_choice.into();
        config.access.ready_wait = READY_WAIT;
        config.client.min_sessions = self.sessions;
        config.client.driver = self.driver.into();
        Ok(config)
    }
}

fn check_discovery(discovery: &str) -> Result<http::Uri, Failure> {
    DiscoveryClient::check_base(discovery)
        .map_err(|error| Failure::new(Exit::Url, error.to_string()))
}

/// A discovery outside of DMSG speaks plain HTTP; what else is asked for would fail again and again later.
pub(super) fn check_http(discovery: &str) -> Result<(), Failure> {
    match discovery.split_once("://") {
        Some(("http", _)) => Ok(()),
        Some((scheme, _)) => Err(Failure::new(
            Exit::Url,
            format!(
                "--discovery {discovery}: the scheme is {scheme:?}; http:// and dmsg:// are known"
            ),
        )),
        None => Err(Failure::new(
            Exit::Url,
            format!("--discovery {discovery:?} is no URL: write http://HOST:PORT or dmsg://KEY"),
        )),
    }
}

pub(super) fn record(flag: &ServerFlag) -> ServerRecord {
    ServerRecord { key: flag.key, address: flag.address.clone(), available_sessions: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_cpus_is_numbers_and_ranges() {
        let cpus = |text: &str| text.parse::<CpuList>().map(|list| list.0);
        assert_eq!(cpus("0"), Ok(vec![0]));
        assert_eq!(cpus("0,2-3"), Ok(vec![0, 2, 3]));
        assert_eq!(cpus("3, 1-4,1"), Ok(vec![3, 1, 2, 4]), "each once, in their order");
        for wrong in ["", ",", "a", "1-", "-1", "3-2", "0,,1", "1024", "0-99999999999999999999"] {
            assert!(cpus(wrong).is_err(), "{wrong:?}");
        }
    }
}
