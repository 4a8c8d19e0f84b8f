//! A relay, a living service, services that are dead in every way there is, and a caller of them all.
//!
//! ```text
//!                        ┌── living
//!   caller ──── relay ───┤── dead: listens on two ports, mute on one, breaking off on the other
//!                        └── frozen, behind a wire that carries nothing to it any more
//! ```

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use dmsg_bench::Result;
use dmsg_engine::{
    client::{
        Client, ClientConfig, Directory, DirectoryError, DirectoryFuture, Listener, ServerRecord,
        StaticDirectory, Stream,
    },
    identity::{PublicKey, SecretKey},
    server::{Server, ServerConfig},
    wire::{Addr, Port},
};
use dmsg_http::{
    http::server::{ServeConfig, serve},
    url::{DEFAULT_PORT, DmsgUrl},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Bytes of an answer of the living service.
pub(super) const BODY_BYTES: usize = 1024;

/// What is wrong with a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Death {
    /// The directory does not know its key.
    Unknown,
    /// The directory names the relay, which does not have it.
    Absent,
    /// It is there, and nobody listens on the port.
    NoListener,
    /// It is there for the relay, and answers no dial.
    Frozen,
    /// It takes streams, and answers no request.
    Mute,
    /// It takes streams, and breaks off in the middle of an answer's head.
    BreaksOff,
}

impl Death {
    pub(super) const ALL: [Self; 6] =
        [Self::Unknown, Self::Absent, Self::NoListener, Self::Frozen, Self::Mute, Self::BreaksOff];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown to the directory",
            Self::Absent => "not at its relay",
            Self::NoListener => "no listener",
            Self::Frozen => "answers no dial",
            Self::Mute => "answers no request",
            Self::BreaksOff => "breaks off mid-head",
        }
    }

    fn port(self) -> Port {
        match self {
            Self::NoListener => Port::MIN,
            Self::BreaksOff => DEFAULT_PORT.saturating_add(1),
            _ => DEFAULT_PORT,
        }
    }
}

pub(super) struct World {
    relay: Server,
    clients: Vec<Client>,
    pub(super) caller: Client,
    keys: fn(&str) -> SecretKey,
    /// Whether the wire to the frozen service carries nothing any more.
    is_frozen: watch::Sender<bool>,
}

impl World {
    pub(super) async fn start() -> Result<Self> {
        let key = |who: &str| SecretKey::from_seed(format!("dead service {who}").as_bytes());
        let relay =
            Server::start(ServerConfig::new(key("relay"), (Ipv4Addr::LOCALHOST, 0).into()))?;
        let is_frozen = watch::Sender::new(false);
        let wire = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let through_wire = record(&relay, wire.local_addr()?);
        tokio::spawn(carry(wire, relay.local_addr(), is_frozen.subscribe()));
        let direct = record(&relay, relay.local_addr());
        let start = |who: &str, server: &ServerRecord| {
            let directory = StaticDirectory { servers: vec![server.clone()] };
            Client::start(ClientConfig::new(key(who)), Arc::new(directory))
        };
        let living = start("living", &direct)?;
        let dead = start("dead", &direct)?;
        let frozen = start("frozen", &through_wire)?;
        let unknown = key("unknown").public_key();
        let directory = Listed { at: StaticDirectory { servers: vec![direct] }, unknown };
        let caller = Client::start(ClientConfig::new(key("caller")), Arc::new(directory))?;
        tokio::try_join!(living.ready(), dead.ready(), frozen.ready(), caller.ready())?;
        serve_living(living.listen(DEFAULT_PORT)?);
        tokio::spawn(take_streams(dead.listen(DEFAULT_PORT)?, mute));
        tokio::spawn(take_streams(dead.listen(Death::BreaksOff.port())?, break_off));
        serve_living(frozen.listen(DEFAULT_PORT)?);
        Ok(Self { relay, clients: vec![living, dead, frozen], caller, keys: key, is_frozen })
    }

    pub(super) fn living(&self) -> Result<DmsgUrl> {
        self.url("living", DEFAULT_PORT)
    }

