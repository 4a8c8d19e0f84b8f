//! An Uptime Tracker (`services.md §8`): the HTTP API over a [`Ledger`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::get,
};
use dmsg_engine::identity::PublicKey;
use http::StatusCode;

use super::{
    Ledger, Online, Place,
    ledger::{DAY, Visor, Wanted, months, seconds},
};
use crate::{
    discovery::{RateLimiter, UnixNanos},
    services::{
        host::{
            ApiError, CallerId, Host, HostConfig, OBJECT_BYTES_MAX, Origin, Service, json, list,
            query,
        },
        records::{Database, RecordsError},
    },
};

/// Lists that one caller may ask for: five a minute.
const LIST_INTERVAL: Duration = Duration::from_secs(12);
const LIST_BURST: u32 = 5;
const LIST_CALLERS_MAX: usize = 65_536;

/// The service.
pub struct UptimeTracker {
    host: Host,
    visors: Ledger,
    lists: RateLimiter<CallerId>,
}

type Shared = State<Arc<UptimeTracker>>;

impl UptimeTracker {
    /// A service that keeps its visors in `database`.
    pub fn new(config: HostConfig, database: &Database) -> Result<Self, RecordsError> {
        let host = Host::new(config);
        let visors = Ledger::open(database, host.now())?;
        let lists = RateLimiter::one_each(LIST_INTERVAL, LIST_BURST, LIST_CALLERS_MAX);
        Ok(Self { host, visors, lists })
    }

    fn admit(&self, request: &Request) -> Result<(), ApiError> {
        let caller = Origin::of(request).caller();
        if caller.is_some_and(|caller| !self.lists.admit(caller, Instant::now())) {
            return Err(ApiError::rate_limited(LIST_INTERVAL));
        }
        Ok(())
    }
}

impl Service for UptimeTracker {
    fn host(&self) -> &Host {
        &self.host
    }

    fn paths(self: Arc<Self>) -> Router {
        let gone = || get(async || StatusCode::GONE);
        Router::new()
            .route("/v4/update", get(update))
            .route("/update", gone())
            .route("/v2/update", gone())
            .route("/v3/update", gone())
            .route("/uptimes", get(uptimes))
            .route("/uptime/{key}", get(uptime))
            .route("/visors", get(places))
            .route("/dashboard", get(dashboard))
            .with_state(self)
    }

    fn expire(&self, now: UnixNanos) {
        self.visors.expire(now);
        self.host.sweep();
        self.lists.sweep(Instant::now());
    }

    fn tables(&self) -> Vec<(&'static str, usize, usize)> {
        vec![self.visors.table()]
    }
}

async fn update(State(service): Shared, request: Request) -> Response {
    let version = query(&request).remove("version").unwrap_or_default();
    service
        .host
        .signed(request, OBJECT_BYTES_MAX, async |caller, _| {
            service.visors.beat(&caller, &version, service.host.now()).await?;
            Ok(StatusCode::OK.into_response())
        })
        .await
}

async fn uptimes(State(service): Shared, request: Request) -> Response {
    if let Err(error) = service.admit(&request) {
        return error.into_response();
    }
    let query = query(&request);
    let now = service.host.now();
    let named = query.get("visors").filter(|list| !list.is_empty());
    let keys =
        named.map(|list| list.split([',', ';']).filter_map(|key| key.parse().ok()).collect());
    let online = match query.get("status").map(String::as_str) {
        Some("on") => Some(true),
        Some("off") => Some(false),
        _ => None,
    };
    let time = |name| query.get(name).map(|text| text.parse::<u64>());
    let (from, to) = match (time("startDate"), time("endDate")) {
        (None, None) => (seconds(now), seconds(now)),
        // A year is more than is kept; what is far away must not be walked to.
        (Some(Ok(from)), Some(Ok(to))) if to <= seconds(now) + 366 * DAY => (from, to),
        _ => {
            return ApiError::bad("startDate and endDate are Unix seconds, not far ahead")
                .into_response();
        }
    };
    let days = months(from, to);
    let found = service.visors.find(&Wanted { keys, online }, now).into_iter();
    if query.get("v").map(String::as_str) == Some("v2") {
        return list(&service.host, found.map(|(on, visor)| visor.long(on, days, now)).collect());
    }
    let short = |(online, visor): (bool, Arc<Visor>)| Online { key: visor.key.0, online };
    list(&service.host, found.map(short).collect())
}

async fn uptime(State(service): Shared, Path(key): Path<String>) -> Response {
    let work = || {
        let key: PublicKey = key.parse().map_err(ApiError::bad)?;
        let now = service.host.now();
        let Some(visor) = service.visors.visor(&key, now) else {
            let text = format!("no entries for pk {key}");
            return Err(ApiError::flat(StatusCode::INTERNAL_SERVER_ERROR, text));
        };
        Ok(json(&Online { key, online: visor.is_online(now) }))
    };
    work().unwrap_or_else(ApiError::into_response)
}

/// Where the visors are that are up, as far as the table of places knows their addresses.
async fn places(State(service): Shared, request: Request) -> Response {
    if let Err(error) = service.admit(&request) {
        return error.into_response();
    }
    let wanted = Wanted { online: Some(true), ..Wanted::default() };
    let up = service.visors.find(&wanted, service.host.now()).into_iter();
    let geo = &service.host.config().geo;
    let place = |(_, visor): (bool, Arc<Visor>)| {
        let geo = geo.find(visor.address?)?;
        Some(Place { lat: geo.lat, lon: geo.lon })
    };
    list(&service.host, up.filter_map(place).collect())
}

/// How many visors are up; keys are hex digits and versions are left out, so nothing here can become markup.
async fn dashboard(State(service): Shared, request: Request) -> Response {
    if let Err(error) = service.admit(&request) {
        return error.into_response();
    }
    let now = service.host.now();
    let visors = service.visors.find(&Wanted::default(), now);
    let rows: Vec<_> = visors
        .iter()
        .take(1000)
        .map(|(up, visor)| {
            let state = if *up { "up" } else { "down" };
            format!("<tr><td>{}</td><td>{state}</td></tr>", visor.key.0)
        })
        .collect();
    let page = format!("<!doctype html><title>Uptime</title><table>{}</table>\n", rows.concat());
    axum::response::Html(page).into_response()
}
