//! What a relay server tells its operator, and whom it tells.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

use serde_json::Value;

use crate::program::{Running, assert_exit, run, stderr};

struct Operated {
    _server: Running,
    relay: String,
    admin: SocketAddr,
}

impl Operated {
    fn start(folder: &std::path::Path, admin_ip: &str, extra: &[&str]) -> Self {
        let key = folder.join("relay.key");
        let key = key.to_str().unwrap();
        let _ = run(&["key", "new", "--out", key]);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let admin = format!("{admin_ip}:{port}");
        let args =
            ["server", "--secret-key-file", key, "--listen", "127.0.0.1:0", "--log", "error"];
        let mut server = Running::start(
            &[&args[..], &["--admin", &admin, "--sessions-max", "77"], extra].concat(),
        );
        let relay = server.line();
        Self { _server: server, relay, admin: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    fn get(&self, path: &str, token: Option<&str>) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        let token = token.map(|t| format!("Authorization: Bearer {t}\r\n")).unwrap_or_default();
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{token}Connection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path, None);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }
}

#[test]
fn an_operator_sees_clients_threads_and_how_full_the_server_is() {
    let folder = tempfile::tempdir().unwrap();
    let site = folder.path().join("site");
    fs::create_dir(&site).unwrap();
    fs::write(site.join("big"), vec![7; 300_000]).unwrap();
    let server = Operated::start(folder.path(), "127.0.0.1", &[]);
    let mut serve = Running::start(&[
        "serve",
        "--server",
        &server.relay,
        "--log",
        "error",
        "--dir",
        site.to_str().unwrap(),
    ]);
    let url = serve.line();
    let key = url.strip_prefix("dmsg://").unwrap().split([':', '/']).next().unwrap();
    let curl = run(&["curl", "--server", &server.relay, "-o", "/dev/null", &format!("{url}big")]);
    assert_exit(&curl, 0);

    let health = server.json("/health");
    assert_eq!((&health["state"], &health["sessions_max"]), (&"ok".into(), &77.into()), "{health}");
    assert_eq!(health["stuck_cores"], Value::Array(Vec::new()), "{health}");
    let clients = server.json("/clients");
    let found = clients["clients"].as_array().unwrap();
    let served = found.iter().find(|client| client["public_key"] == key).unwrap();
    assert!(served["received_bytes"].as_u64().unwrap() > 300_000, "{served}");
    assert!(served["sent_bytes"].as_u64().unwrap() > 0, "{served}");
    assert_eq!(served["mux"], "yamux");
    assert!(served["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{served}");
    let none = server.json("/clients?limit=0");
    assert_eq!((&none["count"], &none["clients"]), (&clients["count"], &Value::Array(Vec::new())));
    let debug = server.json("/debug");
    assert!(debug["resident_bytes"].as_u64().unwrap() > 1 << 20, "{debug}");
    let threads = debug["threads"].as_array().unwrap();
    assert!(threads.iter().any(|thread| thread["name"] == "dmsg-relay-0"), "{debug}");
    let (_, metrics) = server.get("/metrics", None);
    for line in [
        "dmsg_server_sessions_max 77",
        "dmsg_server_stuck_cores 0",
        "dmsg_server_log_lines_lost_total 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
    assert!(!metrics.contains(key), "no label names a peer");
    assert_eq!(server.get("/clients?limit=x", None).0, 400);
}

#[test]
fn with_a_token_clients_are_told_to_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let token = "0123456789abcdef0123";
    fs::write(&file, format!("{token}\n")).unwrap();
    let flags = ["--admin-token-file", file.to_str().unwrap()];
    let server = Operated::start(folder.path(), "127.0.0.1", &flags);
    for path in ["/clients", "/debug"] {
        for wrong in [None, Some(""), Some("0123456789abcdef012"), Some("0123456789abcdef01234")] {
            assert_eq!(server.get(path, wrong).0, 401, "{path} {wrong:?}");
        }
        assert_eq!(server.get(path, Some(token)).0, 200, "{path}");
    }
    assert_eq!((server.get("/health", None).0, server.get("/metrics", None).0), (200, 200));

    fs::write(&file, "short").unwrap();
    let args = ["server", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let mut command = crate::dmsg(&[&args[..], &flags].concat());
    let output = command.env("DMSG_SECRET_KEY", "11".repeat(32)).output().unwrap();
    assert_exit(&output, 26);
    assert!(stderr(&output).contains("openssl rand"), "{}", stderr(&output));
}

#[test]
fn on_an_address_of_the_network_clients_are_told_to_nobody_without_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let server = Operated::start(folder.path(), "0.0.0.0", &[]);
    assert_eq!(server.get("/health", None).0, 200);
    let (status, body) = server.get("/clients", None);
    assert!(status == 403 && body.contains("--admin-token-file"), "{status}: {body}");
}
