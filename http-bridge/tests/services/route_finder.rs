//! Routes over what a Transport Discovery has.
#![allow(clippy::unwrap_used)]

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use dmsg_http::{
    service::ServiceKind,
    services::{
        route_finder::{Edge, Hop, RouteFinder, RouteFinderClient, RouteOptions},
        transport_discovery::TransportId,
    },
    transport::{ExchangeFuture, HttpTransport, Limits},
};
use http::{Method, Request, Response, StatusCode};

use crate::{support::*, transport_discovery};

async fn start() -> (Arc<RouteFinder>, Running) {
    let service = Arc::new(RouteFinder::new(config(ServiceKind::RouteFinder, &TestClock::new())));
    let running = Running::start(service.clone()).await;
    (service, running)
}

fn edge(from: &str, to: &str) -> Edge {
    Edge { from: key(from), to: key(to) }
}

#[tokio::test]
async fn routes_lead_over_the_transports_that_are_registered_now() {
    let (_, registry, _) = transport_discovery::start().await;
    let links = [("a", "b"), ("b", "c"), ("a", "c")];
    for (one, two) in links {
        let link = transport_discovery::transport(one, two, "stcpr");
        transport_discovery::client(&registry, one).register(&[link]).await.unwrap();
    }
    let (service, running) = start().await;
    let follow = tokio::spawn(
        service.clone().follow(transport_discovery::client(&registry, "route-finder")),
    );
    let finder = RouteFinderClient::new(running.transport(), options());
    let asked = edge("a", "c");
    let routes = loop {
        // Until the finder has looked.
        match finder.routes(&[asked, asked.reversed()], RouteOptions::default()).await {
            Ok(routes) => break routes,
            Err(error) => assert!(error.is_not_found(), "{error}"),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(routes[&asked].iter().map(Vec::len).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(routes[&asked.reversed()].iter().map(Vec::len).collect::<Vec<_>>(), [1, 2]);
    let long = RouteOptions { min_hops: 2, ..RouteOptions::default() };
    assert_eq!(finder.routes(&[asked], long).await.unwrap()[&asked].len(), 1);
    follow.abort();
}

#[tokio::test]
async fn no_route_for_one_edge_is_404_for_all_and_nonsense_is_400() {
    let (service, running) = start().await;
    let links = ["stcpr", "dmsg"].map(|kind| transport_discovery::transport("a", "b", kind).entry);
    service.set_transports(&links);
    let finder = RouteFinderClient::new(running.transport(), options());
    let both = [edge("a", "b"), edge("a", "x")];
    assert!(finder.routes(&both, RouteOptions::default()).await.unwrap_err().is_not_found());
    let send = async |body: String| running.send(Method::POST, "/routes", &[], body).await;
    let found = send(format!("{{\"edges\":[\"{}\"],\"opts\":null}}", edge("a", "b"))).await;
    let routes: HashMap<String, Vec<Vec<Hop>>> = serde_json::from_slice(found.body()).unwrap();
    assert_eq!(routes[&edge("a", "b").to_string()].len(), 2);
    let none = send(format!("{{\"Edges\":[\"{}\"]}}", edge("x", "a"))).await;
    is_nested_error(&none, 404, "no transports");
    for body in ["", "[]", "{\"Edges\":[\"short\"]}", "{\"Edges\":[\"\"]}", "{\"Edges\":{}}"] {
        is_nested_error(&send(body.to_owned()).await, 400, "");
    }
    let many = vec![edge("a", "b").to_string(); 17];
    let body = serde_json::json!({"Edges": many}).to_string();
    is_nested_error(&send(body).await, 400, "more than 16 edges");
}

/// Answers every question with the same routes.
struct Liar(Vec<Vec<Hop>>, Edge);

impl HttpTransport for Liar {
    fn exchange(&self, _: Request<Bytes>, _: Limits) -> ExchangeFuture<'_> {
        let body = serde_json::to_vec(&HashMap::from([(self.1, &self.0)])).unwrap();
        Box::pin(async move {
            Ok(Response::builder().status(StatusCode::OK).body(body.into()).unwrap())
        })
    }
}

#[tokio::test]
async fn routes_that_do_not_lead_where_asked_are_not_passed_on() {
    let asked = edge("a", "c");
    let hop = |from: &str, to: &str| Hop {
        transport: TransportId::of([key(from), key(to)], "dmsg"),
        from: key(from),
        to: key(to),
    };
    let good = vec![hop("a", "b"), hop("b", "c")];
    let bad = [
        vec![],
        vec![hop("a", "b")],
        vec![hop("b", "c")],
        vec![hop("a", "b"), hop("a", "c")],
        vec![hop("a", "b"), hop("b", "d"), hop("d", "b"), hop("b", "c")],
    ];
    let options = RouteOptions { max_hops: 3, ..RouteOptions::default() };
    let mut all = bad.to_vec();
    let ask = async |routes: Vec<Vec<Hop>>| {
        let liar = Arc::new(Liar(routes, asked));
        RouteFinderClient::new(liar, crate::support::options()).routes(&[asked], options).await
    };
    assert!(ask(all.clone()).await.unwrap_err().is_not_found());
    all.push(good.clone());
    assert_eq!(ask(all).await.unwrap()[&asked], [good]);
}
