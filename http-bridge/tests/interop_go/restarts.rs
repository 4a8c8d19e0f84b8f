//! A server goes and comes back; its clients find it again.

use std::time::Instant;

use dmsg_engine::{identity::SecretKey, mux::MuxKind, server::Server};
use tokio::{io::AsyncReadExt, time::timeout};

use crate::{
    ours,
    peer::{GoEcho, GoRelay, LIMIT, Load, Via, free_port, go_echo, programs},
    report,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_come_back_to_our_restarted_server() {
    let Some([echo, dial]) = programs(["DMSG_GO_ECHO_BIN", "DMSG_GO_DIAL_BIN"]) else { return };
    for driver in ours::drivers() {
        let mut config = ours::server_config();
        config.driver = driver;
        config.threads = 2;
        let first = Server::start(config.clone()).unwrap();
        let record = ours::record(&first);
        config.listen = first.local_addr();
        let go = GoEcho::start_at_go_server(&echo, &record).await;
        let us = ours::client(&record, driver, MuxKind::Yamux).await;
        ours::echo(&us, ours::echo_addr(go.key), Load::one(1 << 10)).await;
        tokio::task::spawn_blocking(move || first.shutdown()).await.unwrap();

        let second = Server::start(config).unwrap();
        let back = |key| move |server: &Server| server.session_keys().contains(&key);
        let (we, they) = (back(us.public_key()), back(go.key));
        let we_took = ours::until("our client is back", || we(&second)).await;
        let they_took = we_took + ours::until("the Go client is back", || they(&second)).await;
        report!("{driver:?}: our client came back in {we_took:.2?}, Go's in {they_took:.2?}");
        ours::echo(&us, ours::echo_addr(go.key), Load::one(1 << 20)).await;
        let to = ours::echo_addr(go.key).to_string();
        go_echo(&dial, Via::Server(&record), &to, Load::one(1 << 20), &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_comes_back_to_a_killed_go_server() {
    let Some([relay, echo, dial]) =
        programs(["DMSG_GO_RELAY_BIN", "DMSG_GO_ECHO_BIN", "DMSG_GO_DIAL_BIN"])
    else {
        return;
    };
    for driver in ours::drivers() {
        let key = SecretKey::generate().unwrap();
        let listen = format!("127.0.0.1:{}", free_port());
        let first = GoRelay::start_at(&relay, &key, &listen, &[]).await;
        let us = ours::client(&first.record, driver, MuxKind::Yamux).await;
        ours::spawn_echo(&us);
        let go = GoEcho::start_at_go_server(&echo, &first.record).await;
        let mut stream = us.dial(ours::echo_addr(go.key)).await.unwrap();
        drop(go);

        let killed = Instant::now();
        first.peer.kill().await;
        let end = timeout(LIMIT, stream.read_u8()).await.unwrap().unwrap_err();
        let noticed = killed.elapsed();
        // Only the listener's port is left.
        assert_eq!(us.ports_in_use(), 1, "the stream's port is free although its handle is held");
        let second = GoRelay::start_at(&relay, &key, &listen, &[]).await;
        let back = ours::until("our client is back", || us.sessions().len() == 1).await;
        report!("{driver:?}: stream ended in {noticed:.2?} ({end}), back in {back:.2?}");

        let via = Via::Server(&second.record);
        let go = GoEcho::start_at_go_server(&echo, &second.record).await;
        ours::echo(&us, ours::echo_addr(go.key), Load::one(1 << 20)).await;
        let to_us = ours::echo_addr(us.public_key()).to_string();
        go_echo(&dial, via, &to_us, Load::one(1 << 20), &[]).await;
    }
}
