//! The HTTP API of a discovery (`discovery.md §4`), as an axum router.
//!
//! The router does not care what carries it: serve it on TCP, and on DMSG port 80 with a
//! [`CallerKey`](super::CallerKey) in the extensions of each request. Every body is bounded in length and
//! time before it is looked at; answers to errors are `{"message":…,"code":…}`, the texts of
//! [`EntryError`](super::EntryError) among them being protocol.
//!
//! `/metrics` names no keys, but it does tell a discovery's size: bind it, or filter it in front, as you like.

use std::time::Duration;

use axum::{
    Router,
    body::Body,
    extract::{Extension, Path, RawQuery, Request, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use bytes::Bytes;
use serde::Serialize;

use super::{
    BATCH_BYTES_MAX, CallerKey, ENTRY_BYTES_MAX, EntryError,
    codec::parse_key,
    service::{DiscoveryService, Page, RequestError},
    store::{ClientFilter, Written},
};
use crate::transport::{TransportError, receive_body};

/// How long a request's body may take. The Go service gives 3 s over clear-net; streams through a relay are slower.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

type Answer = Result<Response, RequestError>;
type Caller = Option<Extension<CallerKey>>;

/// The API of `service`.
pub fn router(service: DiscoveryService) -> Router {
    let limit = middleware::from_fn_with_state(service.clone(), limit_rate);
    Router::new()
        .route("/dmsg-discovery/entry/{key}", get(entry).post(register))
        .route("/dmsg-discovery/entry/", post(register))
        .route("/dmsg-discovery/entry", delete(delete_entry))
        .route("/dmsg-discovery/entries", get(client_keys))
        .route("/dmsg-discovery/entries/batch", post(batch))
        .route("/dmsg-discovery/visorEntries", get(visor_keys))
        .route("/dmsg-discovery/available_servers", get(available_servers))
        .route("/dmsg-discovery/all_servers", get(all_servers))
        .route("/dmsg-discovery/servers/clients", get(clients_by_server))
        .route("/dmsg-discovery/server/{key}/clients", get(clients_of))
        .route("/dmsg-discovery/deregister", delete(deregister))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(async || RequestError::NoSuchPath)
        .method_not_allowed_fallback(async || RequestError::MethodNotAllowed)
        .layer(limit)
        .with_state(service)
}

async fn limit_rate(
    State(service): State<DiscoveryService>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    if let Some(Extension(CallerKey(key))) = caller
        && let Err(error) = service.admit(key)
    {
        return error.into_response();
    }
    next.run(request).await
}

async fn entry(
    State(service): State<DiscoveryService>,
    key: Result<Path<String>, PathRejection>,
) -> Answer {
    let key =
        key.ok().and_then(|Path(text)| parse_key(&text)).ok_or_else(|| service.bad_lookup())?;
    asking(service, move |service| service.look_up(key)).await.map(json)
}

async fn register(
    State(service): State<DiscoveryService>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Answer {
    let body = receive(body, ENTRY_BYTES_MAX).await?;
    let legacy = query.is_some_and(|q| q.split('&').any(|pair| pair == "timeout=true"));
    let written = blocking(move || service.register(&body, legacy)).await?;
    Ok(message(
        StatusCode::OK,
        match written {
            Written::Created => "wrote a new entry",
            Written::Updated => "wrote new entry iteration",
        },
    ))
}

async fn delete_entry(
    State(service): State<DiscoveryService>,
    caller: Caller,
    body: Body,
) -> Answer {
    let body = receive(body, ENTRY_BYTES_MAX).await?;
    let caller = caller.map(|Extension(CallerKey(key))| key);
    blocking(move || service.delete(&body, caller)).await?;
    Ok(message(StatusCode::OK, "deleted entry"))
}

async fn client_keys(State(service): State<DiscoveryService>, query: RawQuery) -> Answer {
    key_list(service, ClientFilter::All, query).await
}

async fn visor_keys(State(service): State<DiscoveryService>, query: RawQuery) -> Answer {
    key_list(service, ClientFilter::Visors, query).await
}

async fn key_list(
    service: DiscoveryService,
    which: ClientFilter,
    RawQuery(query): RawQuery,
) -> Answer {
    match Page::of(query.as_deref())? {
        None => blocking(move || service.client_list(which)).await.map(json),
        Some(page) => blocking(move || service.client_page(which, page)).await.map(part),
    }
}

async fn batch(State(service): State<DiscoveryService>, body: Body) -> Answer {
    let body = receive(body, BATCH_BYTES_MAX).await?;
    let keys = key_texts(&body).ok_or(EntryError::BadInput)?;
    let keys: Vec<_> = keys.iter().filter_map(|text| parse_key(text)?).collect();
    blocking(move || service.batch(&keys)).await.map(json)
}

async fn available_servers(State(service): State<DiscoveryService>) -> Answer {
    asking(service, DiscoveryService::available_servers).await.map(json)
}

async fn all_servers(State(service): State<DiscoveryService>, RawQuery(query): RawQuery) -> Answer {
    match Page::of(query.as_deref())? {
        None => asking(service, DiscoveryService::all_servers).await.map(json),
        Some(page) => asking(service, move |service| service.server_page(page)).await.map(part),
    }
}

async fn clients_by_server(State(service): State<DiscoveryService>) -> Answer {
    blocking(move || service.clients_by_server()).await.map(json)
}

async fn clients_of(
    State(service): State<DiscoveryService>,
    key: Result<Path<String>, PathRejection>,
) -> Answer {
    let key = key.ok().and_then(|Path(text)| parse_key(&text)).ok_or(EntryError::BadInput)?;
    match key {
        Some(key) => asking(service, move |service| service.clients_of(&key)).await.map(json),
        None => Ok(json(Bytes::from_static(b"[]"))),
    }
}

/// Bodies of 403 and of 400 before the keys are empty, as the Go service has it.
async fn deregister(
    State(service): State<DiscoveryService>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    if let Err(status) = service.admit_monitor(&headers) {
        return Ok(status.into_response());
    }
    let body = receive(body, BATCH_BYTES_MAX).await?;
    let Some(texts) = key_texts(&body) else {
        return Ok(StatusCode::BAD_REQUEST.into_response());
    };
    let keys: Option<Vec<_>> = texts.iter().map(|text| parse_key(text)).collect();
    let keys: Vec<_> = keys.ok_or(EntryError::BadInput)?.into_iter().flatten().collect();
    blocking(move || service.deregister(&keys)).await?;
    Ok(json(Bytes::from_static(b"null")))
}

async fn health(State(service): State<DiscoveryService>) -> Response {
    json(service.health())
}

async fn metrics(State(service): State<DiscoveryService>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], service.metrics_text()).into_response()
}

/// Receives a body, bounded in length and time.
async fn receive(body: Body, max_bytes: usize) -> Result<Bytes, RequestError> {
    match tokio::time::timeout(BODY_TIMEOUT, receive_body(body, max_bytes)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(TransportError::BodyTooLarge(_))) => Err(RequestError::BodyTooLarge),
        Ok(Err(_)) | Err(_) => Err(RequestError::BodyMissing),
    }
}

