//! Programs of the other implementation: found by environment variable, watched by their lines, killed on drop.

use std::{
    env,
    ffi::OsStr,
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::ours;
use dmsg_engine::{
    client::ServerRecord,
    identity::{PublicKey, SecretKey},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::watch,
    time::timeout,
};

/// A limit for everything that is waited for: twice what the slowest of these (a backed-off redial) takes.
pub const LIMIT: Duration = Duration::from_secs(120);

/// A line of the result, also when the test passes.
#[macro_export]
macro_rules! report {
    ($($text:tt)*) => { $crate::peer::print(&format!($($text)*)) };
}

/// Prints past the test harness, which would hold back what a passing test says.
pub fn print(text: &str) {
    let current = thread::current();
    let test = current.name().unwrap_or("interop");
    let _ = writeln!(std::io::stderr(), "{test}: {text}");
}

/// The programs that these variables name, or a note for each that is missing.
pub fn programs<const N: usize>(variables: [&str; N]) -> Option<[PathBuf; N]> {
    let found = variables.map(env::var_os);
    for (variable, value) in variables.iter().zip(&found) {
        if value.is_none() {
            report!("skipped: {variable} is not set");
        }
    }
    found.iter().all(Option::is_some).then(|| found.map(|value| value.unwrap().into()))
}

/// A running program.
pub struct Peer {
    name: String,
    child: Child,
    lines: watch::Receiver<Vec<String>>,
}

impl Peer {
    pub fn start<S: AsRef<OsStr>>(program: &Path, args: impl IntoIterator<Item = S>) -> Self {
        let mut command = Command::new(program);
        command.args(args);
        Self::spawn(command)
    }

    /// Starts our own program, with this secret key.
    pub fn ours(secret: &SecretKey, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dmsg"));
        command.args(args);
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("DMSG_") {
                command.env_remove(name);
            }
        }
        command.env("DMSG_SECRET_KEY", &*secret.to_hex()).env("DMSG_LOG", "warn");
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let program = command.as_std().get_program().to_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
        let lines = Arc::new(watch::Sender::new(Vec::new()));
        tokio::spawn(read_lines(child.stdout.take().unwrap(), Arc::clone(&lines)));
        tokio::spawn(read_lines(child.stderr.take().unwrap(), Arc::clone(&lines)));
        let name = Path::new(&program).file_name().unwrap().to_string_lossy().into_owned();
        Self { name, child, lines: lines.subscribe() }
    }

    /// The first line that contains `text`, printed already or yet to come.
    pub async fn line(&self, text: &str) -> String {
        let mut lines = self.lines.clone();
        let first = |lines: &[String]| lines.iter().find(|line| line.contains(text)).cloned();
        match timeout(LIMIT, lines.wait_for(|lines| first(lines).is_some())).await {
            Ok(Ok(lines)) => first(&lines).unwrap(),
            Ok(Err(_)) => panic!("{} ended without {text:?}:\n{}", self.name, self.log()),
            Err(_) => panic!("{} did not print {text:?}:\n{}", self.name, self.log()),
        }
    }

    /// Waits for its end and returns everything it printed.
    pub async fn end(self) -> Vec<String> {
        self.end_with_code().await.1
    }

    /// Waits for its end: the exit code, and everything it printed.
    pub async fn end_with_code(mut self) -> (Option<i32>, Vec<String>) {
        let Ok(status) = timeout(LIMIT, self.child.wait()).await else {
            panic!("{} did not end:\n{}", self.name, self.log());
        };
        // Its output ends after it does.
        while self.lines.changed().await.is_ok() {}
        let lines = self.lines.borrow().clone();
        (status.unwrap().code(), lines)
    }

    /// Waits for its end, which must be a good one.
    pub async fn succeed(self) {
        let name = self.name.clone();
        let (code, lines) = self.end_with_code().await;
        assert_eq!(code, Some(0), "{name}:\n{}", lines.join("\n"));
    }

    /// Waits for its end; what follows `prefix` in the line that starts with it.
    pub async fn answer(self, prefix: &str) -> String {
        let name = self.name.clone();
        let lines = self.end().await;
        let answer = lines.iter().find_map(|line| line.strip_prefix(prefix));
        answer
            .unwrap_or_else(|| panic!("{name}: no {prefix:?} in\n{}", lines.join("\n")))
            .trim()
            .into()
    }

    /// SIGKILL, and waits until the kernel has closed its sockets.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    pub fn log(&self) -> String {
        self.lines.borrow().join("\n")
    }
}

