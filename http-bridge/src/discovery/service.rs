//! The discovery service behind its HTTP API: who may write what, and what is answered.
//!
//! ```text
//!   register   parse ─ check (validate) ─ label the server ─ deadline ─▶ store.put    sequence rule inside
//!   delete     parse ─ check ─ whose request is it? ─────────────────▶ store.delete
//!   lists      served texts joined; lists of keys are kept until they change
//! ```
//!
//! Nothing here speaks HTTP or waits; `api` puts what may touch the disk on the blocking pool.
//!
//! A key's owner alone can write: every write carries its signature. Deployed clients delete by the entry that anybody
//! can look up (`discovery.md §7.1`), so over clear-net a deletion must be newer than that entry, unless
//! [`DiscoveryConfig::lax_delete`] is set; over DMSG the caller is known by its key.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use dmsg_engine::identity::{PublicKey, Signature};
use http::{HeaderMap, StatusCode};

use super::{
    EntryError, RawEntry, UnixNanos, check_new,
    metrics::Metrics,
    rate_limit::RateLimiter,
    store::{Record, ServerLabel, Store, Written},
    validate::check_members,
};

mod config;
mod lists;
mod page;
mod request_error;

pub use config::{DiscoveryConfig, Passphrase, Seen};
pub use page::PAGE_MAX;
pub(super) use page::{BadPage, Page};
pub use request_error::RequestError;

/// For how long a server stays listed without a refresh; twice its refresh interval.
pub const SERVER_TTL: Duration = Duration::from_secs(120);

/// For how long a client stays that asked for `?timeout=true`, as old ones do.
pub const LEGACY_CLIENT_TTL: Duration = Duration::from_secs(180);

/// For how long other clients stay: twelve times their refresh interval.
pub const CLIENT_TTL: Duration = Duration::from_secs(60 * 60);

/// How often expired entries are removed and changes made durable.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

/// A discovery. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct DiscoveryService(Arc<Shared>);

struct Shared {
    config: DiscoveryConfig,
    store: Arc<dyn Store>,
    limiter: RateLimiter<PublicKey>,
    metrics: Metrics,
    lists: lists::Lists,
    started_at: UnixNanos,
    dmsg_servers: RwLock<Vec<PublicKey>>,
    store_fails: AtomicBool,
}

impl DiscoveryService {
    /// A discovery over `store`. Call [`DiscoveryService::spawn_maintenance`] once it runs.
    #[must_use]
    pub fn new(config: DiscoveryConfig, store: Arc<dyn Store>) -> Self {
        Self(Arc::new(Shared {
            limiter: RateLimiter::new(config.rate_limit),
            metrics: Metrics::new(),
            lists: lists::Lists::default(),
            started_at: (config.clock)(),
            dmsg_servers: RwLock::default(),
            store_fails: AtomicBool::new(false),
            config,
            store,
        }))
    }

    /// Tells the servers with which the discovery holds sessions, for its health page.
    pub fn set_dmsg_servers(&self, servers: Vec<PublicKey>) {
        *self.0.dmsg_servers.write().unwrap_or_else(PoisonError::into_inner) = servers;
    }

    /// Keeps the store tidy and durable until the answer is dropped. Needs a tokio runtime.
    #[must_use = "maintenance ends when this is dropped"]
    pub fn spawn_maintenance(&self) -> Maintenance {
        let service = self.clone();
        Maintenance(tokio::spawn(async move {
            let mut interval = tokio::time::interval(MAINTENANCE_INTERVAL);
            loop {
                interval.tick().await;
                let service = service.clone();
                let _ = tokio::task::spawn_blocking(move || service.maintain(Instant::now())).await;
            }
        }))
    }

