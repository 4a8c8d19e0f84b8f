//! A local proxy for ordinary programs: browsers, `curl -x`, `git` reach DMSG through it (`dmsg proxy`).
//!
//! ```text
//!                        ┌ HTTP: http://<key>.dmsg/…   ─▶ HttpClient ── stream, kept alive ──▶ service
//!   program ─ one port ──┤ HTTP: CONNECT <key>.dmsg:p  ─┐
//!     (first byte)       └ SOCKS5: CONNECT             ─┴▶ tunnel ───── stream of its own ──▶ anything
//!                                     another host      ─▶ refused, or TCP if that is allowed
//! ```
//!
//! HTTP requests are parsed and written anew, so both sides agree on where one ends; tunnels carry bytes as they are,
//! with half-close. Every local program calls with the same DMSG key, that of the proxy, so the proxy belongs on
//! loopback. It does not keep programs apart from each other, it keeps them apart from the network around it: hosts
//! outside of DMSG are refused unless allowed ([`clearnet`]), and then only public addresses are reached.

pub mod clearnet;
mod destination;
mod http;
mod over_tcp;
mod socks;
mod tunnel;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use dmsg_engine::client::DialError;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};

use self::clearnet::Clearnet;
pub use self::destination::{Destination, HostError};
use crate::http::{
    Accept, BoxError, BreakOff, Dial, HttpClient, Socket,
    server::{ServeConfig, ServeStats, serve},
};

/// How long a program may take from its connection to its first byte, and through the SOCKS5 greeting.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// From a CONNECT to its stream: as long as a dial of the engine may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a program may neither take anything of an answer nor send anything of a body it announced: a download that
/// somebody paused, a pipe that is fed by hand. The program's end is noticed at once, so this only bounds what it forgot.
const PROGRAM_STALL_TIMEOUT: Duration = Duration::from_secs(600);

/// What the kernel may hold of an answer that a program has not read; Linux doubles it. It tells us that a third is free, not
/// less, so this is also how fine the progress of a slow reader shows: at 20 kB/s every few seconds, instead of every minute
/// with the megabytes that it takes by itself.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// What a proxy allows.
#[derive(Debug, Clone)]
pub struct ForwardConfig {
    /// Tunnels at once; twice as many HTTP connections, and as many again that say nothing yet. Default 1024: a sixteenth of the
    /// 16,384 ports that a client dials from, and 128 KiB a tunnel.
    pub connections_max: usize,
    /// What becomes of hosts outside of DMSG.
    pub clearnet: Clearnet,
}

impl Default for ForwardConfig {
    fn default() -> Self {
        Self { connections_max: 1024, clearnet: Clearnet::Refused }
    }
}

/// What both protocols share.
struct Shared<D> {
    client: HttpClient<D>,
    config: ForwardConfig,
    /// Tunnels beside the connections that the HTTP server counts.
    tunnels: Arc<Semaphore>,
}

/// Serves programs until `shutdown` ends. Streams come from `client`, whose pool keeps those of requests alive.
pub async fn forward<D: Dial>(
    listener: TcpListener,
    client: HttpClient<D>,
    config: ForwardConfig,
    shutdown: impl Future<Output = ()> + Send,
) {
    let limits = ServeConfig {
        // An HTTP tunnel keeps its place among the connections and has a bound of its own below; beyond that one, a program
        // still gets an answer that says so. Mostly they all come from one address, this machine's.
        connections_max: config.connections_max.saturating_mul(2),
        connections_per_key_max: config.connections_max.saturating_mul(2),
        head_max_bytes: 64 * 1024,
        // How much it sends is between the program and the service, which has a limit of its own.
        body_max_bytes: u64::MAX,
        stall_timeout: PROGRAM_STALL_TIMEOUT,
        is_proxy: true,
        ..ServeConfig::default()
    };
    let tunnels = Arc::new(Semaphore::new(config.connections_max));
    let shared = Arc::new(Shared { client, config, tunnels });
    let (sorted, http) = mpsc::channel(1);
    let service = http::service(Arc::clone(&shared));
    let sorting = async {
        tokio::select! {
            () = sort(listener, shared, sorted) => {}
            () = shutdown => {}
        }
    };
    let stats = Arc::<ServeStats>::default();
    // What the server accepts from ends with `sort`, and so do the tunnels of SOCKS.
    tokio::join!(sorting, serve(Http(http), service, limits, stats, std::future::pending()));
}

/// Accepts connections, looks at their first byte, and hands those that speak HTTP on.
async fn sort<D: Dial>(
    mut listener: TcpListener,
    shared: Arc<Shared<D>>,
    http: mpsc::Sender<(TcpStream, SocketAddr)>,
) {
    let greetings = Arc::new(Semaphore::new(shared.config.connections_max));
    let mut programs = JoinSet::new();
    while let Ok((stream, peer)) = Accept::accept(&mut listener).await {
        while programs.try_join_next().is_some() {}
        // Those that have not said yet what they want. Requests and tunnels have bounds of their own, and answers at them.
        let Ok(permit) = Arc::clone(&greetings).try_acquire_owned() else {
            tracing::debug!(%peer, "connection refused: too many that say nothing");
            continue;
        };
        let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER_BYTES);
        programs.spawn(greet(stream, peer, Arc::clone(&shared), http.clone(), permit));
    }
}