async fn read_lines(from: impl AsyncRead + Unpin, lines: Arc<watch::Sender<Vec<String>>>) {
    let mut from = BufReader::new(from).lines();
    while let Ok(Some(line)) = from.next_line().await {
        lines.send_modify(|lines| lines.push(line));
    }
}

/// A relay server of the other implementation.
pub struct GoRelay {
    pub peer: Peer,
    pub record: ServerRecord,
}

impl GoRelay {
    /// Starts one on a free port, with a new key.
    pub async fn start(program: &Path, args: &[&str]) -> Self {
        Self::start_at(program, &SecretKey::generate().unwrap(), "127.0.0.1:0", args).await
    }

    pub async fn start_at(program: &Path, key: &SecretKey, listen: &str, args: &[&str]) -> Self {
        let secret = key.to_hex();
        let peer = Peer::start(program, ["-sk", &*secret, "-listen", listen].iter().chain(args));
        let ready = peer.line("READY ").await;
        let (_, address) = ready.split_once('@').unwrap();
        let record = ServerRecord {
            key: key.public_key(),
            address: address.trim().to_owned(),
            available_sessions: 1,
        };
        Self { peer, record }
    }
}

/// A client of the other implementation, and the directory it uses.
#[derive(Clone, Copy)]
pub enum Via<'a> {
    Server(&'a ServerRecord),
    Discovery(&'a str),
}

impl Via<'_> {
    pub fn args(self) -> [String; 2] {
        match self {
            Self::Server(server) => {
                ["-server".to_owned(), format!("{}@{}", server.key, server.address)]
            }
            Self::Discovery(url) => ["-disc".to_owned(), url.to_owned()],
        }
    }
}

/// An echo client of the other implementation on port 7.
pub struct GoEcho {
    pub peer: Peer,
    pub key: PublicKey,
}

impl GoEcho {
    pub async fn start(program: &Path, via: Via<'_>, args: &[&str]) -> Self {
        let args = args.iter().map(|&arg| arg.to_owned());
        let peer = Peer::start(program, via.args().into_iter().chain(args));
        let ready = peer.line("READY ").await;
        let key = ready.split_whitespace().nth(1).unwrap().parse().unwrap();
        Self { peer, key }
    }

    /// The same, and waits until the server knows it: the client is ready a moment earlier, and a relay of 2024
    /// leaves whoever dials it in that moment without an answer.
    pub async fn start_at_go_server(program: &Path, server: &ServerRecord) -> Self {
        let echo = Self::start(program, Via::Server(server), &[]).await;
        ours::reach(server, ours::echo_addr(echo.key)).await;
        echo
    }
}

/// How a dialler loads an echo: `parallel` series of `count` streams of `bytes`.
#[derive(Clone, Copy)]
pub struct Load {
    pub bytes: usize,
    pub count: usize,
    pub parallel: usize,
}

impl Load {
    pub const fn one(bytes: usize) -> Self {
        Self { bytes, count: 1, parallel: 1 }
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bytes, count, parallel } = self;
        write!(f, "{} streams ({parallel} at once) of {} KiB", count * parallel, bytes >> 10)
    }
}

/// Starts a dialler of the other implementation.
pub fn go_dial(program: &Path, via: Via<'_>, to: &str, load: Load, args: &[&str]) -> Peer {
    let Load { bytes, count, parallel } = load;
    let fixed = ["-to".to_owned(), to.to_owned(), format!("-bytes={bytes}")];
    let counts = [format!("-count={count}"), format!("-par={parallel}")];
    let args = args.iter().map(|&arg| arg.to_owned());
    Peer::start(program, via.args().into_iter().chain(fixed).chain(counts).chain(args))
}

/// Runs a dialler to its good end; how long it took, with its start.
pub async fn go_echo(
    program: &Path,
    via: Via<'_>,
    to: &str,
    load: Load,
    args: &[&str],
) -> Duration {
    let started = Instant::now();
    go_dial(program, via, to, load, args).answer("OK ").await;
    started.elapsed()
}

/// A port that was free a moment ago, for programs that cannot choose one themselves.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
