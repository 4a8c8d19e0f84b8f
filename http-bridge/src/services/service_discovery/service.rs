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
    middleware,
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use dmsg_engine::identity::PublicKey;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use rand::seq::SliceRandom;

use super::{Offer, OfferAddr};
use crate::{
    discovery::UnixNanos,
    services::{
        KeyText,
        auth::Authority,
        host::{
            ApiError, Host, HostConfig, OBJECT_BYTES_MAX, Service, SharedText, json, json_text,
            list_text, query,
        },
        ip::is_public,
        records::{Database, Edit, Record, Records, RecordsError},
        uptime_tracker::{Ledger, summaries},
    },
};

/// Offers at most. One is 300 bytes, 2 KiB at worst: 15 MiB, 100 MiB at worst.
pub const OFFERS_MAX: usize = 50_000;

/// Bytes of one offer; twenty addresses of interfaces fit in it.
pub const OFFER_BYTES_MAX: usize = 2 * 1024;

/// The types whose lists many ask for.
const KINDS: [&str; 3] = ["vpn", "skysocks", "visor"];

/// Bytes of a list with a filter or a quantity at most; these are not shared.
const FILTERED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of a list at most: half of what clients take. What does not fit is left out, whichever it is.
const LIST_BYTES_MAX: usize = 16 * 1024 * 1024;

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
    /// The whole list of each of [`KINDS`].
    lists: [SharedText; KINDS.len()],
    uptimes: Arc<Ledger>,
}

type Shared = State<Arc<ServiceDiscovery>>;

impl ServiceDiscovery {
    /// A service that keeps its offers in `database`.
    pub fn new(config: HostConfig, database: &Database) -> Result<Self, RecordsError> {
        let host = Host::new(config);
        let offers = Records::open(database, "offers", OFFERS_MAX, host.now())?;
        let uptimes = Arc::new(Ledger::open(database, host.now())?);
        Ok(Self { host, offers, lists: Default::default(), uptimes })
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
                if !known {
                    if shelf.of(&caller.key, now).len() >= OFFERS_PER_KEY_MAX {
                        return Err(forbidden("too many services of one visor"));
                    }
                    self.host.admit_new(caller.peer, 1)?;
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
            .route("/api/services", get(offers).post(register).options(preflight))
            .route("/api/services/{address}", get(offer).delete(remove).options(preflight))
            .route("/api/services/deregister/{kind}", delete(deregister).options(preflight))
            .layer(middleware::map_response(readable_by_pages))
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

/// Any site's page may read what everybody may: there are no cookies that a browser would add, and who changes something
/// signs it.
async fn readable_by_pages(mut response: Response) -> Response {
    let anybody = HeaderValue::from_static("*");
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, anybody);
    response
}

/// What a browser asks before a page may send more than a plain GET.
async fn preflight() -> impl IntoResponse {
    let allowed = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, DELETE"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "content-type, sw-public, sw-nonce, sw-sig, nm-pk, nm-sign",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "300"),
    ];
    (StatusCode::NO_CONTENT, allowed)
}

/// Which offers are asked for.
struct Wanted {
    kind: String,
    version: Option<String>,
    country: Option<String>,
    quantity: usize,
}

impl Wanted {
    fn of(request: &Request) -> Result<Self, ApiError> {
        let mut query = query(request);
        let mut given = |name: &str| query.remove(name).filter(|text| !text.is_empty());
        let kind = given("type").ok_or_else(|| ApiError::bad("the query names no type"))?;
        let (version, country) = (given("version"), given("country"));
        let quantity = query.remove("quantity").map_or(Ok(0), |text| text.parse::<usize>());
        let quantity = quantity.map_err(|_| ApiError::bad("quantity is no number"))?;
        Ok(Self { kind: canonical(&kind).to_owned(), version, country, quantity })
    }

    fn is_met_by(&self, offer: &Offer) -> bool {
        let country = offer.geo.as_ref().map_or("", |geo| geo.country.as_str());
        offer.kind == self.kind
            && self.version.as_ref().is_none_or(|version| *version == offer.version)
            && self.country.as_deref().is_none_or(|wanted| wanted == country)
    }