async fn greet<D: Dial>(
    stream: TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared<D>>,
    http: mpsc::Sender<(TcpStream, SocketAddr)>,
    permit: OwnedSemaphorePermit,
) {
    let mut first = [0];
    match timeout(GREETING_TIMEOUT, stream.peek(&mut first)).await {
        Ok(Ok(1)) if first[0] == socks::VERSION => {
            if let Err(error) = socks::serve(Socket::new(stream), &shared, permit).await {
                tracing::debug!(%peer, %error, "SOCKS connection ended");
            }
        }
        Ok(Ok(1)) => {
            // From here on the server counts it.
            drop(permit);
            drop(http.send((stream, peer)).await);
        }
        _ => tracing::debug!(%peer, "a connection that said nothing"),
    }
}

/// The connections that speak HTTP.
struct Http(mpsc::Receiver<(TcpStream, SocketAddr)>);

impl Accept for Http {
    type Stream = Socket;
    type Peer = SocketAddr;

    async fn accept(&mut self) -> Result<(Socket, SocketAddr), BoxError> {
        let (stream, peer) = self.0.recv().await.ok_or("the listener is closed")?;
        Ok((Socket::new(stream), peer))
    }

    fn break_off(stream: &Socket) -> Option<BreakOff> {
        Some(stream.break_off())
    }
}

/// Why a CONNECT came to nothing.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error(transparent)]
    Clearnet(#[from] clearnet::ClearnetError),
    #[error("{0}")]
    Dial(BoxError),
    #[error("no stream within {CONNECT_TIMEOUT:?}: the peer or its servers do not answer")]
    TimedOut,
    #[error("too many tunnels are open: close some, or allow more connections")]
    TooMany,
}

impl ConnectError {
    /// Whether the host is not to be reached through this proxy.
    fn is_refusal(&self) -> bool {
        use clearnet::ClearnetError::{Private, Refused};
        matches!(self, Self::Clearnet(Refused(_) | Private(_)))
    }

    fn is_timeout(&self) -> bool {
        match self {
            Self::TimedOut | Self::Clearnet(clearnet::ClearnetError::TimedOut { .. }) => true,
            Self::Dial(error) => is_dial_timeout(error),
            _ => false,
        }
    }
}

fn is_dial_timeout(error: &BoxError) -> bool {
    matches!(error.downcast_ref(), Some(DialError::TimedOut { .. }))
}

/// A tunnel's far end, and its place among the tunnels.
enum Far<S> {
    Dmsg(S, OwnedSemaphorePermit),
    Tcp(Socket, OwnedSemaphorePermit),
}

impl<D: Dial> Shared<D> {
    async fn connect(&self, to: Destination) -> Result<Far<D::Stream>, ConnectError> {
        match to {
            Destination::Dmsg(addr) => {
                let permit = self.place()?;
                match timeout(CONNECT_TIMEOUT, self.client.dialer().dial(addr)).await {
                    Ok(Ok(stream)) => Ok(Far::Dmsg(stream, permit)),
                    Ok(Err(error)) => Err(ConnectError::Dial(error)),
                    Err(_) => Err(ConnectError::TimedOut),
                }
            }
            Destination::Other { host, port } => {
                let (stream, permit) = self.connect_tcp(&host, port).await?;
                Ok(Far::Tcp(stream, permit))
            }
        }
    }

    /// A connection to a host outside of DMSG, for one request.
    async fn connect_tcp(
        &self,
        host: &str,
        port: u16,
    ) -> Result<(Socket, OwnedSemaphorePermit), ConnectError> {
        let permit = self.place()?;
        Ok((Socket::new(self.config.clearnet.connect(host, port).await?), permit))
    }

    fn place(&self) -> Result<OwnedSemaphorePermit, ConnectError> {
        Arc::clone(&self.tunnels).try_acquire_owned().map_err(|_| ConnectError::TooMany)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncWriteExt, DuplexStream};

    use super::*;

    struct Nobody;

    impl Dial for Nobody {
        type Stream = DuplexStream;

        async fn dial(&self, _: dmsg_engine::wire::Addr) -> Result<DuplexStream, BoxError> {
            Err("nobody is there".into())
        }
    }

    /// The kernel says that there is room again when a third of its buffer is free. At 20 kB/s that has to be within the 30 s
    /// that services let an answer stand still.
    #[tokio::test]
    async fn a_slow_reader_shows_its_progress() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = ForwardConfig::default();
        let tunnels = Arc::new(Semaphore::new(1));
        let client = HttpClient::new(Nobody);
        let (sorted, mut http) = mpsc::channel(1);
        tokio::spawn(sort(listener, Arc::new(Shared { client, config, tunnels }), sorted));
        let mut program = TcpStream::connect(address).await.unwrap();
        program.write_all(b"G").await.unwrap();
        let (stream, _) = http.recv().await.unwrap();
        let buffer = SockRef::from(&stream).send_buffer_size().unwrap();
        assert!(buffer / 3 < 20_000 * 10, "{buffer} bytes");
    }
}
