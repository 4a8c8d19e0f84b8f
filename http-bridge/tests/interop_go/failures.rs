//! Dials that cannot succeed, and peers that die: who learns of it, how soon, and that nothing stays behind.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use dmsg_engine::{
    client::{Client, ServerRecord, Stream},
    driver::DriverKind,
    identity::{PublicKey, SecretKey},
    mux::MuxKind,
    server::Server,
    wire::{Addr, Port},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    ours,
    peer::{GoEcho, GoRelay, LIMIT, Load, Via, go_dial, go_echo, programs},
    report,
};

/// A server of either kind, for as long as it is held.
enum AnyServer {
    Ours(Server),
    Go(GoRelay),
}

impl AnyServer {
    /// One of each.
    async fn both(relay: &Path) -> [(&'static str, Self); 2] {
        let go = GoRelay::start(relay, &[]).await;
        [("our server", Self::Ours(ours::server(DriverKind::Auto, 1))), ("Go server", Self::Go(go))]
    }

    fn record(&self) -> ServerRecord {
        match self {
            Self::Ours(server) => ours::record(server),
            Self::Go(relay) => relay.record.clone(),
        }
    }
}

fn tools() -> Option<[PathBuf; 3]> {
    programs(["DMSG_GO_RELAY_BIN", "DMSG_GO_ECHO_BIN", "DMSG_GO_DIAL_BIN"])
}

async fn our_failed_dial(client: &Client, to: Addr) -> String {
    let started = Instant::now();
    let error = timeout(LIMIT, client.dial(to)).await.unwrap().unwrap_err();
    assert_eq!(client.ports_in_use(), 0, "a failed dial leaves no port");
    format!("{:.2?} ({})", started.elapsed(), error.label())
}

async fn go_failed_dial(dial: &Path, server: &ServerRecord, to: Addr) -> String {
    let started = Instant::now();
    let peer = go_dial(dial, Via::Server(server), &to.to_string(), Load::one(1), &[]);
    let reason = peer.answer("FAIL ").await;
    format!("{:.2?} ({reason})", started.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_nobody_listens_on_fails_the_dial_and_nothing_else() {
    let Some([relay, echo, dial]) = tools() else { return };
    let port = Port::new(9).unwrap();
    for (name, server) in AnyServer::both(&relay).await {
        let record = server.record();
        let go = GoEcho::start_at_go_server(&echo, &record).await;
        let listener = ours::client(&record, DriverKind::Auto, MuxKind::Yamux).await;
        let dialler = ours::client(&record, DriverKind::Auto, MuxKind::Yamux).await;
        ours::spawn_echo(&listener);
        let us_go = our_failed_dial(&dialler, Addr { key: go.key, port }).await;
        let to_us = Addr { key: listener.public_key(), port };
        let go_us = go_failed_dial(&dial, &record, to_us).await;
        let us_us = our_failed_dial(&dialler, to_us).await;
        report!("{name}: ours to Go {us_go}, Go to ours {go_us}, ours to ours {us_us}");
        ours::echo(&dialler, ours::echo_addr(go.key), Load::one(1 << 10)).await;
        ours::echo(&dialler, ours::echo_addr(listener.public_key()), Load::one(1 << 10)).await;
        assert_eq!(listener.stats().inbound_refused["no_listener"], 2);
        for client in [&listener, &dialler] {
            assert!(client.stats().sessions_ended.is_empty(), "{:?}", client.stats());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_key_fails_the_dial_and_nothing_else() {
    let Some([relay, echo, dial]) = tools() else { return };
    let nobody = ours::echo_addr(SecretKey::generate().unwrap().public_key());
    for (name, server) in AnyServer::both(&relay).await {
        let record = server.record();
        let go = GoEcho::start_at_go_server(&echo, &record).await;
        let dialler = ours::client(&record, DriverKind::Auto, MuxKind::Yamux).await;
        let by_us = our_failed_dial(&dialler, nobody).await;
        let by_go = go_failed_dial(&dial, &record, nobody).await;
        report!("{name}: dialled by us {by_us}, by Go {by_go}");
        ours::echo(&dialler, ours::echo_addr(go.key), Load::one(1 << 10)).await;
        assert!(dialler.stats().sessions_ended.is_empty(), "{:?}", dialler.stats());
    }
}

/// A stream that has carried a byte both ways.
async fn open_stream(client: &Client, to: PublicKey) -> Stream {
    let mut stream = timeout(LIMIT, client.dial(ours::echo_addr(to))).await.unwrap().unwrap();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(timeout(LIMIT, stream.read_u8()).await.unwrap().unwrap(), b'x');
    stream
}

/// How a stream ends on which nothing comes any more.
async fn end_of(stream: &mut Stream) -> String {
    match timeout(LIMIT, stream.read_u8()).await.expect("the stream never ended") {
        Ok(byte) => panic!("a byte came: {byte}"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_peer_ends_its_streams_and_no_others() {
    let Some([relay, echo, dial]) = tools() else { return };
    for (name, server) in AnyServer::both(&relay).await {
        let record = server.record();
        let via = Via::Server(&record);
        let go = GoEcho::start_at_go_server(&echo, &record).await;
        let bystander = GoEcho::start_at_go_server(&echo, &record).await;
        let us = ours::client(&record, DriverKind::Auto, MuxKind::Yamux).await;
        let mut listener = us.listen(Port::new(ours::ECHO_PORT).unwrap()).unwrap();

        let mut kept = open_stream(&us, bystander.key).await;
        let mut lost = open_stream(&us, go.key).await;
        let killed = Instant::now();
        go.peer.kill().await;
        let how = end_of(&mut lost).await;
        let dialled = killed.elapsed();
        drop(lost);

        let to_us = ours::echo_addr(us.public_key()).to_string();
        let dialler = go_dial(&dial, via, &to_us, Load::one(1), &["-hold", "1h", "-timeout", "1h"]);
        let mut accepted = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
        let byte = accepted.read_u8().await.unwrap();
        accepted.write_u8(byte).await.unwrap();
        let killed = Instant::now();
        dialler.kill().await;
        end_of(&mut accepted).await;
        let was_accepted = killed.elapsed();
        drop(accepted);
        report!(
            "{name}: dialled stream ended in {dialled:.2?} ({how}), accepted in {was_accepted:.2?}"
        );

        kept.write_all(b"y").await.unwrap();
        assert_eq!(timeout(LIMIT, kept.read_u8()).await.unwrap().unwrap(), b'y');
        drop((kept, listener));
        ours::until("all ports and streams are free", || {
            us.ports_in_use() == 0 && us.stats().streams == 0
        })
        .await;
        if let AnyServer::Ours(server) = &server {
            ours::until("the server has no streams", || server.stats().streams == 0).await;
        }
        go_echo(&dial, via, &ours::echo_addr(bystander.key).to_string(), Load::one(1), &[]).await;
    }
}
