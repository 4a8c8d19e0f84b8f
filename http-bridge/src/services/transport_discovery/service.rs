//! A Transport Discovery (`services.md §4.2`): small, but it believes nobody.
//!
//! Unlike Go's, it checks the signatures of both edges and that the caller is one of them, stores a list as a whole or not
//! at all, takes a transport again that it knows, and forgets one that neither edge has asked about for a
//! while: a visor asks for its own transports every 5 minutes, and that refreshes them. What visors of 2026 register
//! without signatures (`/v3`) has the word of the caller alone, for whom its authentication stands.
//!
//! Since 2026 visors also tell here that they are up (`services.md §8`).

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use dmsg_engine::identity::PublicKey;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::{SignedTransport, Transport, TransportId};
use crate::{
    discovery::UnixNanos,
    services::{
        KeyText,
        auth::Authority,
        host::{
            ApiError, Host, HostConfig, LIST_BYTES_MAX, OBJECT_BYTES_MAX, Service, SharedText,
            json, json_text, list, list_text, null, query, read_list,
        },
        records::{Database, Edit, Record, Records, RecordsError, Shelf},
        uptime_tracker::{Ledger, summaries},
    },
};

/// Transports at most. One is 300 bytes of JSON and about as much of indexes: 60 MiB.
pub const TRANSPORTS_MAX: usize = 100_000;

/// Transports of one request at most: two signatures of 60 µs each are 30 ms of one core.
pub const BATCH_MAX: usize = 256;

/// Transports of one visor at most, so that nobody fills the table alone. Real visors have some dozens.
pub const TRANSPORTS_PER_EDGE_MAX: usize = 2048;

impl Record for SignedTransport {
    fn owners(&self) -> Vec<PublicKey> {
        self.entry.edges.to_vec()
    }
}

/// How much a registry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistryLimits {
    /// [`TRANSPORTS_MAX`].
    pub transports_max: usize,
    /// [`TRANSPORTS_PER_EDGE_MAX`].
    pub per_edge_max: usize,
}

impl Default for RegistryLimits {
    fn default() -> Self {
        Self { transports_max: TRANSPORTS_MAX, per_edge_max: TRANSPORTS_PER_EDGE_MAX }
    }
}

/// The service.
pub struct TransportDiscovery {
    host: Host,
    limits: RegistryLimits,
    transports: Records<SignedTransport>,
    all: SharedText,
    uptimes: Arc<Ledger>,
}

type Shared = State<Arc<TransportDiscovery>>;
type Edits = Vec<Edit<SignedTransport>>;

impl TransportDiscovery {
    /// A service that keeps its transports in `database`.
    pub fn new(config: HostConfig, database: &Database) -> Result<Self, RecordsError> {
        Self::bounded(config, database, RegistryLimits::default())
    }

    /// The same with other limits.
    pub fn bounded(
        config: HostConfig,
        database: &Database,
        limits: RegistryLimits,
    ) -> Result<Self, RecordsError> {
        let host = Host::new(config);
        let transports = Records::open(database, "transports", limits.transports_max, host.now())?;
        let uptimes = Arc::new(Ledger::open(database, host.now())?);
        Ok(Self { host, limits, transports, all: SharedText::default(), uptimes })
    }

    /// Every transport that is registered now.
    #[must_use]
    pub fn transports(&self) -> Vec<Transport> {
        self.transports.read().all(self.host.now()).map(|signed| signed.entry.clone()).collect()
    }

    async fn register(
        &self,
        caller: Authority,
        mut transports: Vec<SignedTransport>,
    ) -> Result<Vec<SignedTransport>, ApiError> {
        check_batch(caller.key, &transports)?;
        transports.iter_mut().for_each(|signed| signed.by = None);
        let checked = tokio::task::spawn_blocking(move || {
            let problem = transports.iter().find_map(|signed| signed.verify().err());
            problem.map_or(Ok(transports), |problem| Err(ApiError::bad(problem)))
        });
        let transports = checked.await.map_err(|_| ApiError::bad("the check did not end"))??;
        self.store(caller, transports).await
    }

    /// Registers transports that come without signatures. One that is known with its signatures keeps them.
    async fn register_bare(
        &self,
        caller: Authority,
        mut transports: Vec<SignedTransport>,
    ) -> Result<Vec<SignedTransport>, ApiError> {
        check_batch(caller.key, &transports)?;
        transports.iter_mut().for_each(|bare| bare.by = Some(KeyText(caller.key)));
        let problem = transports.iter().find_map(|bare| bare.entry.check().err());
        problem.map_or(Ok(()), |problem| Err(ApiError::bad(problem)))?;
        self.store(caller, transports).await
    }

