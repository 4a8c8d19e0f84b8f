//! The UDP side of the Address Resolver: binding, being found, being told who dials, and whoever does not belong there.
#![allow(clippy::unwrap_used)]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use dmsg_http::{
    deployment::load,
    service::ServiceKind,
    services::{
        Bound, ServiceError,
        address_resolver::{
            AddressResolver, AddressResolverClient, Binding, Network,
            sudph::{SudphError, SudphLink},
        },
        records::Database,
    },
    transport::TcpTransport,
};
use tokio::{net::UdpSocket, time::timeout};

use crate::{program, support::*};

struct Resolver {
    running: Running,
    udp: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Resolver {
    async fn start() -> Self {
        Self::on("127.0.0.1:0").await
    }

    async fn on(address: &str) -> Self {
        let config = config(ServiceKind::AddressResolver, &TestClock::new());
        let service = Arc::new(AddressResolver::new(config, &Database::memory()).unwrap());
        let socket = UdpSocket::bind(address).await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let udp = SocketAddr::from(([127, 0, 0, 1], port));
        let task = tokio::spawn(service.sudph(udp.to_string()).serve(socket));
        Self { running: Running::start(service).await, udp, task }
    }

    fn client(&self, name: &str) -> AddressResolverClient {
        AddressResolverClient::new(self.running.transport(), secret(name), options())
    }

    async fn bind(&self, name: &str) -> (SudphLink, SocketAddr) {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let own = socket.local_addr().unwrap();
        let binding = Binding { port: own.port().to_string(), addresses: vec!["10.0.0.2".into()] };
        (SudphLink::bind(socket, self.udp, &secret(name), &binding).await.unwrap(), own)
    }

    /// Until so many are bound; a message over UDP needs a moment.
    async fn bound(&self, count: usize) {
        let client = self.client("observer");
        let seen = async {
            while client.bound().await.unwrap().sudph.len() != count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(10), seen).await.unwrap();
    }
}

#[tokio::test]
async fn a_bound_visor_is_found_where_its_datagrams_come_from_and_told_who_dials() {
    found_and_told(Resolver::start().await).await;
}

/// There, datagrams of IPv4 come from mapped addresses.
#[tokio::test]
async fn so_it_is_where_the_resolver_listens_on_ipv6() {
    if std::net::UdpSocket::bind("[::]:0").is_err() {
        return eprintln!("skipped: no IPv6 here");
    }
    found_and_told(Resolver::on("[::]:0").await).await;
}

async fn found_and_told(resolver: Resolver) {
    let (a, a_address) = resolver.bind("a").await;
    let (mut b, b_address) = resolver.bind("b").await;
    resolver.bound(2).await;
    let client = resolver.client("a");
    let found = client.resolve(Network::Sudph, key("b")).await.unwrap();
    assert_eq!(found.remote_addr, b_address.to_string());
    assert_eq!(
        (found.port, found.addresses),
        (b_address.port().to_string(), vec!["10.0.0.2".into()])
    );
    assert!(found.is_local, "both are on loopback");
    let punch = timeout(Duration::from_secs(5), b.next()).await.unwrap().unwrap();
    assert_eq!((punch.key, punch.address), (key("a").to_string(), a_address.to_string()));
    assert_eq!(client.udp_address().await.unwrap(), Some(resolver.udp.to_string()));
    // Who is not bound is answered all the same; there is nobody to open a NAT for.
    resolver.client("c").resolve(Network::Sudph, key("b")).await.unwrap();
    let absent = client.resolve(Network::Sudph, key("nobody")).await.unwrap_err();
    assert!(matches!(absent, ServiceError::NotFound(_)));
    a.close().await;
    resolver.bound(1).await;
}

#[tokio::test]
async fn a_newer_binding_of_a_key_takes_the_place_of_the_old_one() {
    let resolver = Resolver::start().await;
    let (old, _) = resolver.bind("a").await;
    let (_new, address) = resolver.bind("a").await;
    let client = resolver.client("b");
    let found = async || client.resolve(Network::Sudph, key("a")).await.unwrap().remote_addr;
    let moved = async {
        while found().await != address.to_string() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), moved).await.unwrap();
    // The end of the old one does not unbind the new.
    old.close().await;
    assert_eq!(found().await, address.to_string());
}

#[tokio::test]
async fn a_monitor_unbinds_and_hostile_datagrams_change_nothing() {
    let resolver = Resolver::start().await;
    let (_a, _) = resolver.bind("a").await;
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut random = 1_u64;
    for length in (0..1500).step_by(3) {
        let datagram: Vec<u8> = (0..length)
            .map(|at| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(at as u64 | 1);
                // Some of it looks like KCP: a conversation, a push, the first number.
                if at == 4 {
                    81
                } else if (12..16).contains(&at) {
                    0
                } else {
                    (random >> 33) as u8
                }
            })
            .collect();
        stranger.send_to(&datagram, resolver.udp).await.unwrap();
    }
    resolver.bound(1).await;
    let (_b, _) = resolver.bind("b").await;
    resolver.bound(2).await;
}

/// A datagram of a bound visor's address that begins another conversation, as anybody can make one.
#[tokio::test]
async fn a_forged_beginning_does_not_unbind() {
    let resolver = Resolver::start().await;
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let binding = Binding { port: "7777".into(), addresses: Vec::new() };
    let own = Arc::clone(&socket);
    let link = SudphLink::bind(own, resolver.udp, &secret("a"), &binding).await.unwrap();
    resolver.bound(1).await;
    let mut forged = [0; 24];
    forged[0] = 7; // the conversation
    forged[4] = 81; // a push, with number 0
    socket.send_to(&forged, resolver.udp).await.unwrap();
    // It was read when what was sent behind it is answered.
    let (_b, _) = resolver.bind("b").await;
    resolver.bound(2).await;
    link.close().await;
    resolver.bound(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_does_not_answer_is_given_up_in_time() {
    let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let silent = nobody.local_addr().unwrap();
    let binding = Binding { port: "7777".into(), addresses: Vec::new() };
    let bound = SudphLink::bind(socket, silent, &secret("a"), &binding).await;
    assert!(matches!(bound, Err(SudphError::Silent(at)) if at == silent));
}

/// Visors that know a resolver by `http://` go to the port of that address (`services.md §6.2`).
#[tokio::test]
async fn a_local_network_listens_over_udp_where_its_http_address_leads() {
    let folder = tempfile::tempdir().unwrap();
    let document = folder.path().join("deployment.json");
    let args = ["local", "--port", "0", "--discovery-port", "0", "--deployment-out"];
    let mut network = program::Running::start(&[&args[..], &[document.to_str().unwrap()]].concat());
    network.line_with("Its services");
    let loaded = load(Some(&document), None).unwrap().document;
    let http = loaded.prod.endpoints(ServiceKind::AddressResolver).http.unwrap();
    let transport = Bound::new(&http.to_string(), TcpTransport::new()).unwrap();
    let client = AddressResolverClient::new(Arc::new(transport), secret("a"), options());
    let udp = client.udp_address().await.unwrap().unwrap();
    assert_eq!(udp, http.authority().unwrap().as_str());
}
