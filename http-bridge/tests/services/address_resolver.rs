//! Binding and resolving addresses.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use dmsg_http::{
    service::ServiceKind,
    services::{
        ServiceError,
        address_resolver::{AddressResolver, AddressResolverClient, Binding, Network},
        host::{HostConfig, Service},
        records::Database,
    },
};
use http::{Method, StatusCode};

use crate::support::*;

fn binding(addresses: &[&str]) -> Binding {
    let addresses = addresses.iter().map(ToString::to_string).collect();
    Binding { port: "7777".into(), addresses }
}

fn client(running: &Running, name: &str) -> AddressResolverClient {
    AddressResolverClient::new(running.transport(), secret(name), options())
}

async fn start(change: impl FnOnce(&mut HostConfig)) -> (Arc<AddressResolver>, Running, TestClock) {
    let clock = TestClock::new();
    let mut config = config(ServiceKind::AddressResolver, &clock);
    change(&mut config);
    let service = Arc::new(AddressResolver::new(config, &Database::memory()).unwrap());
    let running = Running::start(service.clone()).await;
    (service, running, clock)
}

#[tokio::test]
async fn a_bound_visor_is_resolved_until_it_unbinds_or_is_silent() {
    let (service, running, clock) = start(|_| ()).await;
    let (a, b) = (client(&running, "a"), client(&running, "b"));
    a.bind(&binding(&["10.0.0.2", "127.0.0.1"])).await.unwrap();
    let found = b.resolve(Network::Stcpr, key("a")).await.unwrap();
    assert_eq!((found.remote_addr.as_str(), found.port.as_str()), ("127.0.0.1", "7777"));
    assert_eq!(found.addresses, ["10.0.0.2", "127.0.0.1"]);
    assert!(AddressResolverClient::may_be_local(&found, "127.0.0.1".parse().unwrap()));
    assert!(!AddressResolverClient::may_be_local(&found, "203.0.113.7".parse().unwrap()));
    assert_eq!(b.bound().await.unwrap().stcpr, [key("a").to_string()]);
    assert!(b.resolve(Network::Stcpr, key("b")).await.unwrap_err().is_not_found());
    assert!(b.resolve(Network::Sudph, key("a")).await.unwrap_err().is_not_found());
    a.unbind().await.unwrap();
    a.unbind().await.unwrap();
    assert!(b.resolve(Network::Stcpr, key("a")).await.unwrap_err().is_not_found());
    a.bind(&binding(&["127.0.0.1"])).await.unwrap();
    clock.advance(15 * 60);
    assert!(b.resolve(Network::Stcpr, key("a")).await.unwrap_err().is_not_found());
    service.expire(clock.now());
    assert_eq!(service.tables()[0].1, 0);
    assert_eq!(b.udp_address().await.unwrap(), None);
}

#[tokio::test]
async fn what_cannot_be_dialled_is_not_bound() {
    let (_, running, _) = start(|_| ()).await;
    let a = client(&running, "a");
    let refusal = async |binding: &Binding| match a.bind(binding).await {
        Err(ServiceError::Refused { status: StatusCode::BAD_REQUEST, message }) => message,
        other => panic!("{other:?}"),
    };
    let absent = refusal(&binding(&["10.0.0.2"])).await;
    assert!(absent.contains("Remote address not present"), "{absent}");
    let empty = refusal(&binding(&[])).await;
    assert!(empty.contains("Remote address not present"), "{empty}");
    for port in ["0", "65536", "-1", "", "http"] {
        let odd = Binding { port: port.into(), ..binding(&["127.0.0.1"]) };
        assert!(refusal(&odd).await.contains("the port"), "{port}");
    }
    assert!(refusal(&binding(&["127.0.0.1", "nonsense"])).await.contains("no IP address"));
    let many = vec!["127.0.0.1"; 33];
    assert!(refusal(&binding(&many)).await.contains("too many"));
    let body = b"[1]".to_vec();
    let headers = signed(&secret("a"), &body, running.nonce(key("a")).await);
    let answer = running.send(Method::POST, "/bind/stcpr", &headers, body).await;
    is_flat_error(&answer, 400, "");
    assert_eq!(a.bound().await.unwrap().stcpr, [""; 0]);
}

#[tokio::test]
async fn a_private_address_is_refused_on_a_public_network() {
    let (_, running, _) = start(|config| config.allow_private = false).await;
    let refused = client(&running, "a").bind(&binding(&["127.0.0.1"])).await;
    let Err(ServiceError::Refused { message, .. }) = refused else { panic!("{refused:?}") };
    assert!(message.contains("Invalid IP address"), "{message}");
}

#[tokio::test]
async fn an_unknown_network_is_named_and_go_answers_500() {
    for (go, status) in [(false, 400), (true, 500)] {
        let (_, running, _) = start(|config| config.quirks.go_statuses = go).await;
        let path = format!("/resolve/stcp/{}", key("a"));
        let headers = signed(&secret("a"), b"", running.nonce(key("a")).await);
        let answer = running.send(Method::GET, &path, &headers, Bytes::new()).await;
        is_flat_error(&answer, status, "unknown");
    }
}