    /// One round of maintenance.
    pub fn maintain(&self, now: Instant) {
        self.0.limiter.sweep(now);
        let done = self.0.store.expire(self.now()).and_then(|expired| {
            self.0.metrics.expired(expired);
            self.0.store.flush()
        });
        // A store that stays away for an hour is one line, not 3,600.
        let was_failing = self.0.store_fails.swap(done.is_err(), Ordering::Relaxed);
        match done {
            Err(error) if !was_failing => {
                tracing::error!(%error, "the discovery's store could not be maintained");
            }
            Ok(()) if was_failing => tracing::info!("the discovery's store is back"),
            _ => {}
        }
    }

    /// Stores an entry (`discovery.md §3`). `legacy_timeout`: the request asked for `?timeout=true`.
    pub fn register(&self, body: &[u8], legacy_timeout: bool) -> Result<Written, RequestError> {
        let mut kind = "unknown";
        let result = self.try_register(body, legacy_timeout, &mut kind);
        let outcome = match result {
            Ok(Written::Created) => "created",
            Ok(Written::Updated) => "updated",
            Err(error) => error.label(),
        };
        self.0.metrics.registered(kind, outcome);
        result
    }

    fn try_register(
        &self,
        body: &[u8],
        legacy_timeout: bool,
        kind: &mut &'static str,
    ) -> Result<Written, RequestError> {
        let now = self.now();
        let raw = RawEntry::parse(body)?;
        *kind = match (&raw.entry().client, &raw.entry().server) {
            (Some(_), Some(_)) => "both",
            (Some(_), None) => "client",
            (None, Some(_)) => "server",
            (None, None) => "neither",
        };
        let signed = check_new(&raw, now, self.0.config.test_mode)?;
        let deadline = self.deadline(&raw, legacy_timeout, now);
        let record = Record::new(&raw, signed, self.label(&raw), deadline)?;
        let visor = record.client.as_ref().is_some_and(|client| client.visor);
        let visor = visor.then_some(record.key);
        let written = self.0.store.put(record, now)?;
        self.keep()?;
        if let (Some(key), Some(seen)) = (visor, &self.0.config.seen) {
            seen(key, now);
        }
        Ok(written)
    }

    /// Makes what was written survive us before anybody is told that it was: a client that was told does not write
    /// again for minutes. One sync serves all who wait for it.
    fn keep(&self) -> Result<(), RequestError> {
        Ok(self.0.store.flush()?)
    }

    fn deadline(&self, raw: &RawEntry, legacy_timeout: bool, now: UnixNanos) -> UnixNanos {
        if raw.entry().server.is_some() {
            now.plus(SERVER_TTL)
        } else if legacy_timeout {
            now.plus(LEGACY_CLIENT_TTL)
        } else {
            self.0.config.client_ttl.map_or(UnixNanos::NEVER, |ttl| now.plus(ttl))
        }
    }

    fn label(&self, raw: &RawEntry) -> ServerLabel {
        let config = &self.0.config;
        let listed = raw.entry().key.is_some_and(|key| config.official_servers.contains(&key));
        let claimed = raw.entry().server.as_ref().map_or("", |server| &server.server_type);
        if listed || config.passphrase.as_ref().is_some_and(|passphrase| passphrase.is(claimed)) {
            ServerLabel::Official
        } else {
            ServerLabel::Community
        }
    }

    /// Deletes an entry. `caller`: the key of the DMSG stream, `None` over clear-net.
    pub fn delete(&self, body: &[u8], caller: Option<PublicKey>) -> Result<(), RequestError> {
        let result = self.try_delete(body, caller);
        self.0.metrics.deleted(match result {
            Ok(true) => "deleted",
            Ok(false) => "not_found",
            Err(error) => error.label(),
        });
        result.map(drop)
    }