    async fn store(
        &self,
        caller: Authority,
        transports: Vec<SignedTransport>,
    ) -> Result<Vec<SignedTransport>, ApiError> {
        let (now, deadline) = (self.host.now(), self.host.deadline());
        self.transports
            .edit(|shelf| {
                let is_new = |signed: &&SignedTransport| {
                    shelf.get(&signed.entry.id.to_string(), now).is_none()
                };
                let new = transports.iter().filter(is_new).count();
                let max = self.limits.per_edge_max;
                // What somebody else says of the caller takes none of the caller's places.
                let of_caller = shelf.of(&caller.key, now).into_iter();
                let own = of_caller.filter(|signed| signed.is_vouched_by(caller.key)).count();
                if new > 0 && own + new > max {
                    let text = format!("more than {max} transports of one visor");
                    return Err(ApiError::flat(StatusCode::FORBIDDEN, text));
                }
                self.host.admit_new(caller.peer, new)?;
                let stored: Vec<_> =
                    transports.into_iter().map(|signed| registered(shelf, signed, now)).collect();
                let edits = stored.iter().map(|signed| put(signed.clone(), deadline)).collect();
                Ok((stored, edits))
            })
            .await
    }

    /// Deletes transports of the caller's; any of another's is an error, and then nothing is deleted.
    async fn remove(&self, caller: PublicKey, ids: &[TransportId]) -> Result<usize, ApiError> {
        let now = self.host.now();
        self.transports
            .edit(|shelf| {
                let mut edits = Edits::new();
                for id in ids {
                    let key = id.to_string();
                    let Some(signed) = shelf.get(&key, now) else { continue };
                    if !signed.entry.edges.contains(&caller) {
                        return Err(ApiError::bad("caller is no edge of the transport"));
                    }
                    edits.push(Edit::Remove { key });
                }
                Ok((edits.len(), edits))
            })
            .await
    }

    /// The transports of a visor. If it asks itself, they live on; one written in the last quarter of their time is
    /// enough, as each costs a write.
    async fn of(&self, edge: PublicKey, caller: PublicKey) -> Result<Vec<Transport>, ApiError> {
        let (now, deadline) = (self.host.now(), self.host.deadline());
        let ttl = self.host.config().entry_ttl.filter(|_| edge == caller);
        let refresh_before = ttl.map(|ttl| now.plus(ttl * 3 / 4));
        let is_due = |shelf: &Shelf<SignedTransport>, key: &str| {
            let at = shelf.deadline(key);
            at.zip(refresh_before).is_some_and(|(at, before)| at < before)
        };
        let (found, refreshes) = {
            let shelf = self.transports.read();
            let found = shelf.of(&edge, now);
            let due = found.iter().any(|signed| is_due(&shelf, &signed.entry.id.to_string()));
            (found, due)
        };
        if refreshes {
            self.transports
                .edit(|shelf| {
                    let due = shelf.of(&edge, now).into_iter();
                    let due = due.filter(|signed| is_due(shelf, &signed.entry.id.to_string()));
                    let edits = due.map(|signed| put((*signed).clone(), deadline)).collect();
                    Ok::<_, ApiError>(((), edits))
                })
                .await?;
        }
        Ok(found.iter().map(|signed| signed.entry.clone()).collect())
    }
}

fn put(value: SignedTransport, deadline: UnixNanos) -> Edit<SignedTransport> {
    Edit::Put { key: value.entry.id.to_string(), value, deadline }
}

/// Whether a list is short enough, and the caller's own.
fn check_batch(caller: PublicKey, transports: &[SignedTransport]) -> Result<(), ApiError> {
    if transports.len() > BATCH_MAX {
        return Err(ApiError::bad(format!("more than {BATCH_MAX} transports in one request")));
    }
    if transports.iter().any(|signed| !signed.entry.edges.contains(&caller)) {
        return Err(ApiError::flat(StatusCode::FORBIDDEN, "caller is no edge of the transport"));
    }
    Ok(())
}

/// The transport with the time of its first registration, and the signatures it had if it comes without.
fn registered(
    shelf: &Shelf<SignedTransport>,
    mut signed: SignedTransport,
    now: UnixNanos,
) -> SignedTransport {
    let known = shelf.get(&signed.entry.id.to_string(), now);
    if let Some(known) = &known {
        signed.keep_signatures_of(known);
    }
    signed.registered = known.map_or(now.0 / 1_000_000_000, |known| known.registered);
    signed
}

impl Service for TransportDiscovery {
    fn host(&self) -> &Host {
        &self.host
    }

    fn paths(self: Arc<Self>) -> Router {
        Router::new()
            .route("/transports/", post(register))
            .route("/transports/{target}", get(find).delete(remove))
            .route("/transports/deregister", delete(deregister))
            .route("/transports/delete-batch", post(remove_all))
            .route("/transports/edges", post(find_all))
            .route("/v3/transports/", post(register_bare))
            .route("/v3/transports/{target}", get(find))
            .route("/v4/update", get(heartbeat))
            .route("/all-transports", get(all))
            .route("/statuses", post(async || StatusCode::GONE))
            .with_state(Arc::clone(&self))
            .merge(summaries(Arc::clone(&self.uptimes), self.host.config().clock.clone()))
    }

    fn expire(&self, now: UnixNanos) {
        self.transports.expire(now);
        self.uptimes.expire(now);
        self.host.sweep();
    }

