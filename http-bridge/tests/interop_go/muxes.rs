//! The behaviour of 2026: smux in both versions beside yamux, ML-KEM offers, the ping marker; and IP look-ups.

use std::{path::Path, time::Duration};

use dmsg_engine::{
    client::{Client, ServerRecord},
    driver::DriverKind,
    identity::PublicKey,
    mux::MuxKind,
    server::Server,
    wire::Addr,
};

use crate::{
    ours,
    peer::{GoEcho, GoRelay, Load, Peer, Via, go_dial, go_echo, programs},
    report,
};

const MUXES: [(MuxKind, &str); 3] =
    [(MuxKind::Yamux, "yamux"), (MuxKind::SmuxV1, "smux1"), (MuxKind::SmuxV2, "smux2")];

const LOADS: [Load; 2] = [Load::one(16 << 20), Load { bytes: 16 << 10, count: 5, parallel: 4 }];

/// Somebody who echoes.
struct Target {
    name: String,
    addr: Addr,
}

/// Waits for the session and tells the server its mux, as the discovery entry of a client does: this one has not spoken yet.
async fn hint(server: &Server, key: PublicKey, kind: MuxKind) {
    ours::until("the session is up", || server.session_keys().contains(&key)).await;
    server.hint_mux(&key, kind);
}

async fn go_echoes(server: &Server, echo: &Path) -> Vec<(Target, GoEcho)> {
    let record = ours::record(server);
    let mut echoes = Vec::new();
    for (kind, mux) in MUXES {
        let go = GoEcho::start(echo, Via::Server(&record), &["-mux", mux]).await;
        hint(server, go.key, kind).await;
        let target = Target { name: format!("Go {mux}"), addr: ours::echo_addr(go.key) };
        echoes.push((target, go));
    }
    echoes
}

async fn our_echoes(server: &Server, driver: DriverKind) -> Vec<(Target, Client)> {
    let record = ours::record(server);
    let mut echoes = Vec::new();
    for (kind, mux) in MUXES {
        let client = ours::client(&record, driver, kind).await;
        ours::spawn_echo(&client);
        hint(server, client.public_key(), kind).await;
        let addr = ours::echo_addr(client.public_key());
        echoes.push((Target { name: format!("our {mux}"), addr }, client));
    }
    echoes
}

