//! Registering, finding, refreshing and deleting transports.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use dmsg_http::{
    service::ServiceKind,
    services::{
        Monitor, ServiceError,
        host::Service,
        records::Database,
        transport_discovery::{
            RegistryLimits, SignedTransport, Transport, TransportDiscovery,
            TransportDiscoveryClient,
        },
    },
};
use http::{Method, StatusCode};

use crate::support::*;

pub(crate) fn transport(a: &str, b: &str, kind: &str) -> SignedTransport {
    let mut transport =
        SignedTransport::unsigned(Transport::new([key(a), key(b)], kind, "automatic"));
    assert!(transport.sign(&secret(a)) && transport.sign(&secret(b)));
    transport
}

pub(crate) fn client(running: &Running, name: &str) -> TransportDiscoveryClient {
    TransportDiscoveryClient::new(running.transport(), secret(name), options())
}

pub(crate) async fn start() -> (Arc<TransportDiscovery>, Running, TestClock) {
    let clock = TestClock::new();
    let mut config = config(ServiceKind::TransportDiscovery, &clock);
    config.monitors = vec![key("monitor")];
    let service = Arc::new(TransportDiscovery::new(config, &Database::memory()).unwrap());
    let running = Running::start(service.clone()).await;
    (service, running, clock)
}

#[tokio::test]
async fn a_transport_is_registered_found_by_both_edges_and_deleted_by_one() {
    let (_, running, _) = start().await;
    let (a, b) = (client(&running, "a"), client(&running, "b"));
    let mut link = transport("a", "b", "stcpr");
    let stored = a.register(std::slice::from_ref(&link)).await.unwrap();
    link.registered = START / 1_000_000_000;
    assert_eq!(stored, std::slice::from_ref(&link));
    // Once more is fine, and keeps the time of the first.
    assert_eq!(b.register(&stored).await.unwrap(), stored);
    let id = link.entry.id;
    assert_eq!(b.transport(id).await.unwrap(), link.entry);
    for name in ["a", "b"] {
        assert_eq!(b.transports_of(key(name)).await.unwrap(), std::slice::from_ref(&link.entry));
    }
    assert_eq!(client(&running, "c").transports_of(key("c")).await.unwrap(), []);
    let third = transport("b", "c", "dmsg");
    b.register(std::slice::from_ref(&third)).await.unwrap();
    assert_eq!(a.all().await.unwrap().len(), 2);
    assert_eq!(a.transports_of_all(&[key("a"), key("b")]).await.unwrap().len(), 2);
    b.delete(id).await.unwrap();
    // Deleting what is not there has reached its aim.
    b.delete(id).await.unwrap();
    assert!(a.transport(id).await.unwrap_err().is_not_found());
    b.delete_all(&[third.entry.id, id]).await.unwrap();
    assert_eq!(a.all().await.unwrap(), []);
}

#[tokio::test]
async fn only_an_edge_registers_and_only_with_both_signatures() {
    let (_, running, _) = start().await;
    let link = transport("a", "b", "stcpr");
    let refused = |result: Result<Vec<SignedTransport>, ServiceError>| match result {
        Err(ServiceError::Refused { status, message }) => (status.as_u16(), message),
        other => panic!("{other:?}"),
    };
    let stranger = client(&running, "c").register(std::slice::from_ref(&link)).await;
    assert_eq!(refused(stranger), (403, "caller is no edge of the transport".into()));
    let a = client(&running, "a");
    let mut half = SignedTransport::unsigned(link.entry.clone());
    assert!(half.sign(&secret("a")));
    let (status, message) = refused(a.register(&[link.clone(), half]).await);
    assert_eq!(status, 400);
    assert!(message.contains("is missing"), "{message}");
    let mut forged = link.clone();
    forged.entry.kind = "sudph".into();
    assert_eq!(refused(a.register(&[forged]).await).0, 400);
    // A list is stored as a whole or not at all.
    assert_eq!(a.all().await.unwrap(), []);
    a.register(std::slice::from_ref(&link)).await.unwrap();
    let foreign = client(&running, "c").delete(link.entry.id).await;
    assert!(matches!(foreign, Err(ServiceError::Refused { status: StatusCode::BAD_REQUEST, .. })));
}

#[tokio::test]
async fn a_transport_lives_as_long_as_an_edge_asks_for_its_own() {
    let (service, running, clock) = start().await;
    let (a, c) = (client(&running, "a"), client(&running, "c"));
    a.register(&[transport("a", "b", "stcpr")]).await.unwrap();
    for _ in 0..10 {
        clock.advance(5 * 60);
        service.expire(clock.now());
        assert_eq!(a.transports_of(key("a")).await.unwrap().len(), 1);
    }
    // Others asking is no sign of life.
    for _ in 0..3 {
        clock.advance(5 * 60);
        service.expire(clock.now());
        c.transports_of(key("a")).await.unwrap();
    }
    assert_eq!(a.transports_of(key("a")).await.unwrap(), []);
    assert_eq!(service.tables()[0].1, 0);
}

