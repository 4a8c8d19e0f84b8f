//! The client over real sockets and threads, against a scripted server on loopback.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "client_sim/scripted.rs"]
#[allow(unreachable_pub, dead_code)]
mod scripted;

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use dmsg_engine::{
    client::{
        Client, ClientConfig, ClientStatus, DialError, DialPhase, Directory, DirectoryError,
        DirectoryFuture, ServerRecord, StartError, StaticDirectory, Stream,
    },
    driver::{DriverConfig, DriverKind, spawn},
    identity::{PublicKey, SecretKey},
    mux::MuxKind,
    wire::{Addr, Port},
};
use scripted::ScriptedServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Starts a server on loopback, and returns how a directory lists it. It lives as long as the
/// test's process.
fn server(name: &str) -> ServerRecord {
    let key = SecretKey::from_seed(name.as_bytes());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut config = DriverConfig::new("scripted");
    config.kind = DriverKind::Epoll;
    config.listeners.push(listener);
    let record = ServerRecord { key: key.public_key(), address, available_sessions: 1 };
    drop(spawn(config, move |_| ScriptedServer::new(key, MuxKind::Yamux)).unwrap());
    record
}

fn direct(servers: &[ServerRecord]) -> Arc<StaticDirectory> {
    Arc::new(StaticDirectory { servers: servers.to_vec() })
}

fn config(name: &str) -> ClientConfig {
    let mut config = ClientConfig::new(SecretKey::from_seed(name.as_bytes()));
    config.driver = DriverKind::Epoll;
    config
}

fn port(number: u16) -> Port {
    Port::new(number).unwrap()
}

fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn pair(near: &Client, far: &Client, number: u16) -> (Stream, Stream) {
    let mut listener = far.listen(port(number)).unwrap();
    let to = Addr { key: far.public_key(), port: port(number) };
    let (dialled, accepted) = tokio::join!(near.dial(to), listener.accept());
    (dialled.unwrap(), accepted.unwrap())
}

#[tokio::test]
async fn eight_mebibytes_there_and_back() {
    let directory = direct(&[server("echo server")]);
    let near = Client::start(config("echo near"), directory.clone()).unwrap();
    let far = Client::start(config("echo far"), directory).unwrap();
    near.ready().await.unwrap();
    far.ready().await.unwrap();
    let (mut dialled, mut accepted) = pair(&near, &far, 80).await;
    let sent: Vec<u8> = (0..8 << 20).map(|i: u32| (i ^ i >> 9) as u8).collect();
    let expected = sent.clone();
    let echo = tokio::spawn(async move {
        let mut received = Vec::new();
        accepted.read_to_end(&mut received).await.unwrap();
        accepted.write_all(&received).await.unwrap();
        accepted.shutdown().await.unwrap();
    });
    dialled.write_all(&sent).await.unwrap();
    dialled.shutdown().await.unwrap();
    let mut back = Vec::new();
    dialled.read_to_end(&mut back).await.unwrap();
    echo.await.unwrap();
    assert!(back == expected);
    assert_eq!((near.ports_in_use(), near.stats().dials_ok, far.stats().accepted), (0, 1, 1));
    tokio::join!(near.close(), far.close());
}

#[tokio::test]
async fn a_key_runs_once_and_again_after_close() {
    let directory = direct(&[server("key server")]);
    let first = Client::start(config("key client"), directory.clone()).unwrap();
    let second = Client::start(config("key client"), directory.clone());
    assert!(matches!(second, Err(StartError::KeyInUse(key)) if key == first.public_key()));
    first.close().await;
    assert_eq!(*first.status().borrow(), ClientStatus::Closed);
    let third = Client::start(config("key client"), directory).unwrap();
    third.ready().await.unwrap();
    assert_eq!(
        first.dial(Addr { key: first.public_key(), port: port(1) }).await.unwrap_err(),
        DialError::Closed
    );
    third.close().await;
}

#[tokio::test]
async fn dropping_the_last_clone_closes_and_ends_its_streams() {
    let directory = direct(&[server("drop server")]);
    let near = Client::start(config("drop near"), directory.clone()).unwrap();
    let far = Client::start(config("drop far"), directory).unwrap();
    tokio::try_join!(near.ready(), far.ready()).unwrap();
    let (mut dialled, _accepted) = pair(&near, &far, 80).await;
    let mut status = near.status();
    let weak = near.downgrade();
    drop(near);
    let limit = tokio::time::timeout(
        Duration::from_secs(2),
        status.wait_for(|s| *s == ClientStatus::Closed),
    );
    drop(limit.await.expect("closed within 2 s"));
    assert!(weak.upgrade().is_none());
    assert!(dialled.read_u8().await.is_err());
    far.close().await;
}

/// A directory whose every answer the test decides.
#[derive(Default)]
struct Told {
    servers: Vec<ServerRecord>,
    hang_resolve: bool,
    hang_withdraw: bool,
    fail_publications: AtomicUsize,
    resolutions: AtomicUsize,
    published: Mutex<Vec<Vec<PublicKey>>>,
    withdrawn: AtomicUsize,
}

impl Directory for Told {
    fn servers(&self) -> DirectoryFuture<'_, Vec<ServerRecord>> {
        Box::pin(async { Ok(self.servers.clone()) })
    }

    fn resolve(&self, peer: PublicKey) -> DirectoryFuture<'_, Vec<ServerRecord>> {
        Box::pin(async move {
            self.resolutions.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            if self.hang_resolve {
                std::future::pending::<()>().await;
            }
            Err(DirectoryError::NotFound(peer))
        })
    }

    fn publish(&self, delegated: Vec<PublicKey>) -> DirectoryFuture<'_, ()> {
        Box::pin(async move {
            let fail = |left: usize| left.checked_sub(1);
            if self
                .fail_publications
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fail)
                .is_ok()
            {
                return Err(DirectoryError::Unavailable("not today".to_owned()));
            }
            self.published.lock().unwrap().push(delegated);
            Ok(())
        })
    }

    fn withdraw(&self) -> DirectoryFuture<'_, ()> {
        Box::pin(async move {
            self.withdrawn.fetch_add(1, Ordering::Relaxed);
            if self.hang_withdraw {
                std::future::pending::<()>().await;
            }
            Ok(())
        })
    }
}