async fn all_muxes(server: &Server, driver: DriverKind, echo: &Path, dial: &Path) {
    let record = ours::record(server);
    let go = go_echoes(server, echo).await;
    let us = our_echoes(server, driver).await;
    let targets = || go.iter().map(|(target, _)| target).chain(us.iter().map(|(target, _)| target));
    for (kind, mux) in MUXES {
        let dialler = ours::client(&record, driver, kind).await;
        for target in targets() {
            for load in LOADS {
                let to = target.addr.to_string();
                let args = ["-mux", mux, "-settle", "0s"];
                let by_go = go_echo(dial, Via::Server(&record), &to, load, &args).await;
                let by_us = ours::echo(&dialler, target.addr, load).await;
                let name = &target.name;
                report!("{mux} to {name}: {load}: dialled by Go {by_go:.2?}, by us {by_us:.2?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mux_meets_every_mux_at_our_server() {
    let Some([echo, dial]) = programs(["DMSG_GO26_ECHO_BIN", "DMSG_GO26_DIAL_BIN"]) else { return };
    for driver in ours::drivers() {
        for threads in [1, 2] {
            report!("{driver:?}, {threads} relay threads");
            let server = ours::server(driver, threads);
            all_muxes(&server, driver, &echo, &dial).await;
            assert_eq!(server.stats().refused, [], "streams ended before their time");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_speaks_every_mux_to_a_go_server() {
    let Some([relay, echo, dial]) =
        programs(["DMSG_GO26_RELAY_BIN", "DMSG_GO26_ECHO_BIN", "DMSG_GO26_DIAL_BIN"])
    else {
        return;
    };
    for driver in ours::drivers() {
        for (kind, mux) in MUXES {
            let args = ["-mux", mux];
            let server = GoRelay::start(&relay, &args).await;
            let via = Via::Server(&server.record);
            let go = GoEcho::start(&echo, via, &args).await;
            let us = ours::client(&server.record, driver, kind).await;
            ours::spawn_echo(&us);
            let to_us = ours::echo_addr(us.public_key()).to_string();
            for load in LOADS {
                let by_us = ours::echo(&us, ours::echo_addr(go.key), load).await;
                let by_go = go_echo(&dial, via, &to_us, load, &args).await;
                report!(
                    "{driver:?}, {mux}: {load}: ours to Go {by_us:.2?}, Go to ours {by_go:.2?}"
                );
            }
        }
    }
}

/// Whether the dialler's stream is post-quantum, as its log has it.
fn pq_of(log: &[String]) -> bool {
    let dialled = log.iter().find(|line| line.contains("pq ")).expect("the log of a dial");
    dialled.contains("pq true")
}

/// Offers are mixed in and otherwise ignored by us, and passed on between those who take part.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn post_quantum_offers_do_no_harm() {
    let Some([relay, echo, dial]) =
        programs(["DMSG_GO26_RELAY_BIN", "DMSG_GO26_ECHO_BIN", "DMSG_GO26_DIAL_BIN"])
    else {
        return;
    };
    let our_server = ours::server(DriverKind::Auto, 1);
    let go_server = GoRelay::start(&relay, &[]).await;
    for (name, record) in
        [("our server", ours::record(&our_server)), ("Go server", go_server.record.clone())]
    {
        let via = Via::Server(&record);
        let go = GoEcho::start_at_go_server(&echo, &record).await;
        let us = ours::client(&record, DriverKind::Auto, MuxKind::Yamux).await;
        ours::spawn_echo(&us);
        ours::echo(&us, ours::echo_addr(go.key), Load::one(1 << 20)).await;
        for (key, both_offer) in [(go.key, true), (us.public_key(), false)] {
            let to = ours::echo_addr(key).to_string();
            let log = go_dial(&dial, via, &to, Load::one(1 << 20), &[]).end().await;
            assert!(log.iter().any(|line| line.starts_with("OK ")), "{}", log.join("\n"));
            assert_eq!(pq_of(&log), both_offer);
        }
        report!("{name}: Go to Go post-quantum, with ours classical, all echoes right");
    }
}

/// What a Go client asks the server itself.
async fn ask(dial: &Path, server: &ServerRecord, mux: &[&str], question: &str) -> Vec<String> {
    let via = Via::Server(server).args();
    let args = via.iter().map(String::as_str).chain(mux.iter().copied()).chain([question]);
    Peer::start(dial, args).end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_server_answers_the_ping_marker() {
    let Some([dial]) = programs(["DMSG_GO26_DIAL_BIN"]) else { return };
    let server = ours::server(DriverKind::Auto, 1);
    for (_, mux) in MUXES {
        let log = ask(&dial, &ours::record(&server), &["-mux", mux], "-ping").await;
        let answer = log.iter().find(|line| line.starts_with("PING "));
        report!("{mux}: {}", answer.unwrap_or_else(|| panic!("{}", log.join("\n"))));
    }
    assert_eq!(server.stats().pings_answered, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ip_lookups_work_both_ways() {
    for variables in
        [["DMSG_GO_RELAY_BIN", "DMSG_GO_DIAL_BIN"], ["DMSG_GO26_RELAY_BIN", "DMSG_GO26_DIAL_BIN"]]
    {
        let Some([relay, dial]) = programs(variables) else { continue };
        let server = ours::server(DriverKind::Auto, 1);
        let log = ask(&dial, &ours::record(&server), &[], "-lookupip").await;
        assert!(log.iter().any(|line| line == "IP 127.0.0.1"), "{}", log.join("\n"));
        assert_eq!(server.stats().ip_lookups, 1);
        let go = GoRelay::start(&relay, &[]).await;
        let us = ours::client(&go.record, DriverKind::Auto, MuxKind::Yamux).await;
        let answer = tokio::time::timeout(Duration::from_secs(5), us.lookup_ip(None)).await;
        assert_eq!(answer.unwrap().unwrap(), "127.0.0.1".parse::<std::net::IpAddr>().unwrap());
        assert_eq!(us.ports_in_use(), 0);
        report!("{}: 127.0.0.1 both ways", dial.file_name().unwrap().display());
    }
}
