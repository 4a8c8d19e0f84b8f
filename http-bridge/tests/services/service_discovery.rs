//! Offering, listing and withdrawing services.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use dmsg_http::{
    service::ServiceKind,
    services::{
        Monitor, ServiceError,
        host::Service,
        records::Database,
        service_discovery::{
            Geo, Offer, OfferAddr, Query, ServiceDiscovery, ServiceDiscoveryClient,
        },
    },
};
use http::{Method, StatusCode};

use crate::support::*;

fn offer(name: &str, kind: &str) -> Offer {
    let address = OfferAddr { key: key(name), port: 44 };
    Offer { version: "v1.3.29".into(), ..Offer::new(address, kind) }
}

fn client(running: &Running, name: &str) -> ServiceDiscoveryClient {
    ServiceDiscoveryClient::new(running.transport(), secret(name), options())
}

async fn start() -> (Arc<ServiceDiscovery>, Running, TestClock) {
    let clock = TestClock::new();
    let mut config = config(ServiceKind::ServiceDiscovery, &clock);
    config.monitors = vec![key("monitor")];
    let service = Arc::new(ServiceDiscovery::new(config, &Database::memory()).unwrap());
    let running = Running::start(service.clone()).await;
    (service, running, clock)
}

#[tokio::test]
async fn offers_are_registered_listed_and_withdrawn() {
    let (_, running, _) = start().await;
    let (a, b) = (client(&running, "a"), client(&running, "b"));
    let mut vpn = offer("a", "vpn");
    vpn.local_ips = vec!["10.0.0.2".into()];
    // Coordinates are not taken from the caller.
    vpn.geo = Some(Geo { country: "DE".into(), ..Geo::default() });
    assert_eq!(a.register(&vpn).await.unwrap(), Offer { geo: None, ..vpn.clone() });
    b.register(&offer("b", "proxy")).await.unwrap();
    // What may not be shown is not shown.
    let shown = Offer { geo: None, local_ips: Vec::new(), ..vpn.clone() };
    assert_eq!(b.list(&Query::of("vpn")).await.unwrap(), std::slice::from_ref(&shown));
    assert_eq!(b.offer(vpn.address, "vpn").await.unwrap(), Some(shown));
    assert_eq!(b.offer(vpn.address, "visor").await.unwrap(), None);
    for kind in ["skysocks", "proxy"] {
        assert_eq!(a.list(&Query::of(kind)).await.unwrap(), [offer("b", "skysocks")]);
    }
    let other_version = Query { version: Some("v2".into()), ..Query::of("vpn") };
    assert_eq!(a.list(&other_version).await.unwrap(), []);
    a.delete(vpn.address, "vpn").await.unwrap();
    a.delete(vpn.address, "vpn").await.unwrap();
    assert_eq!(a.list(&Query::of("vpn")).await.unwrap(), []);
}

#[tokio::test]
async fn a_sample_is_as_large_as_asked_for() {
    let (_, running, _) = start().await;
    for name in ["a", "b", "c", "d"] {
        client(&running, name).register(&offer(name, "vpn")).await.unwrap();
    }
    let a = client(&running, "a");
    let sizes = [(0, 4), (3, 3), (9, 4)];
    for (quantity, expected) in sizes {
        let query = Query { quantity: Some(quantity), ..Query::of("vpn") };
        assert_eq!(a.list(&query).await.unwrap().len(), expected);
    }
}

#[tokio::test]
async fn each_refusal_has_the_words_of_the_specification() {
    let (_, running, _) = start().await;
    let a = client(&running, "a");
    let words = async |offer: &Offer| match a.register(offer).await {
        Err(error @ ServiceError::Refused { .. }) => error,
        other => panic!("{other:?}"),
    };
    let forbidden = |text: &str| ServiceError::Refused {
        status: StatusCode::FORBIDDEN,
        message: format!("Forbidden: {text}"),
    };
    let foreign = words(&offer("b", "vpn")).await;
    assert_eq!(foreign, forbidden("using public key other than your own is forbidden"));
    let old = Offer { version: String::new(), ..offer("a", "skysocks") };
    assert_eq!(words(&old).await, forbidden("visor version is too old"));
    let hidden = words(&offer("a", "visor")).await;
    assert_eq!(hidden, forbidden("visor is unreachable"));
    assert!(hidden.is_visor_unreachable());
    let reached = Offer { local_ips: vec!["127.0.0.1".into()], ..offer("a", "visor") };
    a.register(&reached).await.unwrap();
    assert!(matches!(words(&offer("a", "a b")).await, ServiceError::Refused { .. }));
}

#[tokio::test]
async fn an_offer_without_refresh_expires_and_a_monitor_removes_one_at_once() {
    let (service, running, clock) = start().await;
    let a = client(&running, "a");
    a.register(&offer("a", "vpn")).await.unwrap();
    clock.advance(4 * 60);
    a.register(&offer("a", "vpn")).await.unwrap();
    clock.advance(4 * 60);
    service.expire(clock.now());
    assert_eq!(a.list(&Query::of("vpn")).await.unwrap().len(), 1);
    clock.advance(60);
    assert_eq!(a.list(&Query::of("vpn")).await.unwrap(), []);
    a.register(&offer("a", "vpn")).await.unwrap();
    a.deregister(&Monitor::new(&secret("monitor")), "vpn", &[key("a")]).await.unwrap();
    assert_eq!(a.list(&Query::of("vpn")).await.unwrap(), []);
}

#[tokio::test]
async fn one_visor_cannot_fill_the_directory() {
    let (_, running, _) = start().await;
    let a = client(&running, "a");
    for n in 0..dmsg_http::services::service_discovery::OFFERS_PER_KEY_MAX {
        a.register(&offer("a", &format!("kind-{n}"))).await.unwrap();
    }
    let one_more = a.register(&offer("a", "one-more")).await;
    assert!(matches!(one_more, Err(ServiceError::Refused { status: StatusCode::FORBIDDEN, .. })));
    a.register(&offer("a", "kind-1")).await.unwrap();
}

/// A page of any site shows the lists, as Go's service lets it (`services.md §5`).
#[tokio::test]
async fn pages_of_any_site_may_read_the_directory() {
    let (_, running, _) = start().await;
    let origin = [("origin", "https://explorer.example".to_owned())];
    let allowed = "access-control-allow-origin";
    for path in ["/api/services?type=vpn", "/api/services?type="] {
        let answer = running.send(Method::GET, path, &origin, "").await;
        assert_eq!(answer.headers()[allowed], "*", "errors can be read too");
    }
    let asked = running.send(Method::OPTIONS, "/api/services", &origin, "").await;
    assert_eq!(asked.status(), StatusCode::NO_CONTENT);
    assert_eq!(asked.headers()[allowed], "*");
    assert!(asked.headers()["access-control-allow-headers"].to_str().unwrap().contains("sw-sig"));
}