    fn try_delete(&self, body: &[u8], caller: Option<PublicKey>) -> Result<bool, RequestError> {
        let now = self.now();
        let raw = RawEntry::parse(body)?;
        check_members(&raw, now)?;
        let key = raw.entry().key.ok_or(EntryError::NoKey)?;
        if caller.is_some_and(|caller| caller != key) {
            return Err(EntryError::InvalidSignature.into());
        }
        if raw.verify().is_err() && !self.is_served_copy(&raw, key, now)? {
            return Err(EntryError::InvalidSignature.into());
        }
        let strict = !self.0.config.lax_delete && caller.is_none();
        let oldest = raw.entry().timestamp.saturating_sub(i64::from(strict));
        let guard = move |stored: &Record| {
            if stored.timestamp > oldest { Err(EntryError::TimestampBehind) } else { Ok(()) }
        };
        let deleted = self.0.store.delete(&key, &guard, now)?;
        self.keep()?;
        Ok(deleted)
    }

    /// Whether `raw` is the entry as we serve it: a server re-sends it with our label in it, so that its own
    /// signature no longer fits (`discovery.md §2.3`).
    fn is_served_copy(
        &self,
        raw: &RawEntry,
        key: PublicKey,
        now: UnixNanos,
    ) -> Result<bool, RequestError> {
        let stored = self.0.store.find(&key, now)?;
        let served = stored.and_then(|record| RawEntry::parse(&record.served).ok());
        Ok(served.is_some_and(|served| served.entry() == raw.entry()))
    }

    /// Whether these headers are a network monitor's: `Err` says with which status they are refused.
    pub(super) fn admit_monitor(&self, headers: &HeaderMap) -> Result<(), StatusCode> {
        admit_monitor(&self.0.config.monitors, headers)
    }

    /// Deletes entries for a network monitor.
    pub(super) fn deregister(&self, keys: &[PublicKey]) -> Result<(), RequestError> {
        for key in keys {
            self.0.store.delete(key, &|_| Ok(()), self.now())?;
        }
        self.keep()
    }

    /// The served text of an entry; `None` asks for the null key.
    pub(super) fn look_up(&self, key: Option<PublicKey>) -> Result<Bytes, RequestError> {
        let found = match key {
            Some(key) => self.0.store.find(&key, self.now()).map_err(RequestError::from),
            None => Ok(None),
        };
        let result =
            found.and_then(|record| record.ok_or(RequestError::Entry(EntryError::NotFound)));
        self.0.metrics.looked_up(match &result {
            Ok(_) => "found",
            Err(error) => error.label(),
        });
        result.map(|record| record.served.clone())
    }

    /// Counts a lookup that failed before it began.
    pub(super) fn bad_lookup(&self) -> RequestError {
        self.0.metrics.looked_up(EntryError::BadInput.label());
        EntryError::BadInput.into()
    }

    /// Whether questions to the store never wait.
    pub(super) fn store_is_local(&self) -> bool {
        self.0.store.is_local()
    }

    /// Whether the caller with this key may ask now.
    pub(super) fn admit(&self, caller: PublicKey) -> Result<(), RequestError> {
        if self.0.limiter.admit(caller, Instant::now()) {
            return Ok(());
        }
        self.0.metrics.rate_limited();
        Err(RequestError::RateLimited)
    }

    /// The OpenMetrics text.
    #[must_use]
    pub fn metrics_text(&self) -> String {
        self.0.metrics.text(self.0.store.counts())
    }

    fn now(&self) -> UnixNanos {
        (self.0.config.clock)()
    }
}

/// Maintenance runs while this lives.
#[derive(Debug)]
pub struct Maintenance(tokio::task::JoinHandle<()>);

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whether the headers are those of one of these network monitors: `Err` says with which status they are refused
/// (`discovery.md §4`).
pub(crate) fn admit_monitor(monitors: &[PublicKey], headers: &HeaderMap) -> Result<(), StatusCode> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let key: PublicKey = text("nm-pk").parse().map_err(|_| StatusCode::FORBIDDEN)?;
    if !monitors.contains(&key) {
        return Err(StatusCode::FORBIDDEN);
    }
    let signature: Signature = text("nm-sign").parse().map_err(|_| StatusCode::BAD_REQUEST)?;
    signature.verify(&key, key.to_string().as_bytes()).map_err(|_| StatusCode::FORBIDDEN)
}
