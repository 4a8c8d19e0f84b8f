//! A Redis of the test's own.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use dmsg_http::discovery::store::{RedisStore, Store, StoreLimits};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

pub struct Redis {
    folder: TempDir,
    child: Option<Child>,
}

/// The program, or a line that says why the test is skipped.
pub fn program() -> Option<PathBuf> {
    let found = std::env::var_os("PATH")
        .iter()
        .flat_map(std::env::split_paths)
        .map(|folder| folder.join("redis-server"))
        .find(|path| path.is_file());
    if found.is_none() {
        println!("skipped: redis-server is not installed (Debian: apt-get install redis-server)");
    }
    found
}

impl Redis {
    pub async fn start() -> Option<Self> {
        let mut redis = Self { folder: tempfile::tempdir().unwrap(), child: None };
        program()?;
        redis.up().await;
        Some(redis)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("redis")
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// How often it was asked this, such as `getrange`.
    pub async fn calls(&self, command: &str) -> u64 {
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        stream.write_all(b"INFO commandstats\r\nQUIT\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let begin = format!("cmdstat_{command}:calls=");
        let line = text.lines().find_map(|line| line.strip_prefix(&begin));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    }

    /// Puts a text there that no discovery of ours would.
    pub async fn set(&self, key: &str, text: &[u8]) {
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        let head = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n", key.len(), text.len());
        let command = [head.as_bytes(), text, b"\r\n"].concat();
        stream.write_all(&command).await.unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"+OK\r\n");
    }

    /// Starts it, with what it saved when it went down in order.
    pub async fn up(&mut self) {
        let folder = self.folder.path().to_str().unwrap();
        let socket = self.socket();
        let arguments = [
            "--port",
            "0",
            "--unixsocket",
            socket.to_str().unwrap(),
            "--dir",
            folder,
            "--save",
            "3600 1",
        ];
        self.child = Some(spawn(&arguments));
        while UnixStream::connect(&socket).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends it; it saves what it has.
    pub fn down(&mut self) {
        let mut child = self.child.take().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid).unwrap(),
            rustix::process::Signal::TERM,
        )
        .unwrap();
        child.wait().unwrap();
    }

    pub async fn store(&self) -> Arc<dyn Store> {
        Arc::new(RedisStore::connect(&[self.url()], StoreLimits::default()).await.unwrap())
    }
}

pub fn spawn(arguments: &[&str]) -> Child {
    Command::new(program().unwrap())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs what waits for Redis where waiting is allowed.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}
