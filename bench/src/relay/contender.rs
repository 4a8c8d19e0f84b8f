//! Who is measured: our relay on either driver, a rival, or a server that runs elsewhere.

use std::{fs, net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use dmsg_bench::{
    Error, Result, cpu,
    party::{self, Party},
};
use dmsg_engine::{
    client::{Client, ClientConfig, ServerRecord, StaticDirectory},
    driver::{self, DriverKind, UringConfig},
    identity::{PublicKey, SecretKey},
    server::{Server, ServerConfig},
};

use super::{
    Bench, end_to_end,
    rivals::{self, Rival},
};

/// A contender of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// Our relay, sessions, credit and budgets included.
    Ours(DriverKind),
    /// The server given by `--peer-server`.
    Peer,
    /// A proxy or a bare relay.
    Rival(Rival),
}

impl Contender {
    /// Our relay on io_uring.
    pub(crate) const URING: Self = Self::Ours(DriverKind::Uring);
    /// Our relay on epoll.
    pub(crate) const EPOLL: Self = Self::Ours(DriverKind::Epoll);

    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours(DriverKind::Uring) => "dmsg io_uring",
            Self::Ours(DriverKind::Epoll) => "dmsg epoll",
            Self::Ours(DriverKind::Auto) => "dmsg",
            Self::Peer => "peer server",
            Self::Rival(rival) => rival.name(),
        }
    }

    /// Those of `all` that were asked for and can run here.
    pub(crate) fn taking_part(bench: &Bench, all: &[Self]) -> Vec<Self> {
        let uring = driver::probe().is_ok();
        let can = |contender: &Self| match contender {
            Self::Ours(kind) => uring || *kind != DriverKind::Uring,
            Self::Rival(rival) => uring || !rival.needs_io_uring(),
            Self::Peer => bench.peer.is_some(),
        };
        all.iter().copied().filter(|one| bench.wants(*one) && can(one)).collect()
    }
}

/// `pk@address`.
#[derive(Debug, Clone)]
pub(crate) struct PeerServer {
    key: PublicKey,
    address: SocketAddr,
}

impl FromStr for PeerServer {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (key, address) = text.split_once('@').ok_or("expected PUBLIC_KEY@IP:PORT")?;
        let key = key.parse().map_err(|error| format!("{key:?}: {error}"))?;
        let address = address.parse().map_err(|error| format!("{address:?}: {error}"))?;
        Ok(Self { key, address })
    }
}

/// A running contender.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) contender: Contender,
    pub(crate) address: SocketAddr,
    /// Of a server; rivals have none.
    pub(crate) key: Option<PublicKey>,
    process: Process,
}

#[derive(Debug)]
enum Process {
    Ours(Party),
    Foreign(u32),
}

impl Running {
    /// Starts it on the server's CPU, with one thread.
    pub(crate) fn start(bench: &Bench, contender: Contender) -> Result<Self> {
        match contender {
            Contender::Peer => Self::found(bench),
            _ => Self::start_on(contender, &[bench.cpus.server], 1, &bench.tuning),
        }
    }

    /// Starts it on these CPUs.
    pub(crate) fn start_on(
        contender: Contender,
        cpus: &[usize],
        threads: usize,
        tuning: &Tuning,
    ) -> Result<Self> {
        let mut args = vec!["party".to_owned()];
        cpus.iter().for_each(|cpu| args.extend(["--cpu".to_owned(), cpu.to_string()]));
        match contender {
            Contender::Peer => return Err("a server of others is not started here".into()),
            Contender::Rival(rival) => args.extend(["--rival", rival.name()].map(str::to_owned)),
            Contender::Ours(kind) => {
                let kind = if kind == DriverKind::Epoll { "epoll" } else { "uring" };
                let threads = threads.to_string();
                args.extend(["--driver", kind, "--threads", &threads].map(str::to_owned));
                args.extend(tuning.args());
            }
        }
        let party = Party::spawn(&args.iter().map(String::as_str).collect::<Vec<_>>())?;
        let address = party.word(0).parse()?;
        let key = if party.word(1).is_empty() { None } else { Some(party.word(1).parse()?) };
        Ok(Self { contender, address, key, process: Process::Ours(party) })
    }

    fn found(bench: &Bench) -> Result<Self> {
        let PeerServer { key, address } = bench.peer.clone().ok_or("no --peer-server is given")?;
        let pid = listening_process(address.port()).ok_or_else(|| {
            format!("no process of this machine listens on {address}: its CPU time cannot be read")
        })?;
        let contender = Contender::Peer;
        Ok(Self { contender, address, key: Some(key), process: Process::Foreign(pid) })
    }

