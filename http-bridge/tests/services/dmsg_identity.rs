//! Over a DMSG stream the stream's key is the caller, whatever the headers say (skywire#3725).
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

use std::sync::Arc;

use bytes::Bytes;
use dmsg_http::{
    http::{
        DmsgTransport,
        server::{ServeConfig, serve},
    },
    service::ServiceKind,
    services::{
        Bound, ServiceError,
        address_resolver::{AddressResolver, AddressResolverClient, Binding, Network},
        host::{HostConfig, router},
        records::Database,
        service_discovery::{Offer, OfferAddr, ServiceDiscovery, ServiceDiscoveryClient},
    },
    transport::{HttpTransport, Limits},
};
use http::{Method, Request};

use crate::support::*;

/// A transport to a service, whose streams all come from the key `common::caller`.
fn dial(service: Arc<dyn dmsg_http::services::host::Service>) -> Arc<dyn HttpTransport> {
    let (dial, listener) = common::pipe();
    let served = serve(
        listener,
        router(service),
        ServeConfig::default(),
        Arc::default(),
        std::future::pending(),
    );
    tokio::spawn(served);
    let base = common::url("/").to_string();
    Arc::new(Bound::new(&base, DmsgTransport::new(dial)).unwrap())
}

fn directory() -> Arc<ServiceDiscovery> {
    let config = config(ServiceKind::ServiceDiscovery, &TestClock::new());
    Arc::new(ServiceDiscovery::new(config, &Database::memory()).unwrap())
}

fn vpn(name: &str) -> Offer {
    let address = OfferAddr { key: key(name), port: 44 };
    Offer { version: "v1".into(), ..Offer::new(address, "vpn") }
}

#[tokio::test]
async fn nobody_acts_for_another_key_over_a_stream() {
    let service = directory();
    // Signed in every way as the victim, but on the caller's stream.
    let victim = ServiceDiscoveryClient::new(dial(service.clone()), secret("victim"), options());
    let refused = victim.register(&vpn("victim")).await.unwrap_err();
    let ServiceError::Unauthorised(message) = &refused else { panic!("{refused:?}") };
    assert_eq!(message, "SW-Public is not the key of the DMSG stream");
    // And the caller itself needs no headers to be right.
    let caller = ServiceDiscoveryClient::new(dial(service), secret("caller"), options());
    caller.register(&vpn("caller")).await.unwrap();
}

#[tokio::test]
async fn the_streams_key_needs_neither_nonce_nor_signature() {
    let transport = dial(directory());
    let limits = Limits { timeout: std::time::Duration::from_secs(5), body_max_bytes: 10_000 };
    let send = async |headers: &[(&str, &str)]| {
        let body = serde_json::to_vec(&vpn("caller")).unwrap();
        let mut request = Request::builder().method(Method::POST).uri("/api/services");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Bytes::from(body)).unwrap();
        transport.exchange(request, limits).await.unwrap()
    };
    assert_eq!(send(&[]).await.status().as_u16(), 200);
    assert_eq!(send(&[("sw-nonce", "7"), ("sw-sig", "00")]).await.status().as_u16(), 200);
    let caller = common::caller().key.to_string();
    assert_eq!(send(&[("sw-public", &caller)]).await.status().as_u16(), 200);
    for other in [key("victim").to_string(), "0".repeat(66), "nonsense".into()] {
        is_nested_error(&send(&[("sw-public", &other)]).await, 401, "SW-Public");
    }
}

#[tokio::test]
async fn an_address_is_what_the_caller_claims_if_it_is_public() {
    let config = HostConfig {
        allow_private: false,
        ..config(ServiceKind::AddressResolver, &TestClock::new())
    };
    let service = AddressResolver::new(config, &Database::memory()).unwrap();
    let a = AddressResolverClient::new(dial(Arc::new(service)), secret("caller"), options());
    let binding = |address: &str| Binding { port: "7".into(), addresses: vec![address.into()] };
    let refused = a.bind(&binding("203.0.113.7")).await.unwrap_err().to_string();
    assert!(refused.contains("SW-PublicIP"), "{refused}");
    a.caller().set_public_ip(Some("10.0.0.1".parse().unwrap()));
    let refused = a.bind(&binding("10.0.0.1")).await.unwrap_err().to_string();
    assert!(refused.contains("Invalid IP address"), "{refused}");
    a.caller().set_public_ip(Some("203.0.113.7".parse().unwrap()));
    a.bind(&binding("203.0.113.7")).await.unwrap();
    let found = a.resolve(Network::Stcpr, key("caller")).await.unwrap();
    assert_eq!(found.remote_addr, "203.0.113.7");
}
