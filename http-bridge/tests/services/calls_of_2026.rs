//! What visors of 2026 ask: bare transports, heartbeats at the Transport Discovery, and summaries of uptimes everywhere.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use dmsg_http::{
    service::ServiceKind,
    services::{
        GeoTable, ServiceError,
        records::Database,
        service_discovery::{Offer, OfferAddr, Query, ServiceDiscovery, ServiceDiscoveryClient},
        transport_discovery::{
            RegistryLimits, Transport, TransportDiscovery, TransportDiscoveryClient,
        },
        uptime_tracker::{SUMMARY_KEYS_MAX, SummaryQuery, UptimeTracker, UptimeTrackerClient},
    },
};
use http::{Method, StatusCode};

use crate::{support::*, transport_discovery};

fn bare(a: &str, b: &str) -> Transport {
    Transport::new([key(a), key(b)], "stcpr", "automatic")
}

#[tokio::test]
async fn a_bare_transport_is_taken_from_an_edge_and_does_not_displace_signatures() {
    let (_, running, _) = transport_discovery::start().await;
    let client = |name| transport_discovery::client(&running, name);
    let a: TransportDiscoveryClient = client("a");
    a.register_unsigned(&[bare("a", "b")]).await.unwrap();
    assert_eq!(a.transports_of_v3(key("b")).await.unwrap(), [bare("a", "b")]);
    assert_eq!(a.transports_of(key("b")).await.unwrap(), [bare("a", "b")]);
    let stranger = client("c").register_unsigned(&[bare("a", "b")]).await;
    assert!(matches!(stranger, Err(ServiceError::Refused { status: StatusCode::FORBIDDEN, .. })));
    let mut forged = bare("a", "b");
    forged.id = bare("a", "c").id;
    let refused = a.register_unsigned(&[forged]).await;
    assert!(matches!(refused, Err(ServiceError::Refused { status: StatusCode::BAD_REQUEST, .. })));
    // With signatures first, and then without, the next answer to a registration still has them.
    let signed = transport_discovery::transport("a", "b", "stcpr");
    let stored = a.register(&[signed]).await.unwrap();
    a.register_unsigned(&[bare("a", "b")]).await.unwrap();
    assert_eq!(client("b").register(&stored).await.unwrap(), stored);
    // Both forms of a batch.
    for body in
        [format!(r#"["{}"]"#, bare("a", "b").id), format!(r#"{{"ids":["{}"]}}"#, bare("a", "b").id)]
    {
        a.register_unsigned(&[bare("a", "b")]).await.unwrap();
        let headers = signed_by("a", &running, &body).await;
        let answer = running.send(Method::POST, "/transports/delete-batch", &headers, body).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(a.all().await.unwrap(), []);
    }
}

#[tokio::test]
async fn what_others_say_of_a_visor_takes_none_of_its_places() {
    let clock = TestClock::new();
    let limits = RegistryLimits { per_edge_max: 3, ..RegistryLimits::default() };
    let config = config(ServiceKind::TransportDiscovery, &clock);
    let service =
        Arc::new(TransportDiscovery::bounded(config, &Database::memory(), limits).unwrap());
    let running = Running::start(service).await;
    let client = |name| transport_discovery::client(&running, name);
    let made_up = ["x1", "x2", "x3"].map(|kind| Transport::new([key("x"), key("b")], kind, ""));
    client("x").register_unsigned(&made_up).await.unwrap();
    let own = ["stcpr", "sudph", "dmsg"].map(|kind| Transport::new([key("b"), key("c")], kind, ""));
    client("b").register_unsigned(&own).await.unwrap();
    let b = client("b");
    let more = b.register_unsigned(&[Transport::new([key("b"), key("d")], "stcp", "")]).await;
    assert!(matches!(more, Err(ServiceError::Refused { status: StatusCode::FORBIDDEN, .. })));
}

async fn signed_by(name: &str, running: &Running, body: &str) -> Vec<(&'static str, String)> {
    signed(&secret(name), body.as_bytes(), running.nonce(key(name)).await)
}

#[tokio::test]
async fn heartbeats_at_the_transport_discovery_are_summed_up() {
    let (service, running, clock) = transport_discovery::start().await;
    let a = transport_discovery::client(&running, "a");
    for _ in 0..12 {
        a.heartbeat("v1.4").await.unwrap();
        clock.advance(300);
    }
    transport_discovery::client(&running, "b").heartbeat("").await.unwrap();
    let short = a.uptimes(&SummaryQuery::default()).await.unwrap();
    assert_eq!(short.len(), 2);
    assert!(short.iter().all(|summary| summary.on && summary.daily.is_empty()));
    let query = SummaryQuery { visors: vec![key("a")], daily: true };
    let long = a.uptimes(&query).await.unwrap();
    assert_eq!((long.len(), long[0].version.as_str()), (1, "v1.4"));
    assert_eq!(long[0].daily["2024-10-01"], "100.00");
    // More keys than fit into a path are asked for in a body.
    let mut visors: Vec<_> = (0..SUMMARY_KEYS_MAX).map(|n| key(&n.to_string())).collect();
    visors.push(key("b"));
    let many = a.uptimes(&SummaryQuery { visors, daily: true }).await.unwrap();
    assert_eq!(many.iter().map(|summary| summary.key).collect::<Vec<_>>(), [key("b")]);
    clock.advance(360);
    assert!(a.uptimes(&query).await.unwrap().iter().all(|summary| !summary.on));
    assert_eq!(dmsg_http::services::host::Service::tables(&*service)[1].1, 2);
    let answer = running.send(Method::POST, "/uptimes", &[], Bytes::from_static(b"{no")).await;
    is_flat_error(&answer, 400, "invalid JSON body");
    let path = format!("/uptimes?visors={};{}&v=v3", key("a"), key("b"));
    let answer = running.send(Method::GET, &path, &[], Bytes::new()).await;
    let both: Vec<serde_json::Value> = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!(both.len(), 2);
}

fn table() -> GeoTable {
    GeoTable::parse(r#"{"127.0.0.0/8":{"lat":52.5163,"lon":13.4,"country":"DE","region":"BE"}}"#)
        .unwrap()
}

#[tokio::test]
async fn offers_have_the_place_of_the_table_and_count_as_a_sign_of_life() {
    let clock = TestClock::new();
    let mut config = config(ServiceKind::ServiceDiscovery, &clock);
    config.geo = table();
    let service = ServiceDiscovery::new(config, &Database::memory()).unwrap();
    let running = Running::start(Arc::new(service)).await;
    let client = ServiceDiscoveryClient::new(running.transport(), secret("a"), options());
    let mut offer = Offer::new(OfferAddr { key: key("a"), port: 44 }, "vpn");
    offer.version = "v1.3.29".into();
    // What the visor says of its own place is not believed.
    offer.geo = Some(dmsg_http::services::service_discovery::Geo {
        country: "AQ".into(),
        ..Default::default()
    });
    let stored = client.register(&offer).await.unwrap();
    let geo = stored.geo.unwrap();
    assert_eq!(
        (geo.lat, geo.lon, geo.country.as_str(), geo.region.as_str()),
        (52.52, 13.4, "DE", "BE")
    );
    let found = async |country: &str| {
        let query = Query { country: Some(country.into()), ..Query::of("vpn") };
        client.list(&query).await.unwrap().len()
    };
    assert_eq!((found("DE").await, found("AQ").await), (1, 0));
    let up = client.uptimes(&SummaryQuery::default()).await.unwrap();
    assert_eq!((up.len(), up[0].key, up[0].version.as_str()), (1, key("a"), "v1.3.29"));
}

#[tokio::test]
async fn the_map_has_the_visors_that_are_up() {
    let clock = TestClock::new();
    let mut config = config(ServiceKind::UptimeTracker, &clock);
    config.geo = table();
    let service = UptimeTracker::new(config, &Database::memory()).unwrap();
    let running = Running::start(Arc::new(service)).await;
    let client = UptimeTrackerClient::new(running.transport(), secret("a"), options());
    assert!(client.places().await.unwrap().is_empty());
    client.heartbeat("v1").await.unwrap();
    let places = client.places().await.unwrap();
    assert_eq!((places.len(), places[0].lat, places[0].lon), (1, 52.52, 13.4));
    clock.advance(360);
    assert!(client.places().await.unwrap().is_empty());
}
