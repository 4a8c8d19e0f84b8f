//! Whole deployments in which nothing listens for HTTP: in one process, and in a process for each part.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use dmsg_engine::identity::SecretKey;
use dmsg_http::{
    access::{AccessConfig, AccessPolicy},
    deployment::{Environment, load},
    overlay::{Overlay, OverlayConfig},
    service::ServiceKind,
    services::{
        CallOptions,
        route_finder::{Edge, RouteFinderClient, RouteOptions},
        service_discovery::{Offer, OfferAddr, Query, ServiceDiscoveryClient},
        transport_discovery::TransportDiscoveryClient,
        uptime_tracker::{UptimeQuery, UptimeTrackerClient},
    },
    transport::HttpTransport,
};

use crate::{
    program::{Running, assert_exit, run, stdout},
    support::{key, secret},
    transport_discovery::transport,
};

/// Listening TCP sockets of a process.
fn listeners(pid: u32) -> usize {
    let sockets: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
        .filter_map(|link| {
            let name = link.to_str()?;
            Some(name.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let listening = |table: &str| -> usize {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        let rows = text.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
        rows.filter(|row| row[3] == "0A" && sockets.iter().any(|inode| inode == row[9])).count()
    };
    listening("tcp") + listening("tcp6")
}

/// A visor's access to the services of a deployment, over DMSG only.
struct Visor {
    overlay: Overlay,
    deployment: dmsg_http::deployment::Services,
    secret: SecretKey,
}

impl Visor {
    fn start(document: &Path, name: &str) -> Self {
        let loaded = load(Some(document), None).unwrap();
        let deployment = loaded.document.services(Environment::Prod).clone();
        let mut discovery = deployment.endpoints(ServiceKind::DmsgDiscovery);
        discovery.http = None;
        let mut config =
            OverlayConfig::deployed(secret(name), deployment.server_records(), discovery);
        config.access.policy = AccessPolicy::DmsgOnly;
        Self { overlay: Overlay::start(config).unwrap(), deployment, secret: secret(name) }
    }

    fn access(&self, kind: ServiceKind) -> Arc<dyn HttpTransport> {
        let config = AccessConfig::with_policy(AccessPolicy::DmsgOnly);
        Arc::new(self.overlay.access(kind, &self.deployment.endpoints(kind), config))
    }

    fn transports(&self) -> TransportDiscoveryClient {
        let access = self.access(ServiceKind::TransportDiscovery);
        TransportDiscoveryClient::new(access, self.secret.clone(), CallOptions::default())
    }
}

/// Every service does its work for visors that speak nothing but DMSG.
async fn use_all(document: &Path, a: &str, b: &str) {
    let (one, two) = (Visor::start(document, a), Visor::start(document, b));
    let link = transport(a, b, "dmsg");
    one.transports().register(std::slice::from_ref(&link)).await.unwrap();
    let found = two.transports().transports_of(key(b)).await.unwrap();
    assert_eq!(found, std::slice::from_ref(&link.entry));
    let finder =
        RouteFinderClient::new(two.access(ServiceKind::RouteFinder), CallOptions::default());
    let edge = Edge { from: key(a), to: key(b) };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let routes = loop {
        // The finder looks at the transports every other second.
        match finder.routes(&[edge], RouteOptions::default()).await {
            Ok(routes) => break routes,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    assert_eq!(routes[&edge][0][0].transport, link.entry.id);
    let tracker = UptimeTrackerClient::new(
        one.access(ServiceKind::UptimeTracker),
        secret(a),
        CallOptions::default(),
    );
    tracker.heartbeat("v1").await.unwrap();
    assert!(tracker.online(&UptimeQuery::default()).await.unwrap().iter().any(|v| v.key == key(a)));
    let directory = ServiceDiscoveryClient::new(
        one.access(ServiceKind::ServiceDiscovery),
        secret(a),
        CallOptions::default(),
    );
    let offer =
        Offer { version: "v1".into(), ..Offer::new(OfferAddr { key: key(a), port: 44 }, "vpn") };
    directory.register(&offer).await.unwrap();
    assert_eq!(directory.list(&Query::of("vpn")).await.unwrap(), [offer]);
    one.overlay.close().await;
    two.overlay.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dmsg_local_has_no_http_endpoint_and_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, document) = (folder.path().join("network"), folder.path().join("deployment.json"));
    let args = [
        "local",
        "--dmsg-only",
        "--log",
        "warn",
        "--dir",
        dir.to_str().unwrap(),
        "--deployment-out",
        document.to_str().unwrap(),
    ];
    let mut network = Running::start(&args);
    network.line_with("Its services");
    // The two relays, and nothing else.
    assert_eq!(listeners(network.pid()), 2);
    let check = run(&["config", "check", "--probe", "--deployment", document.to_str().unwrap()]);
    assert_exit(&check, 0);
    use_all(&document, "one", "two").await;
    let before = fs::read_to_string(&document).unwrap();
    network.stop("-KILL");
    let mut network = Running::start(&args);
    network.line_with("Its services");
    // Keys and relays' ports are as before, and so is what was registered.
    assert_eq!(fs::read_to_string(&document).unwrap(), before);
    let visor = Visor::start(&document, "two");
    assert_eq!(visor.transports().transports_of(key("two")).await.unwrap().len(), 1);
    visor.overlay.close().await;
    let (code, _, _) = network.stop("-TERM");
    assert_eq!(code, Some(0));
}

/// Makes a key file; gives its public key.
fn make_key(folder: &Path, name: &str) -> (PathBuf, String) {
    let path = folder.join(format!("{name}.key"));
    let output = run(&["key", "new", "--out", path.to_str().unwrap()]);
    assert_exit(&output, 0);
    (path, stdout(&output).trim().to_owned())
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_part_is_a_process_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let services = [
        "transport-discovery",
        "service-discovery",
        "address-resolver",
        "route-finder",
        "uptime-tracker",
    ];
    let (discovery_key, discovery) = make_key(folder, "discovery");
    let (relay_key, relay) = make_key(folder, "relay");
    let address = format!("127.0.0.1:{}", free_port());
    let mut document = serde_json::json!({
        "dmsg_discovery_dmsg": format!("dmsg://{discovery}:80"),
        "dmsg_servers": [{"static": relay, "server": {"address": address}}],
    });
    let keys: Vec<PathBuf> = services
        .iter()
        .map(|name| {
            let (path, public) = make_key(folder, name);
            let member = format!("{}_dmsg", name.replace('-', "_"));
            document[member] = format!("dmsg://{public}:80").into();
            path
        })
        .collect();
    let path = folder.join("deployment.json");
    fs::write(&path, serde_json::json!({"prod": document, "test": {}}).to_string()).unwrap();
    let (path, server) = (path.to_str().unwrap(), format!("{relay}@{address}"));
    let discovery_url = format!("dmsg://{discovery}:80");
    let mut running = vec![
        Running::start(&[
            "server",
            "--log",
            "warn",
            "--secret-key-file",
            relay_key.to_str().unwrap(),
            "--listen",
            &address,
            "--discovery",
            &discovery_url,
        ]),
        Running::start(&[
            "discovery",
            "--log",
            "warn",
            "--dmsg-only",
            "--allow-loopback",
            "--secret-key-file",
            discovery_key.to_str().unwrap(),
            "--server",
            &server,
        ]),
    ];
    for (name, key) in services.iter().zip(&keys) {
        running.push(Running::start(&[
            "service",
            name,
            "--log",
            "warn",
            "--dmsg-only",
            "--deployment",
            path,
            "--secret-key-file",
            key.to_str().unwrap(),
        ]));
    }
    for program in &mut running[1..] {
        assert!(program.line().starts_with("dmsg://"));
    }
    let open: Vec<usize> = running.iter().map(|program| listeners(program.pid())).collect();
    assert_eq!(open, [1, 0, 0, 0, 0, 0, 0]);
    use_all(Path::new(path), "three", "four").await;
    for program in running.into_iter().rev() {
        let (code, took, _) = program.stop("-TERM");
        assert_eq!(code, Some(0));
        assert!(took < std::time::Duration::from_secs(4), "{took:?}");
    }
}

#[test]
fn a_service_says_what_it_lacks() {
    for (args, text) in [
        (&["service", "tpd", "--dmsg-only"][..], "no way into the network"),
        (&["service", "rf", "--listen", "127.0.0.1:0"][..], "--transport-discovery"),
        (&["service", "sd", "--transport-discovery", "http://x"][..], "for a route finder"),
        (&["service", "sd", "--discovery", "http://127.0.0.1:1"][..], "needs a secret key"),
        (&["service", "ut", "--deployment", "/nonexistent/x"][..], "/nonexistent/x"),
    ] {
        let output = run(args);
        assert_ne!(output.status.code(), Some(0), "{args:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(text), "{args:?}: {said}");
        assert_eq!(stdout(&output), "");
    }
}

/// The proof by packet filter and recorder, with some kills; as root, where there are namespaces.
#[test]
fn a_packet_filter_sees_no_http() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/dmsg-only-deployment");
    let dmsg = env!("CARGO_BIN_EXE_dmsg");
    let run = Command::new(script).args(["--dmsg", dmsg, "--kills", "3", "--seed", "7"]).output();
    let output = match run {
        Ok(output) => output,
        Err(error) => return println!("skipped: the script does not start: {error}"),
    };
    let said = stdout(&output);
    if let Some(why) = said.lines().find(|line| line.starts_with("skipped: ")) {
        return println!("{why}");
    }
    // `env` does not find it.
    if output.status.code() == Some(127) {
        return println!("skipped: no python3");
    }
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("plain HTTP in 0"), "{said}");
}