    fn pid(&self) -> u32 {
        match &self.process {
            Process::Ours(party) => party.pid(),
            Process::Foreign(pid) => *pid,
        }
    }

    /// CPU time used so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        Ok(cpu::process_time(self.pid())?)
    }

    /// User-space memory.
    pub(crate) fn anonymous_bytes(&self) -> Result<u64> {
        Ok(cpu::anonymous_bytes(self.pid())?)
    }

    /// The key of a server.
    pub(crate) fn server_key(&self) -> Result<PublicKey> {
        self.key.ok_or_else(|| Error::from("a rival has no sessions"))
    }
}

/// The process that has a TCP socket listening on `port`: by inode, in `/proc`.
fn listening_process(port: u16) -> Option<u32> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(fs::read_to_string);
    let tables: String = tables.into_iter().flatten().collect();
    let inode = tables.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let listens = fields.get(3) == Some(&"0A");
        let here = fields.get(1)?.ends_with(&format!(":{port:04X}"));
        (listens && here).then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
    })?;
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        let mut links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        links.any(|link| link.to_str() == Some(&inode))
    })
}

/// What a child is told (hidden subcommand `party`).
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PartyArgs {
    #[arg(long)]
    cpu: Vec<usize>,
    #[arg(long)]
    rival: Option<Rival>,
    #[arg(long)]
    sink: Option<PeerServer>,
    #[arg(long)]
    source: Option<PeerServer>,
    #[arg(long)]
    to: Option<PublicKey>,
    #[arg(long, default_value = "auto")]
    driver: String,
    #[arg(long, default_value_t = 1)]
    threads: u16,
    #[command(flatten)]
    tuning: Tuning,
}

/// What can be tried out about the io_uring driver of our relay.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Tuning {
    /// Shared receive buffers of our relay on io_uring [default: the driver's]
    #[arg(long, value_name = "COUNT")]
    receive_buffers: Option<u16>,
    /// Bytes of each [default: the driver's]
    #[arg(long, value_name = "BYTES")]
    receive_buffer_bytes: Option<usize>,
}

impl Tuning {
    /// For a child.
    fn args(&self) -> Vec<String> {
        let values = [
            ("--receive-buffers", self.receive_buffers.map(|n| n.to_string())),
            ("--receive-buffer-bytes", self.receive_buffer_bytes.map(|n| n.to_string())),
        ];
        let given = values.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?]));
        given.flatten().collect()
    }

    fn uring(&self) -> UringConfig {
        let mut uring = UringConfig::default();
        uring.buffers_count = self.receive_buffers.unwrap_or(uring.buffers_count);
        uring.buffer_bytes = self.receive_buffer_bytes.unwrap_or(uring.buffer_bytes);
        uring
    }
}

/// Runs as a child until the parent is gone.
pub(crate) fn serve(args: &PartyArgs) -> Result<()> {
    if !args.cpu.is_empty() {
        cpu::pin(&args.cpu)?;
    }
    let _ = cpu::raise_file_limit();
    match (args.rival, &args.sink, &args.source, args.to) {
        (Some(rival), ..) => rivals::serve(rival),
        (_, Some(server), ..) => end_to_end::sink(server),
        (_, _, Some(server), Some(to)) => end_to_end::source(server, to),
        _ => serve_relay(args),
    }
}

fn serve_relay(args: &PartyArgs) -> Result<()> {
    let mut config = ServerConfig::new(SecretKey::generate()?, "127.0.0.1:0".parse()?);
    config.driver = match args.driver.as_str() {
        "uring" => DriverKind::Uring,
        "epoll" => DriverKind::Epoll,
        _ => DriverKind::Auto,
    };
    config.threads = args.threads;
    config.uring = args.tuning.uring();
    config.sessions_max = 100_000;
    let server = Server::start(config)?;
    party::ready(&format!("{} {}", server.local_addr(), server.public_key()))?;
    party::until_orphaned();
    Ok(())
}

impl PeerServer {
    /// A client whose only server this is. With `resume_dials`, its dials after the first to a peer are by ticket.
    pub(crate) fn client(&self, resume_dials: bool) -> Result<Client> {
        let servers = vec![ServerRecord {
            key: self.key,
            address: self.address.to_string(),
            available_sessions: 1,
        }];
        let mut config = ClientConfig::new(SecretKey::generate()?);
        config.resume_dials = resume_dials;
        Ok(Client::start(config, Arc::new(StaticDirectory { servers }))?)
    }
}

impl Running {
    /// Its key and address.
    pub(crate) fn server(&self) -> Result<PeerServer> {
        Ok(PeerServer { key: self.server_key()?, address: self.address })
    }
}
