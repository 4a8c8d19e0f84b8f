//! The everyday interface, and the same client as a tower service.

use axum::{
    Json, Router,
    body::Bytes,
    extract::RawQuery,
    routing::{get, post},
};
use dmsg_http::{
    http::{
        HttpClient, HttpError,
        server::{ServeConfig, serve},
    },
    url::UrlError,
};
use futures_util::StreamExt;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::{Service, ServiceBuilder, ServiceExt};

use crate::common::{PipeDial, pipe, service, url};

fn client() -> HttpClient<PipeDial> {
    let router = Router::new()
        .route("/json", post(|Json(value): Json<Value>| async move { Json(json!({"got": value})) }))
        .route("/echo", post(|headers: HeaderMap, body: Bytes| async move { (headers, body) }))
        .route("/query", get(|RawQuery(query): RawQuery| async move { query.unwrap_or_default() }))
        .route("/moved", get(|| async { (StatusCode::FOUND, [("location", "/query?x")]) }))
        .route("/big", get(|| async { vec![7; 300_000] }));
    let (dial, listener) = pipe();
    let config = ServeConfig::default();
    tokio::spawn(serve(listener, router, config, Default::default(), std::future::pending()));
    HttpClient::new(dial)
}

#[tokio::test]
async fn json_text_forms_and_queries_go_both_ways() {
    let client = client();
    let sent = json!({"a": [1, 2]});
    let reply = client.post(url("/json")).json(&sent).send().await.unwrap();
    assert_eq!(reply.headers()["content-type"], "application/json");
    assert_eq!(reply.json::<Value>().await.unwrap(), json!({"got": sent}));

    let form = client.post(url("/echo")).form(&[("a b", "&="), ("c", "")]).send().await.unwrap();
    assert_eq!(form.headers()["content-type"], "application/x-www-form-urlencoded");
    assert_eq!(form.text().await.unwrap(), "a%20b=%26%3D&c=");

    let asked = client.get(url("/query?q=1")).query(&[("x y", "ä&")]).send().await.unwrap();
    assert_eq!(asked.text().await.unwrap(), "q=1&x%20y=%C3%A4%26");
    let moved = client.get(url("/moved")).follow_redirects().send().await.unwrap();
    assert_eq!(moved.url().target(), "/query?x");
    assert_eq!(moved.text().await.unwrap(), "x");
}

#[tokio::test]
async fn a_body_comes_whole_or_piece_by_piece() {
    let client = client();
    let whole = client.get(url("/big")).send().await.unwrap();
    assert_eq!(whole.content_length(), Some(300_000));
    assert_eq!(whole.bytes().await.unwrap().len(), 300_000);
    let pieces = client.get(url("/big")).send().await.unwrap().bytes_stream();
    let sizes: Vec<usize> = pieces.map(|piece| piece.unwrap().len()).collect().await;
    assert_eq!(sizes.iter().sum::<usize>(), 300_000);
    assert!(sizes.len() > 1);
    let head = client.head(url("/big")).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], "300000");
    assert!(head.bytes().await.unwrap().is_empty());
}

#[tokio::test]
async fn mistakes_are_told_when_the_request_is_sent() {
    let client = client();
    let sent = client.get("http://example.org/").send().await.unwrap_err();
    assert!(matches!(sent, HttpError::Url(UrlError::Scheme(_))), "{sent}");
    let sent = client.get("dmsg://no-key/").header("a", "b").send().await.unwrap_err();
    assert!(matches!(sent, HttpError::Url(UrlError::Key(_))), "{sent}");
    let sent = client.get(url("/")).header("a b", "c").send().await.unwrap_err();
    assert!(matches!(sent, HttpError::Request(_)), "{sent}");
    let sent = client.get(url("/")).header("a", "b\nc").send().await.unwrap_err();
    assert!(matches!(sent, HttpError::Request(_)), "{sent}");
    let missing = client.get(url("/none")).send().await.unwrap().error_for_status().unwrap_err();
    assert!(matches!(missing, HttpError::Status { status: StatusCode::NOT_FOUND, .. }));
    let no_json = client.get(url("/query?x")).send().await.unwrap().json::<Value>().await;
    assert!(matches!(no_json, Err(HttpError::Malformed { .. })));
    assert_eq!(client.dialer().dial_count(), 1);
}

#[tokio::test]
async fn layers_stack_on_the_client() {
    let mut stack = ServiceBuilder::new()
        .map_request(|mut request: http::Request<Full<Bytes>>| {
            request.headers_mut().insert("x-layer", "1".parse().unwrap());
            request
        })
        .service(client());
    for text in ["one", "two"] {
        let request = http::Request::builder()
            .method(Method::POST)
            .uri(format!("dmsg://{}:80/echo", service().key))
            .body(Full::new(Bytes::from_static(text.as_bytes())))
            .unwrap();
        let reply = stack.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(reply.headers()["x-layer"], "1");
        assert_eq!(reply.headers()["content-length"], "3");
        assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), text);
    }
    let elsewhere = http::Request::get("http://example.org/").body(Full::default()).unwrap();
    assert!(matches!(stack.oneshot(elsewhere).await, Err(HttpError::Url(_))));
}
