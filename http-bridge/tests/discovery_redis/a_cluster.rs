use std::{net::TcpListener, process::Child, sync::Arc, time::Duration};

use dmsg_http::discovery::store::{RedisStore, StoreLimits};

use crate::{
    discovery_common::{Discovery, key, sorted_keys},
    redis::{program, spawn},
};

struct Node {
    port: u16,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Node {
    /// A node that owns some of the 16,384 slots. Its bus is 10,000 ports above, so the port must be low enough.
    async fn start(slots: [u16; 2]) -> Self {
        let port = loop {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(port) = port.checked_sub(12_000) {
                break port;
            }
        };
        let folder = tempfile::tempdir().unwrap();
        let (text, path) = (port.to_string(), folder.path().to_str().unwrap());
        let child = spawn(&[
            "--port",
            &text,
            "--bind",
            "127.0.0.1",
            "--dir",
            path,
            "--save",
            "",
            "--cluster-enabled",
            "yes",
        ]);
        let node = Self { port, child, _folder: folder };
        let [first, last] = slots.map(|slot| slot.to_string());
        while node.ask(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        node
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    async fn ask(&self, words: &[&str]) -> redis::RedisResult<String> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await
    }
}

/// Two nodes, each with half of the slots: keys of both, and commands that a Cluster would refuse across slots.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_spread_over_the_nodes_of_a_cluster() {
    if program().is_none() {
        return;
    }
    let nodes = [Node::start([0, 8191]).await, Node::start([8192, 16383]).await];
    let port = nodes[1].port.to_string();
    nodes[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &port]).await.unwrap();
    for node in &nodes {
        while !node.ask(&["CLUSTER", "INFO"]).await.unwrap().contains("cluster_state:ok") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let urls = nodes.each_ref().map(Node::url);
    let store = RedisStore::connect(&urls, StoreLimits::default()).await.unwrap();
    let discovery = Discovery::start_with(Arc::new(store), |_| ()).await;
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for name in names {
        discovery.put(discovery.client_entry(name, &["server"]), name).await;
    }
    assert_eq!(discovery.get("/dmsg-discovery/entries").await.keys(), sorted_keys(&names));
    let path = format!("/dmsg-discovery/server/{}/clients", key("server"));
    assert_eq!(discovery.get(&path).await.keys(), sorted_keys(&names));
    for node in &nodes {
        let count = node.ask(&["INFO", "keyspace"]).await.unwrap();
        assert!(count.contains("keys="), "a node without a key: {count}");
    }
}