    /// Where a service is that is dead in this way, from now on.
    pub(super) fn dead(&self, death: Death) -> Result<DmsgUrl> {
        self.is_frozen.send_replace(death == Death::Frozen);
        let who = match death {
            Death::Unknown => "unknown",
            Death::Absent => "absent",
            Death::Frozen => "frozen",
            Death::NoListener | Death::Mute | Death::BreaksOff => "dead",
        };
        self.url(who, death.port())
    }

    fn url(&self, who: &str, port: Port) -> Result<DmsgUrl> {
        Ok(DmsgUrl::new(Addr { key: (self.keys)(who).public_key(), port }, "/")?)
    }

    pub(super) async fn close(self) {
        self.caller.close().await;
        for client in self.clients {
            client.close().await;
        }
        self.relay.shutdown();
    }
}

fn record(relay: &Server, address: SocketAddr) -> ServerRecord {
    ServerRecord { key: relay.public_key(), address: address.to_string(), available_sessions: 1 }
}

/// Everybody is at the relay, but one key that is nowhere.
struct Listed {
    at: StaticDirectory,
    unknown: PublicKey,
}

impl Directory for Listed {
    fn servers(&self) -> DirectoryFuture<'_, Vec<ServerRecord>> {
        self.at.servers()
    }

    fn resolve(&self, peer: PublicKey) -> DirectoryFuture<'_, Vec<ServerRecord>> {
        if peer == self.unknown {
            return Box::pin(std::future::ready(Err(DirectoryError::NotFound(peer))));
        }
        self.at.resolve(peer)
    }

    fn publish(&self, delegated: Vec<PublicKey>) -> DirectoryFuture<'_, ()> {
        self.at.publish(delegated)
    }

    fn withdraw(&self) -> DirectoryFuture<'_, ()> {
        self.at.withdraw()
    }
}

fn serve_living(listener: Listener) {
    let answer = tower::service_fn(|_| async {
        let body = axum::body::Body::from(Bytes::from_static(&[7; BODY_BYTES]));
        Ok::<_, Infallible>(http::Response::new(body))
    });
    let config = ServeConfig::default();
    tokio::spawn(serve(listener, answer, config, Arc::default(), std::future::pending()));
}

async fn take_streams<F>(mut listener: Listener, treat: fn(Stream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    while let Ok(stream) = listener.accept().await {
        tokio::spawn(treat(stream));
    }
}

/// Reads for as long as the caller writes or waits.
async fn mute(mut stream: Stream) {
    let mut request = [0; 1024];
    while stream.read(&mut request).await.is_ok_and(|read| read > 0) {}
}

/// Half of a head, and the end.
async fn break_off(mut stream: Stream) {
    let mut request = [0; 1024];
    if stream.read(&mut request).await.is_ok_and(|read| read > 0) {
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Le").await);
        drop(stream.shutdown().await);
    }
}

/// Carries bytes between whoever connects and `to`; towards the former only while it is not frozen.
async fn carry(listener: TcpListener, to: SocketAddr, is_frozen: watch::Receiver<bool>) {
    while let Ok((near, _)) = listener.accept().await {
        let mut is_frozen = is_frozen.clone();
        tokio::spawn(async move {
            let Ok(far) = TcpStream::connect(to).await else { return };
            let ((mut from_near, mut to_near), (mut from_far, mut to_far)) =
                (near.into_split(), far.into_split());
            let up = async {
                drop(tokio::io::copy(&mut from_near, &mut to_far).await);
            };
            let down = async {
                let mut bytes = vec![0; 64 * 1024];
                while is_frozen.wait_for(|frozen| !frozen).await.is_ok() {
                    let Ok(read @ 1..) = from_far.read(&mut bytes).await else { return };
                    if is_frozen.wait_for(|frozen| !frozen).await.is_err()
                        || to_near.write_all(&bytes[..read]).await.is_err()
                    {
                        return;
                    }
                }
            };
            tokio::join!(up, down);
        });
    }
}
