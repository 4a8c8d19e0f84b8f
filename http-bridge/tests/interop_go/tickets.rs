//! Dials by ticket (`docs/extensions.md §1`) among peers and servers that know nothing of them.

use std::{path::Path, time::Duration};

use dmsg_engine::{
    client::{ClientConfig, ServerRecord, StaticDirectory},
    driver::DriverKind,
    identity::SecretKey,
    mux::MuxKind,
};
use tokio::time::timeout;

use crate::{
    ours,
    peer::{GoEcho, GoRelay, LIMIT, Load, Via, programs},
    report,
};

const STREAMS: Load = Load { bytes: 4096, count: 20, parallel: 1 };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ours_dial_ours_by_ticket_through_a_go_server_and_go_by_handshake() {
    let Some([relay, echo]) = programs(["DMSG_GO_RELAY_BIN", "DMSG_GO_ECHO_BIN"]) else { return };
    let server = GoRelay::start(&relay, &[]).await;
    let go = GoEcho::start_at_go_server(&echo, &server.record).await;
    for driver in ours::drivers() {
        let near = ours::client(&server.record, driver, MuxKind::Yamux).await;
        let far = ours::client(&server.record, driver, MuxKind::Yamux).await;
        ours::spawn_echo(&far);
        let took = ours::echo(&near, ours::echo_addr(far.public_key()), STREAMS).await;
        let stats = near.stats();
        assert_eq!((stats.dials_ok, stats.dials_resumed, stats.dials_unknown), (20, 19, 0));
        assert_eq!(far.stats().accepted_resumed, 19);
        let took_go = ours::echo(&near, ours::echo_addr(go.key), STREAMS).await;
        let stats = near.stats();
        assert_eq!((stats.dials_ok, stats.dials_resumed, stats.dials_unknown), (40, 19, 0));
        assert!(stats.sessions_ended.is_empty() && far.stats().sessions_ended.is_empty());
        report!("{driver:?}: {STREAMS}: ours to ours {took:.2?}, ours to Go {took_go:.2?}");
    }
}

/// A Go client does not know what a ticket is, and what that costs it is one session (`wire.md §4.7`), not its life.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_became_a_go_program_is_reached_again() {
    let Some([relay, echo]) = programs(["DMSG_GO_RELAY_BIN", "DMSG_GO_ECHO_BIN"]) else { return };
    let server = GoRelay::start(&relay, &[]).await;
    let key = SecretKey::generate().unwrap();
    let near = ours::client(&server.record, DriverKind::Auto, MuxKind::Yamux).await;
    let far = ours_with(&key, &server.record).await;
    let to = ours::echo_addr(key.public_key());
    ours::echo(&near, to, Load { count: 2, ..STREAMS }).await;
    assert_eq!(near.stats().dials_resumed, 1);
    far.close().await;

    let _go = go_with(&echo, &key, &server.record).await;
    let begun = std::time::Instant::now();
    let mut failed = Vec::new();
    let stream = loop {
        match timeout(LIMIT, near.dial(to)).await.unwrap() {
            Ok(stream) => break stream,
            Err(error) => failed.push(error.to_string()),
        }
    };
    let took = begun.elapsed();
    ours::exchange(stream, 4096, 1).await;
    report!("reached after {took:.2?} and {} dials that failed: {failed:?}", failed.len());
    assert!(took < Duration::from_secs(40));
    assert_eq!(near.stats().dials_resumed, 1);
}

async fn ours_with(key: &SecretKey, server: &ServerRecord) -> dmsg_engine::client::Client {
    let directory = StaticDirectory { servers: vec![server.clone()] };
    let client =
        ours::client_with(ClientConfig::new(key.clone()), std::sync::Arc::new(directory)).await;
    ours::spawn_echo(&client);
    client
}

async fn go_with(echo: &Path, key: &SecretKey, server: &ServerRecord) -> GoEcho {
    GoEcho::start(echo, Via::Server(server), &["-sk", &key.to_hex()]).await
}