/// Runs what may wait for the disk, or takes long, where it holds up no other request.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RequestError> + Send + 'static,
) -> Result<T, RequestError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(%error, "a discovery request did not finish");
            Err(EntryError::Unexpected.into())
        }
    }
}

/// Asks the store: at once if it answers from memory, else where waiting holds up no other request.
async fn asking<T: Send + 'static>(
    service: DiscoveryService,
    question: impl FnOnce(&DiscoveryService) -> Result<T, RequestError> + Send + 'static,
) -> Result<T, RequestError> {
    if service.store_is_local() {
        question(&service)
    } else {
        blocking(move || question(&service)).await
    }
}

/// An array of strings; `null` is an empty one.
fn key_texts(body: &[u8]) -> Option<Vec<String>> {
    serde_json::from_slice::<Option<Vec<String>>>(body).ok().map(Option::unwrap_or_default)
}

fn json(body: Bytes) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

/// A page; where it goes on is told as RFC 8288 has it, relative to the path that was asked.
fn part((body, next): (Bytes, Option<String>)) -> Response {
    let mut response = json(body);
    let link =
        next.and_then(|query| HeaderValue::try_from(format!("<?{query}>; rel=\"next\"")).ok());
    if let Some(link) = link {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

fn message(status: StatusCode, text: &str) -> Response {
    #[derive(Serialize)]
    struct Message<'a> {
        message: &'a str,
        code: u16,
    }
    let body = serde_json::to_vec(&Message { message: text, code: status.as_u16() });
    let mut response = json(body.expect("a string and a number").into());
    *response.status_mut() = status;
    response
}

impl IntoResponse for RequestError {
    fn into_response(self) -> Response {
        let mut response = message(self.status(), &self.to_string());
        if matches!(self, Self::RateLimited | Self::Full | Self::StoreUnavailable) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
