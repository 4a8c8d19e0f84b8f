//! A proxy, and an origin behind every key and port.

use std::{
    net::SocketAddr,
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::Router;
use dmsg_engine::{
    client::{DialError, DialPhase, Tries},
    identity::SecretKey,
    wire::Addr,
};
use dmsg_http::{
    forward::{ForwardConfig, forward},
    http::{BoxError, BreakOff, Dial, HttpClient, HttpConfig, Socket},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

/// Dials the origin whatever the key; refuses port 9, and does not get through to port 10.
pub struct ToOrigin {
    origin: SocketAddr,
    pub dials: Arc<AtomicUsize>,
}

impl Dial for ToOrigin {
    type Stream = Socket;

    async fn dial(&self, to: Addr) -> Result<Socket, BoxError> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        if to.port.get() == 9 {
            return Err("nobody listens there".into());
        }
        if to.port.get() == 10 {
            let (phase, elapsed) = (DialPhase::Response, Duration::from_secs(20));
            return Err(DialError::TimedOut {
                peer: Some(to.key),
                phase,
                server: None,
                elapsed,
                tries: Tries::default(),
            }
            .into());
        }
        Ok(Socket::new(TcpStream::connect(self.origin).await?))
    }

    fn break_off(stream: &Socket) -> Option<BreakOff> {
        Some(stream.break_off())
    }
}

pub struct World {
    pub proxy: SocketAddr,
    pub dials: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
    stop: Option<oneshot::Sender<()>>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// `<key>.dmsg`, as it stands in URLs.
pub fn host() -> String {
    format!("{}.dmsg", SecretKey::from_seed(b"origin").public_key())
}

impl World {
    pub async fn web(app: Router) -> Self {
        Self::web_with(app, ForwardConfig::default()).await
    }

    pub async fn web_with(app: Router, config: ForwardConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self::to(origin, serving, config).await
    }

    /// An origin that handles each connection by hand.
    pub async fn raw<F: Future<Output = ()> + Send + 'static>(
        config: ForwardConfig,
        handle: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(handle(stream));
            }
        });
        Self::to(origin, serving, config).await
    }

    async fn to(origin: SocketAddr, serving: JoinHandle<()>, config: ForwardConfig) -> Self {
        Self::limited(origin, serving, config, HttpConfig::default()).await
    }

    /// The same with limits of its own for answers.
    pub async fn limited(
        origin: SocketAddr,
        serving: JoinHandle<()>,
        config: ForwardConfig,
        limits: HttpConfig,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = listener.local_addr().unwrap();
        let dials = Arc::new(AtomicUsize::new(0));
        let dial = ToOrigin { origin, dials: Arc::clone(&dials) };
        let client = HttpClient::with_config(dial, limits);
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move { drop(stopped.await) };
        let forwarding = tokio::spawn(forward(listener, client, config, stopped));
        Self { proxy, dials, tasks: vec![serving, forwarding], stop: Some(stop) }
    }

    /// Stops the proxy as a signal does, and waits until it has.
    pub async fn stop(&mut self) {
        drop(self.stop.take());
        self.tasks.pop().unwrap().await.unwrap();
    }

    /// Sends bytes to the proxy and reads until it closes.
    pub async fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = TcpStream::connect(self.proxy).await.unwrap();
        stream.write_all(bytes.as_ref()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// A tunnel by SOCKS5, or the code of the refusal.
    pub async fn socks(&self, host: &str, port: u16) -> Result<TcpStream, u8> {
        let mut stream = TcpStream::connect(self.proxy).await.unwrap();
        stream.write_all(&socks(host, port)).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        if answer[3] == 0 { Ok(stream) } else { Err(answer[3]) }
    }

    /// A tunnel by CONNECT, or the status line of the refusal.
    pub async fn tunnel(&self, to: &str) -> Result<TcpStream, String> {
        let mut stream = TcpStream::connect(self.proxy).await.unwrap();
        let request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let status = head.lines().next().unwrap().to_owned();
        if status.contains(" 200 ") { Ok(stream) } else { Err(status) }
    }
}

/// The SOCKS5 greeting and a CONNECT to this host.
pub fn socks(host: &str, port: u16) -> Vec<u8> {
    let mut bytes = b"\x05\x01\x00\x05\x01\x00\x03".to_vec();
    bytes.push(u8::try_from(host.len()).unwrap());
    bytes.extend(host.as_bytes());
    bytes.extend(port.to_be_bytes());
    bytes
}

/// Runs a program, or says that it is skipped.
pub async fn run(program: &'static str, arguments: Vec<String>) -> Option<Output> {
    let output = tokio::task::spawn_blocking(move || {
        Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            // A proxy of the machine's own would be asked first.
            .env_remove("http_proxy")
            .env_remove("HTTP_PROXY")
            .env_remove("ALL_PROXY")
            .env_remove("all_proxy")
            .env_remove("no_proxy")
            .env_remove("NO_PROXY")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .output()
    })
    .await
    .unwrap();
    match output {
        Ok(output) => Some(output),
        Err(error) => {
            println!("skipped: {program}: {error}");
            None
        }
    }
}

pub fn words(text: &[&str]) -> Vec<String> {
    text.iter().map(ToString::to_string).collect()
}
