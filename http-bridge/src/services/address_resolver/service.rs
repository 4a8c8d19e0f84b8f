//! An Address Resolver (`services.md §6.1`): the HTTP side, for `stcpr`, and for what [`Sudph`] knows.
//!
//! The address that is handed out is the connection's over TCP, and what the caller claims over DMSG, which nobody can check
//! here; so a visor that dials it must not believe more than the handshake behind it proves.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use dmsg_engine::identity::PublicKey;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::{
    Binding, Bound, Resolved,
    sudph::{SESSIONS_MAX, Sudph},
};
use crate::{
    discovery::UnixNanos,
    services::{
        KeyText,
        auth::Authority,
        host::{ApiError, Host, HostConfig, OBJECT_BYTES_MAX, Service, json, null},
        ip::is_public,
        records::{Database, Edit, Record, Records, RecordsError},
    },
};

/// Bound visors at most; 500 bytes each: 50 MiB.
pub const BINDINGS_MAX: usize = 100_000;

/// Addresses of one visor at most; a machine has some interfaces.
pub const ADDRESSES_MAX: usize = 32;

/// A visor that can be dialled.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Bind {
    key: KeyText,
    remote: IpAddr,
    port: String,
    addresses: Vec<String>,
}

impl Record for Bind {
    fn owners(&self) -> Vec<PublicKey> {
        vec![self.key.0]
    }
}

/// The service.
pub struct AddressResolver {
    host: Host,
    bindings: Records<Bind>,
    sudph: Sudph,
}

type Shared = State<Arc<AddressResolver>>;

impl AddressResolver {
    /// A service that keeps its bindings in `database`.
    pub fn new(config: HostConfig, database: &Database) -> Result<Self, RecordsError> {
        let host = Host::new(config);
        let bindings = Records::open(database, "stcpr", BINDINGS_MAX, host.now())?;
        Ok(Self { host, bindings, sudph: Sudph::default() })
    }

    /// The UDP side; nobody is bound there until [`Sudph::serve`] runs. `address` is told in the health page: visors that
    /// reach us over DMSG learn it nowhere else.
    pub fn sudph(&self, address: String) -> Sudph {
        self.host.set_udp_address(address);
        self.sudph.clone()
    }

    async fn bind(&self, caller: Authority, binding: Binding) -> Result<(), ApiError> {
        let refused = |what: &str| ApiError::bad(format!("Cannot bind {}: {what}", caller.key));
        let remote = caller.address.ok_or_else(|| {
            refused("Remote address unknown: over DMSG it is to be sent as SW-PublicIP")
        })?;
        if !self.host.config().allow_private && !is_public(remote) {
            return Err(refused("Invalid IP address: it is not public"));
        }
        if binding.addresses.len() > ADDRESSES_MAX {
            return Err(refused("too many addresses"));
        }
        if binding.port.parse::<u16>().map_or(true, |port| port == 0) {
            return Err(refused("the port is no number from 1 to 65535"));
        }
        let parsed: Option<Vec<IpAddr>> =
            binding.addresses.iter().map(|text| text.parse::<IpAddr>().ok()).collect();
        let parsed = parsed.ok_or_else(|| refused("one of the addresses is no IP address"))?;
        if !parsed.iter().any(|address| address.to_canonical() == remote) {
            return Err(refused("Remote address not present in the list of addresses"));
        }
        let value = Bind {
            key: KeyText(caller.key),
            remote,
            port: binding.port,
            addresses: parsed.iter().map(ToString::to_string).collect(),
        };
        let edit = Edit::Put { key: caller.key.to_string(), value, deadline: self.host.deadline() };
        let now = self.host.now();
        self.bindings
            .edit(|shelf| {
                if shelf.get(&caller.key.to_string(), now).is_none() {
                    self.host.admit_new(caller.peer, 1)?;
                }
                Ok(((), vec![edit]))
            })
            .await
    }

