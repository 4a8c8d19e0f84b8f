//! The services between visors: clients of 2024 at our services, and our clients at services of 2024.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use dmsg_engine::identity::SecretKey;
use dmsg_http::{
    deployment::{Environment, load},
    service::ServiceKind,
    services::{
        Bound, CallOptions, ServiceError,
        address_resolver::{AddressResolverClient, Binding, Network, sudph::SudphLink},
        transport_discovery::{SignedTransport, Transport, TransportDiscoveryClient},
    },
    transport::{HttpTransport, Limits, TcpTransport},
};
use tokio::{net::UdpSocket, time::timeout};

use crate::{
    peer::{LIMIT, Peer, programs},
    report,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_go_visor_uses_all_services_of_ours() {
    let Some([visor]) = programs(["DMSG_GO_VISOR_BIN"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let document = folder.path().join("deployment.json");
    let args = ["local", "--port", "0", "--discovery-port", "0", "--deployment-out"];
    let network = Peer::ours(
        &SecretKey::generate().unwrap(),
        &[&args[..], &[document.to_str().unwrap()]].concat(),
    );
    network.line("Its services").await;
    let loaded = load(Some(&document), None).unwrap().document;
    let services = loaded.services(Environment::Prod);
    let flags = [
        ("-tpd", ServiceKind::TransportDiscovery),
        ("-sd", ServiceKind::ServiceDiscovery),
        ("-ar", ServiceKind::AddressResolver),
        ("-rf", ServiceKind::RouteFinder),
        ("-ut", ServiceKind::UptimeTracker),
    ];
    let args = flags.map(|(flag, kind)| {
        let url = services.endpoints(kind).http.unwrap();
        [flag.to_owned(), url.to_string().trim_end_matches('/').to_owned()]
    });
    let (code, lines) = Peer::start(&visor, args.iter().flatten()).end_with_code().await;
    let failed: Vec<&String> = lines.iter().filter(|line| line.starts_with("FAIL ")).collect();
    let done = lines.iter().filter(|line| line.starts_with("OK ")).count();
    assert!(failed.is_empty() && code == Some(0) && done > 10, "{}", lines.join("\n"));
    report!("{done} calls, of sudph and of each service");
}

/// A service of the other implementation, on a free port.
async fn start(program: &Path, name: &str) -> (Peer, SocketAddr, Arc<dyn HttpTransport>) {
    let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let peer = Peer::start(program, [name, "-t", "--addr", &at.to_string()]);
    let transport: Arc<dyn HttpTransport> =
        Arc::new(Bound::new(&format!("http://{at}"), TcpTransport::new()).unwrap());
    let limits = Limits { timeout: Duration::from_secs(1), body_max_bytes: 1 << 16 };
    let up = async {
        loop {
            let health = http::Request::get("/health").body(Bytes::new()).unwrap();
            if transport.exchange(health, limits).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, up).await.unwrap_or_else(|_| panic!("{name} is not up:\n{}", peer.log()));
    (peer, at, transport)
}

fn secret(name: &str) -> SecretKey {
    SecretKey::from_seed(name.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_keeps_its_transports_at_a_go_transport_discovery() {
    let Some([program]) = programs(["DMSG_GO_SERVICE_BIN"]) else { return };
    let (_peer, _, transport) = start(&program, "tpd").await;
    let client = TransportDiscoveryClient::new(transport, secret("a"), CallOptions::default());
    let [a, b] = ["a", "b"].map(|name| secret(name).public_key());
    let mut link = SignedTransport::unsigned(Transport::new([a, b], "stcpr", "user"));
    assert!(link.sign(&secret("a")) && link.sign(&secret("b")));
    // A 201 does not count there, so each call but the first finds its number used, and comes again by itself.
    client.register(std::slice::from_ref(&link)).await.unwrap();
    assert_eq!(client.transport(link.entry.id).await.unwrap(), link.entry);
    assert_eq!(client.transports_of(b).await.unwrap(), std::slice::from_ref(&link.entry));
    client.delete(link.entry.id).await.unwrap();
    let gone = client.transport(link.entry.id).await;
    assert!(matches!(gone, Err(ServiceError::NotFound(_))), "{gone:?}");
    report!("registered, found by id and by edge, deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_clients_find_each_other_at_a_go_address_resolver() {
    let Some([program]) = programs(["DMSG_GO_SERVICE_BIN"]) else { return };
    let (_peer, at, transport) = start(&program, "ar").await;
    let bind = async |name: &str| {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let own = socket.local_addr().unwrap();
        let binding = Binding { port: own.port().to_string(), addresses: vec!["10.0.0.2".into()] };
        (SudphLink::bind(socket, at, &secret(name), &binding).await.unwrap(), own)
    };
    let ((a, a_address), (mut b, b_address)) = (bind("a").await, bind("b").await);
    let key = |name: &str| secret(name).public_key();
    let client = AddressResolverClient::new(transport, secret("a"), CallOptions::default());
    // It notes a binding in its own time.
    let found = async {
        loop {
            match client.resolve(Network::Sudph, key("b")).await {
                Ok(found) => break found,
                Err(ServiceError::NotFound(_)) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    let found = timeout(LIMIT, found).await.unwrap();
    assert_eq!(found.remote_addr, b_address.to_string());
    let punch = timeout(LIMIT, b.next()).await.unwrap().unwrap();
    assert_eq!((punch.key, punch.address), (key("a").to_string(), a_address.to_string()));
    // Loopback is no public address to it.
    let refused =
        client.bind(&Binding { port: "7777".into(), addresses: vec!["127.0.0.1".into()] }).await;
    assert!(matches!(refused, Err(ServiceError::Refused { .. })), "{refused:?}");
    a.close().await;
    b.close().await;
    report!("bound over KCP, found, told of the other, unbound");
}