    fn tables(&self) -> Vec<(&'static str, usize, usize)> {
        vec![("transports", self.transports.count(), self.transports.max()), self.uptimes.table()]
    }
}

async fn register(State(service): Shared, request: Request) -> Response {
    service
        .host
        .signed(request, LIST_BYTES_MAX, async |caller, body| {
            let stored = service.register(caller, read_list(&body)?).await?;
            Ok((StatusCode::CREATED, json(&stored)).into_response())
        })
        .await
}

/// Bare transports (2026): the caller, who is proven to be one edge, vouches for the other.
async fn register_bare(State(service): Shared, request: Request) -> Response {
    service
        .host
        .signed(request, LIST_BYTES_MAX, async |caller, body| {
            let bare = read_list(&body)?.into_iter().map(SignedTransport::unsigned).collect();
            let stored = service.register_bare(caller, bare).await?;
            let stored: Vec<_> = stored.into_iter().map(|signed| signed.entry).collect();
            Ok((StatusCode::CREATED, json(&stored)).into_response())
        })
        .await
}

async fn find(State(service): Shared, Path(target): Path<String>, request: Request) -> Response {
    service
        .host
        .signed(request, 0, async |caller, _| match target.split_once(':') {
            Some(("id", id)) => {
                let id: TransportId = id.parse().map_err(ApiError::bad)?;
                let found = service.transports.read().get(&id.to_string(), service.host.now());
                found.map(|signed| json(&signed.entry)).ok_or_else(not_found)
            }
            Some(("edge", key)) => {
                let found = service.of(key.parse().map_err(ApiError::bad)?, caller.key).await?;
                Ok(list(&service.host, found))
            }
            _ => Err(ApiError::bad("id:UUID or edge:KEY is wanted")),
        })
        .await
}

async fn find_all(State(service): Shared, request: Request) -> Response {
    service
        .host
        .signed(request, LIST_BYTES_MAX, async |caller, body| {
            let keys: Vec<KeyText> = read_list(&body)?;
            if keys.len() > BATCH_MAX {
                return Err(ApiError::bad(format!("more than {BATCH_MAX} keys in one request")));
            }
            let mut found = Vec::new();
            for key in keys {
                found.extend(service.of(key.0, caller.key).await?);
            }
            found.sort_by_key(|transport| transport.id);
            found.dedup();
            Ok(list(&service.host, found))
        })
        .await
}

async fn remove(State(service): Shared, Path(target): Path<String>, request: Request) -> Response {
    service
        .host
        .signed(request, LIST_BYTES_MAX, async |caller, _| {
            let id = target.strip_prefix("id:").unwrap_or(&target);
            let id: TransportId = id.parse().map_err(ApiError::bad)?;
            match service.remove(caller.key, &[id]).await? {
                0 => Err(not_found()),
                _ => Ok("transport deleted".into_response()),
            }
        })
        .await
}

async fn remove_all(State(service): Shared, request: Request) -> Response {
    service
        .host
        .signed(request, LIST_BYTES_MAX, async |caller, body| {
            service.remove(caller.key, &read_ids(&body)?).await?;
            Ok("transports deleted".into_response())
        })
        .await
}

async fn all(State(service): Shared) -> Response {
    let (version, now) = (service.transports.version(), service.host.now());
    let made = Arc::clone(&service);
    let text =
        service.all.text(version, now, move || list_text(&made.host, made.transports())).await;
    json_text(text)
}

async fn deregister(State(service): Shared, headers: HeaderMap, body: Body) -> Response {
    let remove = async |ids: Vec<TransportId>| {
        let edits = ids.iter().map(|id| Edit::Remove { key: id.to_string() }).collect();
        service.transports.edit(|_| Ok::<_, ApiError>(((), edits))).await?;
        Ok(null())
    };
    service.host.monitored(&headers, body, remove).await
}

async fn heartbeat(State(service): Shared, request: Request) -> Response {
    let version = query(&request).remove("version").unwrap_or_default();
    service
        .host
        .signed(request, OBJECT_BYTES_MAX, async |caller, _| {
            service.uptimes.beat(&caller, &version, service.host.now()).await?;
            Ok(StatusCode::OK.into_response())
        })
        .await
}

fn not_found() -> ApiError {
    ApiError::flat(StatusCode::NOT_FOUND, "transport not found")
}

/// The ids of a batch: an array, or an object around it. The specification does not say which.
fn read_ids(body: &[u8]) -> Result<Vec<TransportId>, ApiError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Ids {
        Bare(Vec<TransportId>),
        Named { ids: Vec<TransportId> },
    }
    let ids: Option<Ids> = serde_json::from_slice(body).map_err(ApiError::bad)?;
    let ids = match ids {
        None => Vec::new(),
        Some(Ids::Bare(ids) | Ids::Named { ids }) => ids,
    };
    if ids.len() > BATCH_MAX {
        return Err(ApiError::bad(format!("more than {BATCH_MAX} ids in one request")));
    }
    Ok(ids)
}
