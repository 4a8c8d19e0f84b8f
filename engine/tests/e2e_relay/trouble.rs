//! What an operator sees of a core: whom it carries, that it hangs, that it panicked. The last two are brought about by what
//! listens to the log: it stops or panics when a certain client's session comes up, on the thread of that session's core.

use std::{
    fmt,
    sync::{
        Mutex, Once,
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use dmsg_engine::{
    client::Client,
    driver::DriverKind,
    identity::{PublicKey, SecretKey},
    mux::MuxKind,
    relay::ClientInfo,
    server::Server,
};
use tracing::{Event, Subscriber, field::Visit};
use tracing_subscriber::{Layer, layer::Context, prelude::*};

use crate::{LIMIT, client, client_of, client_with, drivers, echo, server, server_knows};

enum Trap {
    Panic,
    /// Waits until the other end is dropped.
    Wait(Receiver<()>),
}

/// For the client with this short key.
static TRAPS: Mutex<Vec<(String, Trap)>> = Mutex::new(Vec::new());

struct Ambush;

impl<S: Subscriber> Layer<S> for Ambush {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        struct Whom(Option<String>);
        impl Visit for Whom {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
                if field.name() == "client" {
                    self.0 = Some(format!("{value:?}"));
                }
            }
        }
        let mut whom = Whom(None);
        event.record(&mut whom);
        let trap = {
            let mut traps = TRAPS.lock().unwrap();
            let at = traps.iter().position(|(short, _)| Some(short) == whom.0.as_ref());
            at.map(|at| traps.swap_remove(at).1)
        };
        match trap {
            Some(Trap::Panic) => panic!("as this test wants it"),
            Some(Trap::Wait(end)) => drop(end.recv()),
            None => {}
        }
    }
}

fn lay(trap: Trap, whom: PublicKey) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing_subscriber::registry().with(Ambush).init());
    TRAPS.lock().unwrap().push((whom.short(), trap));
}

fn lay_a_wait(whom: PublicKey) -> Sender<()> {
    let (sender, receiver) = channel();
    lay(Trap::Wait(receiver), whom);
    sender
}

fn of(clients: &[ClientInfo], client: &Client) -> ClientInfo {
    clients.iter().find(|info| info.key == client.public_key()).unwrap().clone()
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_whom_a_server_carries_and_how_hard() {
    for driver in drivers() {
        for threads in [1, 2] {
            let server = server(driver, threads);
            let (a, b) = (client(driver, &server), client(driver, &server));
            let quiet = client_with(driver, &server, MuxKind::SmuxV2);
            for client in [&a, &b, &quiet] {
                client.ready().await.unwrap();
            }
            server_knows(&server, 3).await;
            echo(&server, &a, &b, 1 << 20).await;
            let clients = server.clients(LIMIT);
            assert_eq!(clients.len(), 3);
            assert_eq!(clients[2].key, quiet.public_key(), "the busiest first");
            let (at_a, at_b, at_quiet) = (of(&clients, &a), of(&clients, &b), of(&clients, &quiet));
            for info in [&at_a, &at_b] {
                let sent = 1 << 20..1_100_000;
                assert!(sent.contains(&info.received_bytes), "{info:?}");
                assert!(sent.contains(&info.sent_bytes), "{info:?}");
                assert_eq!(info.mux, Some(MuxKind::Yamux));
                assert!(info.address.ip().is_loopback() && info.age < LIMIT, "{info:?}");
            }
            assert_eq!((at_quiet.received_bytes, at_quiet.sent_bytes, at_quiet.streams), (0, 0, 0));
            assert_eq!(server.stuck_cores(LIMIT), []);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_core_that_hangs_is_named_and_the_other_answers() {
    let server = server(DriverKind::Epoll, 2);
    let key = SecretKey::generate().unwrap();
    let end = lay_a_wait(key.public_key());
    let _prey = client_of(key, DriverKind::Epoll, &server, MuxKind::Yamux);
    let patience = Duration::from_millis(20);
    until("no core hangs", || server.stuck_cores(patience).len() == 1).await;
    assert!(!server.has_failed(), "it may come back");
    drop(end);
    until("it hangs for ever", || server.stuck_cores(patience).is_empty()).await;
    assert_eq!(server.clients(LIMIT).len(), 1);
}

/// Two clients each on both cores of a server, by core.
async fn two_on_each_core(server: &Server) -> [Vec<Client>; 2] {
    let mut clients = [Vec::new(), Vec::new()];
    for count in 1..100 {
        let new = client(DriverKind::Epoll, server);
        new.ready().await.unwrap();
        server_knows(server, count).await;
        clients[usize::from(of(&server.clients(LIMIT), &new).core)].push(new);
        if clients.iter().all(|at| at.len() >= 2) {
            return clients;
        }
    }
    panic!("the kernel spreads nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_core_that_panics_takes_its_sessions_along_and_no_others() {
    let server = server(DriverKind::Epoll, 2);
    let clients = two_on_each_core(&server).await;
    // Where it lands is the kernel's choice.
    let key = SecretKey::generate().unwrap();
    lay(Trap::Panic, key.public_key());
    let prey = client_of(key, DriverKind::Epoll, &server, MuxKind::Yamux);
    until("nothing panicked", || server.has_failed()).await;
    assert_eq!(server.available_sessions(), 0, "nobody new shall come");
    until("both are there", || {
        server.clients(LIMIT).iter().any(|info| info.key == prey.public_key())
    })
    .await;
    let core = usize::from(of(&server.clients(LIMIT), &prey).core);
    // Those of the core that lives have noticed nothing.
    for survivor in &clients[core] {
        assert_eq!(survivor.stats().sessions_ended.values().sum::<u64>(), 0);
    }
    echo(&server, &clients[core][0], &clients[core][1], 1 << 16).await;
    // The others come back, to the core that is left.
    let all = (clients[0].len() + clients[1].len() + 1) as u64;
    until("not all are back", || server.stats().sessions == all).await;
    echo(&server, &clients[1 - core][0], &clients[core][0], 1 << 16).await;
}