    /// The place of the list in [`ServiceDiscovery::lists`], if it is one that everybody asks for.
    fn shared(&self) -> Option<usize> {
        let is_whole = self.version.is_none() && self.country.is_none() && self.quantity == 0;
        KINDS.iter().position(|kind| is_whole && *kind == self.kind)
    }
}

impl ServiceDiscovery {
    /// The text of a list. Which offers are left out of one that is too long is left to chance.
    fn list(&self, wanted: &Wanted, bytes_max: usize) -> Vec<u8> {
        let offers: Vec<Arc<Offer>> = {
            let shelf = self.offers.read();
            let all = shelf.all(self.host.now());
            all.filter(|offer| wanted.is_met_by(offer)).cloned().collect()
        };
        let mut bytes = 0;
        let mut found = Vec::with_capacity(offers.len());
        for offer in offers {
            let text = serde_json::to_string(&shown(&offer)).expect("an offer is JSON");
            bytes += text.len() + 1;
            if bytes > bytes_max {
                break;
            }
            found.push((offer.address, text));
        }
        if wanted.quantity > 0 && wanted.quantity < found.len() {
            found.shuffle(&mut rand::rng());
            found.truncate(wanted.quantity);
        } else {
            found.sort_by_key(|(address, _)| *address);
        }
        if found.is_empty() {
            return list_text::<Offer>(&self.host, Vec::new());
        }
        let texts: Vec<String> = found.into_iter().map(|(_, text)| text).collect();
        format!("[{}]", texts.join(",")).into_bytes()
    }
}

async fn offers(State(service): Shared, request: Request) -> Response {
    let wanted = match Wanted::of(&request) {
        Ok(wanted) => wanted,
        Err(error) => return error.into_response(),
    };
    let shared = wanted.shared();
    let max = if shared.is_some() { LIST_BYTES_MAX } else { FILTERED_BYTES_MAX };
    let maker = Arc::clone(&service);
    let make = move || maker.list(&wanted, max);
    json_text(match shared.and_then(|index| service.lists.get(index)) {
        Some(shared) => shared.text(service.offers.version(), service.host.now(), make).await,
        None => tokio::task::spawn_blocking(make).await.unwrap_or_default().into(),
    })
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
            let offer = Offer::parse_strictly(&body).map_err(ApiError::bad)?;
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use dmsg_engine::identity::SecretKey;

    use super::*;
    use crate::service::ServiceKind;

    #[tokio::test]
    async fn a_list_is_cut_where_it_gets_too_long_and_stays_a_list() {
        let config = HostConfig::new(ServiceKind::ServiceDiscovery);
        let service = ServiceDiscovery::new(config, &Database::memory()).unwrap();
        let wanted =
            |quantity| Wanted { kind: "vpn".to_owned(), version: None, country: None, quantity };
        let count = |text: Vec<u8>| serde_json::from_slice::<Vec<Offer>>(&text).unwrap().len();
        assert_eq!(service.list(&wanted(0), 1000), b"[]");
        for n in 0..10u8 {
            let key = SecretKey::from_seed(&[n]).public_key();
            let offer = Offer::new(format!("{key}:44").parse().unwrap(), "vpn");
            let (key, deadline) = (record_key(&offer), service.host.deadline());
            let edits = vec![Edit::Put { key, value: offer, deadline }];
            service.offers.edit(|_| Ok::<_, ApiError>(((), edits))).await.unwrap();
        }
        let whole = service.list(&wanted(0), LIST_BYTES_MAX);
        let each = whole.len() / 10;
        assert_eq!(count(whole), 10);
        assert_eq!(count(service.list(&wanted(3), LIST_BYTES_MAX)), 3);
        assert_eq!(count(service.list(&wanted(0), 4 * each + 8)), 4);
        let other = Wanted { version: Some("v9".to_owned()), ..wanted(0) };
        assert_eq!(service.list(&other, LIST_BYTES_MAX), b"[]");
    }
}