#[tokio::test]
async fn the_entry_is_published_once_and_withdrawn_on_close() {
    let record = server("publish server");
    let directory = Arc::new(Told { servers: vec![record.clone()], ..Told::default() });
    let client = Client::start(config("publisher"), directory.clone()).unwrap();
    client.ready().await.unwrap();
    assert_eq!(*directory.published.lock().unwrap(), [vec![record.key]]);
    assert_eq!(client.sessions().len(), 1);
    client.close().await;
    assert_eq!(directory.withdrawn.load(Ordering::Relaxed), 1);
    assert_eq!(directory.published.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_failed_publication_is_tried_again_and_does_not_hold_up_readiness() {
    let servers = vec![server("retry server")];
    let directory =
        Arc::new(Told { servers, fail_publications: AtomicUsize::new(1), ..Told::default() });
    let client = Client::start(config("retrier"), directory.clone()).unwrap();
    client.ready().await.unwrap();
    let published = async {
        while directory.published.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), published).await.expect("published after 1 s");
    client.close().await;
}

#[tokio::test]
async fn close_takes_two_seconds_at_most_whatever_hangs() {
    let servers = vec![server("hang server")];
    let hanging = Told { servers, hang_resolve: true, hang_withdraw: true, ..Told::default() };
    let client = Client::start(config("hanger"), Arc::new(hanging)).unwrap();
    client.ready().await.unwrap();
    let dial = tokio::spawn(client.dial(Addr { key: client.public_key(), port: port(1) }));
    let start = Instant::now();
    client.close().await;
    assert!(start.elapsed() <= Duration::from_millis(2100), "{:?}", start.elapsed());
    assert_eq!(dial.await.unwrap().unwrap_err(), DialError::Closed);

    // Without any session, and with a server that is not there.
    let nobody = SecretKey::from_seed(b"nobody").public_key();
    let address = closed_port().to_string();
    let record = ServerRecord { key: nobody, address, available_sessions: 1 };
    let client = Client::start(config("lonely"), direct(&[record])).unwrap();
    let mut status = client.status();
    drop(status.wait_for(|now| matches!(now, ClientStatus::Degraded(_))).await.unwrap());
    let start = Instant::now();
    client.close().await;
    assert!(start.elapsed() <= Duration::from_millis(2100), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_directory_that_hangs_costs_the_dials_time_and_no_more() {
    let hanging = Told { hang_resolve: true, ..Told::default() };
    let mut short = config("patience");
    short.dial_timeout = Duration::from_millis(300);
    let client = Client::start(short, Arc::new(hanging)).unwrap();
    let error = client.dial(Addr { key: client.public_key(), port: port(1) }).await.unwrap_err();
    assert!(matches!(error, DialError::TimedOut { phase: DialPhase::Resolve, .. }), "{error}");
    assert_eq!(client.stats().streams, 0);
    client.close().await;
}

#[tokio::test]
async fn an_absent_peer_is_asked_for_once() {
    let directory = Arc::new(Told::default());
    let client = Client::start(config("asker"), directory.clone()).unwrap();
    let to = Addr { key: client.public_key(), port: port(1) };
    let dials: Vec<_> = (0..20).map(|_| tokio::spawn(client.dial(to))).collect();
    for dial in dials {
        assert_eq!(dial.await.unwrap().unwrap_err(), DialError::NotFound(to.key));
    }
    assert_eq!(directory.resolutions.load(Ordering::Relaxed), 1);
    assert_eq!(client.stats().dials_failed["not_found"], 20);
    client.close().await;
}

#[tokio::test]
async fn a_dropped_dial_frees_its_port_before_drop_returns() {
    let record = server("cancel server");
    let client = Client::start(config("canceller"), direct(&[record])).unwrap();
    client.ready().await.unwrap();
    let to = Addr { key: SecretKey::from_seed(b"absent").public_key(), port: port(1) };
    for _ in 0..200 {
        let mut dial = Box::pin(client.dial(to));
        let soon = tokio::time::timeout(Duration::from_micros(200), &mut dial).await;
        drop(dial);
        assert_eq!(client.ports_in_use(), 0, "{soon:?}");
    }
    assert_eq!(client.stats().streams, 0);
    client.close().await;
}

#[test]
fn handles_work_without_any_runtime() {
    let directory = direct(&[server("bare server")]);
    let near = Client::start(config("bare near"), directory.clone()).unwrap();
    let far = Client::start(config("bare far"), directory).unwrap();
    let mut done = Box::pin(async {
        near.ready().await.unwrap();
        far.ready().await.unwrap();
        let (mut dialled, mut accepted) = pair(&near, &far, 80).await;
        futures_util::AsyncWriteExt::write_all(&mut dialled, b"no runtime").await.unwrap();
        let mut heard = [0; 10];
        futures_util::AsyncReadExt::read_exact(&mut accepted, &mut heard).await.unwrap();
        assert_eq!(&heard, b"no runtime");
        near.close().await;
        far.close().await;
    });
    let thread = std::thread::current();
    let waker = std::task::Waker::from(Arc::new(Unpark(thread)));
    while done.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending() {
        std::thread::park();
    }
}

struct Unpark(std::thread::Thread);

impl std::task::Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