#[tokio::test]
async fn statuses_and_bodies_are_those_of_the_specification() {
    let (_, running, _) = start().await;
    let a = secret("a");
    let link = transport("a", "b", "stcpr");
    let body = serde_json::to_vec(&[&link]).unwrap();
    let answer = running
        .send(Method::POST, "/transports/", &signed(&a, &body, running.nonce(key("a")).await), body)
        .await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    let path = format!("/transports/id:{}", link.entry.id);
    let send = async |method: Method, path: &str| {
        let headers = signed(&a, b"", running.nonce(key("a")).await);
        running.send(method, path, &headers, Bytes::new()).await
    };
    let answer = send(Method::DELETE, &path).await;
    assert_eq!((answer.status(), &answer.body()[..]), (StatusCode::OK, &b"transport deleted"[..]));
    is_flat_error(&send(Method::GET, &path).await, 404, "transport not found");
    is_flat_error(&send(Method::DELETE, &path).await, 404, "transport not found");
    is_flat_error(&send(Method::GET, "/transports/id:nonsense").await, 400, "no transport id");
    is_flat_error(&send(Method::GET, "/transports/edge:00").await, 400, "");
    let answer = send(Method::GET, &format!("/transports/edge:{}", key("a"))).await;
    assert_eq!(&answer.body()[..], b"[]");
    let answer = running.send(Method::POST, "/statuses", &[], Bytes::new()).await;
    assert_eq!(answer.status(), StatusCode::GONE);
    let answer = running.send(Method::GET, "/nowhere", &[], Bytes::new()).await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_monitor_on_the_list_deregisters_and_nobody_else() {
    let (_, running, _) = start().await;
    let a = client(&running, "a");
    let link = transport("a", "b", "stcpr");
    a.register(std::slice::from_ref(&link)).await.unwrap();
    let stranger = a.deregister(&Monitor::new(&secret("stranger")), &[link.entry.id]).await;
    assert!(matches!(stranger, Err(ServiceError::Refused { status: StatusCode::FORBIDDEN, .. })));
    assert_eq!(a.all().await.unwrap().len(), 1);
    a.deregister(&Monitor::new(&secret("monitor")), &[link.entry.id]).await.unwrap();
    assert_eq!(a.all().await.unwrap(), []);
}

#[tokio::test]
async fn health_and_metrics_tell_what_it_is() {
    let (_, running, _) = start().await;
    let a = client(&running, "a");
    a.register(&[transport("a", "b", "stcpr")]).await.unwrap();
    let health = a.caller().health().await.unwrap();
    assert_eq!(health.service_name, "transport-discovery");
    assert_eq!(health.started_at, "2024-10-01T00:00:00Z");
    let answer = running.send(Method::GET, "/metrics", &[], Bytes::new()).await;
    let text = std::str::from_utf8(answer.body()).unwrap().to_owned();
    assert!(text.contains("dmsg_service_records{table=\"transports\"} 1\n"), "{text}");
}

#[tokio::test]
async fn one_visor_cannot_fill_the_registry_and_a_full_one_says_when_to_come_back() {
    let config = config(ServiceKind::TransportDiscovery, &TestClock::new());
    let limits = RegistryLimits { transports_max: 5, per_edge_max: 3 };
    let service = TransportDiscovery::bounded(config, &Database::memory(), limits).unwrap();
    let running = Running::start(Arc::new(service)).await;
    let all: Vec<_> = ["p", "q", "r"].map(|peer| transport("a", peer, "dmsg")).into();
    let a = client(&running, "a");
    a.register(&all).await.unwrap();
    let more = a.register(&[transport("a", "s", "dmsg")]).await;
    assert!(matches!(more, Err(ServiceError::Refused { status: StatusCode::FORBIDDEN, .. })));
    // What is there already may be said again.
    a.register(&all[..1]).await.unwrap();
    let b = client(&running, "b");
    b.register(&[transport("b", "p", "dmsg"), transport("b", "q", "dmsg")]).await.unwrap();
    let full = b.register(&[transport("b", "r", "dmsg")]).await.unwrap_err();
    let ServiceError::Unavailable { status, retry_after, .. } = &full else { panic!("{full:?}") };
    assert_eq!((status.as_u16(), retry_after.unwrap().as_secs()), (503, 1));
}
