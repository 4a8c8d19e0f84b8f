//! A Service Discovery (`services.md §5.2`).
//!
//! Coordinates that a caller supplies are not believed. Where an offer is, the operator's table of places says
//! ([`GeoTable`](crate::services::GeoTable)); an address that is not in it has no place, and no query for a country finds it.
//!
//! A registration is a sign of life, which is told as an uptime (2026).

use std::{net::IpAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use dmsg_engine::identity::PublicKey;
use http::{HeaderMap, StatusCode};
use rand::seq::SliceRandom;

use super::{Offer, OfferAddr};
use crate::{
    discovery::UnixNanos,
    services::{
        KeyText,
        auth::Authority,
        host::{ApiError, Host, HostConfig, OBJECT_BYTES_MAX, Service, json, list, query},
        ip::is_public,
        records::{Database, Edit, Record, Records, RecordsError},
        uptime_tracker::{Ledger, summaries},
    },
};

/// Offers at most. One is 300 bytes, 8 KiB at worst: 15 MiB, 400 MiB at worst.
pub const OFFERS_MAX: usize = 50_000;

/// Bytes of one offer.
pub const OFFER_BYTES_MAX: usize = 8 * 1024;

/// Types that one visor offers at most; three are known.
pub const OFFERS_PER_KEY_MAX: usize = 16;

impl Record for Offer {
    fn owners(&self) -> Vec<PublicKey> {
        vec![self.address.key]
    }
}

/// The service.
pub struct ServiceDiscovery {
    host: Host,
    offers: Records<Offer>,
    uptimes: Arc<Ledger>,
}

type Shared = State<Arc<ServiceDiscovery>>;

impl ServiceDiscovery {
    /// A service that keeps its offers in `database`.
    pub fn new(config: HostConfig, database: &Database) -> Result<Self, RecordsError> {
        let host = Host::new(config);
        let offers = Records::open(database, "offers", OFFERS_MAX, host.now())?;
        let uptimes = Arc::new(Ledger::open(database, host.now())?);
        Ok(Self { host, offers, uptimes })
    }

    async fn register(&self, caller: Authority, mut offer: Offer) -> Result<Offer, ApiError> {
        offer.kind = canonical(&offer.kind).to_owned();
        offer.geo =
            caller.address.and_then(|address| self.host.config().geo.find(address)).cloned();
        self.check(caller, &offer)?;
        let (key, now, deadline) = (record_key(&offer), self.host.now(), self.host.deadline());
        let version = offer.version.clone();
        let stored = self
            .offers
            .edit(|shelf| {
                let known = shelf.get(&key, now).is_some();
                if !known && shelf.of(&caller.key, now).len() >= OFFERS_PER_KEY_MAX {
                    return Err(forbidden("too many services of one visor"));
                }
                let edit = Edit::Put { key, value: offer.clone(), deadline };
                Ok((offer, vec![edit]))
            })
            .await;
        if stored.is_ok() {
            self.uptimes.note(caller.key, &version, now);
        }
        stored
    }

    fn check(&self, caller: Authority, offer: &Offer) -> Result<(), ApiError> {
        let private = self.host.config().allow_private;
        if offer.kind == "visor" && !private && !caller.address.is_some_and(is_public) {
            return Err(ApiError::flat(
                StatusCode::INTERNAL_SERVER_ERROR,
                "failed to get visor data",
            ));
        }
        if offer.address.key != caller.key {
            return Err(forbidden("using public key other than your own is forbidden"));
        }
        let is_word = offer.kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if offer.kind.is_empty() || offer.kind.len() > 32 || !is_word {
            return Err(ApiError::bad("the type is not a word of at most 32 letters and digits"));
        }
        if matches!(offer.kind.as_str(), "vpn" | "skysocks") && offer.version.is_empty() {
            return Err(forbidden("visor version is too old"));
        }
        let lists = |address: IpAddr| {
            let mut own = offer.local_ips.iter().filter_map(|text| text.parse::<IpAddr>().ok());
            own.any(|own| own.to_canonical() == address)
        };
        if offer.kind == "visor" && !caller.address.is_some_and(lists) {
            return Err(forbidden("visor is unreachable"));
        }
        Ok(())
    }
}

/// Each visor offers a type once; its port is what the last registration said.
fn record_key(offer: &Offer) -> String {
    format!("{}:{}", offer.kind, offer.address.key)
}

/// `proxy` is another name of `skysocks`.
fn canonical(kind: &str) -> &str {
    if kind == "proxy" { "skysocks" } else { kind }
}

/// Go's words begin with the status text.
fn forbidden(text: &str) -> ApiError {
    ApiError::flat(StatusCode::FORBIDDEN, format!("Forbidden: {text}"))
}

/// As others may see it.
fn shown(offer: &Offer) -> Offer {
    let mut offer = offer.clone();
    if !offer.display_node_ip {
        offer.local_ips.clear();
    }
    offer.display_node_ip = false;
    offer
}

impl Service for ServiceDiscovery {
    fn host(&self) -> &Host {
        &self.host
    }

    fn paths(self: Arc<Self>) -> Router {
        Router::new()
            .route("/api/services", get(offers).post(register))
            .route("/api/services/{address}", get(offer).delete(remove))
            .route("/api/services/deregister/{kind}", delete(deregister))
            .with_state(Arc::clone(&self))
            .merge(summaries(Arc::clone(&self.uptimes), self.host.config().clock.clone()))
    }

    fn expire(&self, now: UnixNanos) {
        self.offers.expire(now);
        self.uptimes.expire(now);
        self.host.sweep();
    }

    fn tables(&self) -> Vec<(&'static str, usize, usize)> {
        vec![("offers", self.offers.count(), self.offers.max()), self.uptimes.table()]
    }
}

async fn offers(State(service): Shared, request: Request) -> Response {
    let query = query(&request);
    let Some(kind) = query.get("type").filter(|kind| !kind.is_empty()) else {
        return ApiError::bad("the query names no type").into_response();
    };
    let quantity = match query.get("quantity").map(|text| text.parse::<usize>()) {
        None => 0,
        Some(Ok(quantity)) => quantity,
        Some(Err(_)) => return ApiError::bad("quantity is no number").into_response(),
    };
    let wanted = |value: &str, name: &str| {
        query.get(name).is_none_or(|wanted| wanted.is_empty() || wanted == value)
    };
    let mut found: Vec<Offer> = {
        let shelf = service.offers.read();
        let offers = shelf.all(service.host.now()).filter(|offer| {
            let country = offer.geo.as_ref().map_or("", |geo| geo.country.as_str());
            offer.kind == canonical(kind)
                && wanted(&offer.version, "version")
                && wanted(country, "country")
        });
        offers.map(|offer| shown(offer)).collect()
    };
    if quantity > 0 && quantity < found.len() {
        found.shuffle(&mut rand::rng());
        found.truncate(quantity);
    } else {
        found.sort_by_key(|offer| offer.address);
    }
    list(&service.host, found)
}

async fn offer(State(service): Shared, Path(address): Path<String>, request: Request) -> Response {
    let work = || {
        let address: OfferAddr = address.parse().map_err(ApiError::bad)?;
        let query = query(&request);
        let kind = query.get("type").map_or("", |kind| canonical(kind));
        let found =
            service.offers.read().get(&format!("{kind}:{}", address.key), service.host.now());
        found.map(|offer| json(&shown(&offer))).ok_or_else(|| {
            let go = service.host.config().quirks.go_statuses;
            let status = if go { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::NOT_FOUND };
            ApiError::flat(status, "record not found")
        })
    };
    work().unwrap_or_else(ApiError::into_response)
}

async fn register(State(service): Shared, request: Request) -> Response {
    service
        .host
        .signed(request, OFFER_BYTES_MAX, async |caller, body| {
            let offer = serde_json::from_slice(&body).map_err(ApiError::bad)?;
            Ok(json(&service.register(caller, offer).await?))
        })
        .await
}

async fn remove(State(service): Shared, Path(address): Path<String>, request: Request) -> Response {
    let query = query(&request);
    service
        .host
        .signed(request, OBJECT_BYTES_MAX, async |caller, _| {
            let address: OfferAddr = address.parse().map_err(ApiError::bad)?;
            if address.key != caller.key {
                return Err(forbidden("using public key other than your own is forbidden"));
            }
            let kind = query.get("type").map_or("", |kind| canonical(kind));
            let edit = Edit::Remove { key: format!("{kind}:{}", caller.key) };
            service.offers.edit(|_| Ok::<_, ApiError>(((), vec![edit]))).await?;
            Ok(json(&true))
        })
        .await
}

async fn deregister(
    State(service): Shared,
    Path(kind): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let remove = async |keys: Vec<KeyText>| {
        let kind = canonical(&kind);
        let edits =
            keys.iter().map(|key| Edit::Remove { key: format!("{kind}:{}", key.0) }).collect();
        service.offers.edit(|_| Ok::<_, ApiError>(((), edits))).await?;
        Ok(json(&true))
    };
    service.host.monitored(&headers, body, remove).await
}