    async fn unbind(&self, keys: &[PublicKey]) -> Result<(), ApiError> {
        let edits = keys.iter().map(|key| Edit::Remove { key: key.to_string() }).collect();
        self.bindings.edit(|_| Ok(((), edits))).await
    }

    fn resolve(&self, key: PublicKey) -> Option<Resolved> {
        let bind = self.bindings.read().get(&key.to_string(), self.host.now())?;
        Some(Resolved {
            remote_addr: bind.remote.to_string(),
            port: bind.port.clone(),
            addresses: bind.addresses.clone(),
            is_local: false,
        })
    }
}

impl Service for AddressResolver {
    fn host(&self) -> &Host {
        &self.host
    }

    fn paths(self: Arc<Self>) -> Router {
        Router::new()
            .route("/bind/stcpr", post(bind).delete(unbind))
            .route("/resolve/{network}/{key}", get(resolve))
            .route("/transports", get(bound))
            .route("/deregister/{network}", delete(deregister))
            .with_state(self)
    }

    fn expire(&self, now: UnixNanos) {
        self.bindings.expire(now);
        self.host.sweep();
    }

    fn tables(&self) -> Vec<(&'static str, usize, usize)> {
        vec![
            ("stcpr", self.bindings.count(), self.bindings.max()),
            ("sudph", self.sudph.count(), SESSIONS_MAX),
        ]
    }
}

async fn bind(State(service): Shared, request: Request) -> Response {
    service
        .host
        .signed(request, OBJECT_BYTES_MAX, async |caller, body| {
            match serde_json::from_slice::<Binding>(&body) {
                Ok(binding) => service.bind(caller, binding).await?,
                // Go answers 200 to what it does not understand, and stores nothing.
                Err(_) if service.host.config().quirks.go_statuses => {}
                Err(error) => return Err(ApiError::bad(error)),
            }
            Ok(StatusCode::OK.into_response())
        })
        .await
}

async fn unbind(State(service): Shared, request: Request) -> Response {
    service
        .host
        .signed(request, OBJECT_BYTES_MAX, async |caller, _| {
            service.unbind(&[caller.key]).await?;
            Ok(StatusCode::OK.into_response())
        })
        .await
}

async fn resolve(
    State(service): Shared,
    Path((network, key)): Path<(String, String)>,
    request: Request,
) -> Response {
    service
        .host
        .signed(request, 0, async |caller, _| {
            let key: PublicKey = key.parse().map_err(ApiError::bad)?;
            let found = match network.as_str() {
                "stcpr" => service.resolve(key),
                "sudph" => service.sudph.resolve(caller.key, key),
                _ if service.host.config().quirks.go_statuses => {
                    return Err(ApiError::flat(StatusCode::INTERNAL_SERVER_ERROR, "unknown type"));
                }
                _ => return Err(ApiError::bad("unknown network: stcpr and sudph are known")),
            };
            Ok(match found {
                Some(resolved) => json(&resolved),
                None => StatusCode::NOT_FOUND.into_response(),
            })
        })
        .await
}

async fn bound(State(service): Shared) -> Response {
    let now = service.host.now();
    let mut keys: Vec<_> =
        service.bindings.read().all(now).map(|bind| bind.key.0.to_string()).collect();
    keys.sort_unstable();
    let sudph = service.sudph.keys().iter().map(ToString::to_string).collect();
    json(&Bound { stcpr: keys, sudph })
}

async fn deregister(
    State(service): Shared,
    Path(network): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let unbind = async |keys: Vec<KeyText>| {
        let keys: Vec<_> = keys.iter().map(|key| key.0).collect();
        match network.as_str() {
            "stcpr" => service.unbind(&keys).await?,
            "sudph" => service.sudph.unbind(&keys),
            _ => {}
        }
        Ok(null())
    };
    service.host.monitored(&headers, body, unbind).await
}
