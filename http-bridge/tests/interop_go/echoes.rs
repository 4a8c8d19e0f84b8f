//! Every pair of Go and our clients through each server, in direct mode.

use std::path::Path;

use dmsg_engine::{client::ServerRecord, driver::DriverKind, mux::MuxKind};

use crate::{
    ours,
    peer::{GoEcho, GoRelay, Load, Via, go_echo, programs},
    report,
};

/// What each pair does.
const LOADS: [Load; 3] =
    [Load::one(1 << 20), Load::one(64 << 20), Load { bytes: 64 << 10, count: 25, parallel: 4 }];

struct Tools<'a> {
    echo: &'a Path,
    dial: &'a Path,
    /// How long a Go dialler waits after its session is up.
    settle: &'static str,
}

async fn all_pairs(tools: &Tools<'_>, server: &ServerRecord, driver: DriverKind, name: &str) {
    let via = Via::Server(server);
    let go = GoEcho::start_at_go_server(tools.echo, server).await;
    let us = ours::client(server, driver, MuxKind::Yamux).await;
    let dialler = ours::client(server, driver, MuxKind::Yamux).await;
    ours::spawn_echo(&us);
    let (to_go, to_us) = (ours::echo_addr(go.key), ours::echo_addr(us.public_key()));
    for load in LOADS {
        let settle = ["-settle", tools.settle];
        let go_go = go_echo(tools.dial, via, &to_go.to_string(), load, &settle).await;
        let go_us = go_echo(tools.dial, via, &to_us.to_string(), load, &settle).await;
        let us_go = ours::echo(&dialler, to_go, load).await;
        let us_us = ours::echo(&dialler, to_us, load).await;
        report!(
            "{name}: {load}: Go to Go {go_go:.2?}, Go to ours {go_us:.2?}, ours to Go {us_go:.2?}, ours to ours {us_us:.2?}"
        );
    }
    assert_eq!(dialler.stats().sessions_ended.len(), 0, "sessions ended: {:?}", dialler.stats());
    assert_eq!(us.stats().inbound_refused.len(), 0, "{:?}", us.stats());
    ours::until("the dialler's ports are free", || dialler.ports_in_use() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_pairs_through_our_server() {
    let Some([echo, dial]) = programs(["DMSG_GO_ECHO_BIN", "DMSG_GO_DIAL_BIN"]) else { return };
    // Our server keeps mux bytes that come with the handshake, so nobody needs to wait.
    let tools = Tools { echo: &echo, dial: &dial, settle: "0s" };
    for driver in ours::drivers() {
        for threads in [1, 2] {
            let server = ours::server(driver, threads);
            let name = format!("{driver:?}, {threads} relay threads");
            all_pairs(&tools, &ours::record(&server), driver, &name).await;
            let stats = server.stats();
            assert_eq!(stats.refused, [], "refused streams");
            assert_eq!(stats.streams_total, 1 + 4 * (1 + 1 + 100), "one to see that Go is there");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_pairs_through_a_go_server() {
    let Some([relay, echo, dial]) =
        programs(["DMSG_GO_RELAY_BIN", "DMSG_GO_ECHO_BIN", "DMSG_GO_DIAL_BIN"])
    else {
        return;
    };
    let tools = Tools { echo: &echo, dial: &dial, settle: "200ms" };
    for driver in ours::drivers() {
        let server = GoRelay::start(&relay, &[]).await;
        all_pairs(&tools, &server.record, driver, &format!("Go server, our clients on {driver:?}"))
            .await;
    }
}

/// A relay of 2024 drops a session whose first mux byte comes with the last handshake message (`wire.md §2.4`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_right_after_the_start_reaches_a_go_server_every_time() {
    const CLIENTS: usize = 40;
    let Some([relay, echo]) = programs(["DMSG_GO_RELAY_BIN", "DMSG_GO_ECHO_BIN"]) else { return };
    let server = GoRelay::start(&relay, &[]).await;
    let go = GoEcho::start_at_go_server(&echo, &server.record).await;
    for _ in 0..CLIENTS {
        let client = ours::client(&server.record, DriverKind::Auto, MuxKind::Yamux).await;
        ours::echo(&client, ours::echo_addr(go.key), Load::one(1)).await;
        let ended = client.stats().sessions_ended;
        assert!(ended.is_empty(), "the server dropped a session: {ended:?}");
        client.close().await;
    }
    report!("{CLIENTS} of {CLIENTS} first dials went through");
}
