//! An Uptime Tracker (`services.md §8`).
//!
//! ```text
//!   heartbeat ─▶ its 5-minute slot is new? ─▶ + 300 s for its day      online: the last one under 6 min ago
//! ```

use std::{
    collections::{BTreeMap, HashSet},
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
use serde::{Deserialize, Serialize};

use super::{HEARTBEAT_INTERVAL, Online, Place, Uptime};
use crate::{
    discovery::{RateLimiter, UnixNanos},
    services::{
        KeyText,
        host::{
            ApiError, CallerId, Host, HostConfig, OBJECT_BYTES_MAX, Origin, Service, list, query,
        },
        records::{Database, Edit, Record, Records, RecordsError},
    },
};

/// Visors at most. One with two months of days is 2 KiB: 200 MiB.
pub const VISORS_MAX: usize = 100_000;

/// Days that are kept of a visor: this month, and the one before.
pub const DAYS_MAX: usize = 62;

/// A visor that has been silent for this long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(62 * DAY);

/// How long after its last heartbeat a visor counts as up.
const ONLINE_FOR: Duration = Duration::from_secs(360);

/// Lists that one caller may ask for: five a minute.
const LIST_INTERVAL: Duration = Duration::from_secs(12);
const LIST_BURST: u32 = 5;
const LIST_CALLERS_MAX: usize = 65_536;

const DAY: u64 = 86_400;
const SLOT_SECONDS: u64 = HEARTBEAT_INTERVAL.as_secs();

/// What is known of a visor.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Visor {
    key: KeyText,
    version: String,
    /// Unix seconds of the last heartbeat.
    last: u64,
    /// Seconds of each day, by day since 1970.
    days: BTreeMap<u64, u64>,
}

impl Record for Visor {
    fn owners(&self) -> Vec<PublicKey> {
        Vec::new()
    }
}

/// The service.
pub struct UptimeTracker {
    host: Host,
    visors: Records<Visor>,
    lists: RateLimiter<CallerId>,
}

type Shared = State<Arc<UptimeTracker>>;

impl UptimeTracker {
    /// A service that keeps its visors in `database`.
    pub fn new(config: HostConfig, database: &Database) -> Result<Self, RecordsError> {
        let host = Host::new(config);
        let visors = Records::open(database, "visors", VISORS_MAX, host.now())?;
        let lists = RateLimiter::one_each(LIST_INTERVAL, LIST_BURST, LIST_CALLERS_MAX);
        Ok(Self { host, visors, lists })
    }

    async fn heartbeat(&self, key: PublicKey, version: &str) -> Result<(), ApiError> {
        let now = self.host.now();
        let seconds = u64::try_from(now.0 / 1_000_000_000).unwrap_or(0);
        let version: String = version.chars().filter(|c| !c.is_control()).take(64).collect();
        self.visors
            .edit(|shelf| {
                let text = key.to_string();
                let known = shelf.get(&text, now);
                let visor = beat(known.as_deref(), key, version, seconds);
                let edit = Edit::Put { key: text, value: visor, deadline: now.plus(FORGET_AFTER) };
                Ok(((), vec![edit]))
            })
            .await
    }

    fn admit(&self, request: &Request) -> Result<(), ApiError> {
        let caller = Origin::of(request).caller();
        if caller.is_some_and(|caller| !self.lists.admit(caller, Instant::now())) {
            return Err(ApiError::rate_limited(LIST_INTERVAL));
        }
        Ok(())
    }

    fn is_online(visor: &Visor, now: UnixNanos) -> bool {
        let last = UnixNanos(0).plus(Duration::from_secs(visor.last));
        now.since(last) < ONLINE_FOR
    }
}

/// The visor after a heartbeat at `seconds`.
fn beat(known: Option<&Visor>, key: PublicKey, version: String, seconds: u64) -> Visor {
    let mut visor = known.cloned().unwrap_or_else(|| Visor {
        key: KeyText(key),
        version: String::new(),
        last: 0,
        days: BTreeMap::new(),
    });
    if known.is_none() || seconds / SLOT_SECONDS != visor.last / SLOT_SECONDS {
        let day = visor.days.entry(seconds / DAY).or_default();
        *day = (*day + SLOT_SECONDS).min(DAY);
    }
    while visor.days.len() > DAYS_MAX {
        visor.days.pop_first();
    }
    visor.last = visor.last.max(seconds);
    visor.version = version;
    visor
}

/// Percent of each day from `from` to `to`; of today, of what has passed of it.
fn daily(visor: &Visor, from: u64, to: u64, now_seconds: u64) -> BTreeMap<String, String> {
    let days = visor.days.range(from..=to.max(from));
    days.map(|(day, up)| {
        let passed = if *day == now_seconds / DAY { now_seconds % DAY } else { DAY };
        let percent = (*up as f64 * 100.0 / passed.max(SLOT_SECONDS) as f64).min(100.0);
        (date(*day), format!("{percent:.2}"))
    })
    .collect()
}

/// `2024-10-01`.
fn date(day: u64) -> String {
    let seconds = i64::try_from(day * DAY).unwrap_or(0);
    UnixNanos(seconds.saturating_mul(1_000_000_000)).to_rfc3339().chars().take(10).collect()
}

/// The days of the months from that of `from` to that of `to`, both Unix seconds.
fn months(from: u64, to: u64) -> (u64, u64) {
    let day_of_month = |day: u64| date(day)[8..].parse::<u64>().unwrap_or(1);
    let first = (from / DAY).saturating_sub(day_of_month(from / DAY) - 1);
    let mut last = to / DAY;
    while day_of_month(last + 1) != 1 {
        last += 1;
    }
    (first, last)
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
        vec![("visors", self.visors.count(), self.visors.max())]
    }
}

async fn update(State(service): Shared, request: Request) -> Response {
    let version = query(&request).remove("version").unwrap_or_default();
    service
        .host
        .signed(request, OBJECT_BYTES_MAX, async |caller, _| {
            service.heartbeat(caller.key, &version).await?;
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
    let seconds = u64::try_from(now.0 / 1_000_000_000).unwrap_or(0);
    let named = query.get("visors").filter(|list| !list.is_empty());
    let named: Option<HashSet<PublicKey>> =
        named.map(|list| list.split([',', ';']).filter_map(|key| key.parse().ok()).collect());
    let time = |name| query.get(name).map(|text| text.parse::<u64>());
    let (from, to) = match (time("startDate"), time("endDate")) {
        (None, None) => (seconds, seconds),
        // A year is more than is kept; what is far away must not be walked to.
        (Some(Ok(from)), Some(Ok(to))) if to <= seconds + 366 * DAY => (from, to),
        _ => {
            return ApiError::bad("startDate and endDate are Unix seconds, not far ahead")
                .into_response();
        }
    };
    let (first, last) = months(from, to);
    let status = query.get("status").map(String::as_str);
    let shelf = service.visors.read();
    let mut found: Vec<_> = shelf
        .all(now)
        .filter(|visor| named.as_ref().is_none_or(|named| named.contains(&visor.key.0)))
        .map(|visor| (UptimeTracker::is_online(visor, now), visor))
        .filter(|(online, _)| match status {
            Some("on") => *online,
            Some("off") => !online,
            _ => true,
        })
        .collect();
    found.sort_by_key(|(_, visor)| visor.key);
    if query.get("v").map(String::as_str) == Some("v2") {
        let long = |(on, visor): (bool, &Arc<Visor>)| Uptime {
            key: visor.key.0,
            on,
            version: visor.version.clone(),
            daily: daily(visor, first, last, seconds),
        };
        return list(&service.host, found.into_iter().map(long).collect());
    }
    let short = |(online, visor): (bool, &Arc<Visor>)| Online { key: visor.key.0, online };
    list(&service.host, found.into_iter().map(short).collect())
}

async fn uptime(State(service): Shared, Path(key): Path<String>) -> Response {
    let work = || {
        let key: PublicKey = key.parse().map_err(ApiError::bad)?;
        let now = service.host.now();
        let Some(visor) = service.visors.read().get(&key.to_string(), now) else {
            let text = format!("no entries for pk {key}");
            return Err(ApiError::flat(StatusCode::INTERNAL_SERVER_ERROR, text));
        };
        Ok(axum::Json(Online { key, online: UptimeTracker::is_online(&visor, now) })
            .into_response())
    };
    work().unwrap_or_else(ApiError::into_response)
}

/// Nobody's place is known here.
async fn places(State(service): Shared, request: Request) -> Response {
    match service.admit(&request) {
        Ok(()) => list(&service.host, Vec::<Place>::new()),
        Err(error) => error.into_response(),
    }
}

/// How many visors are up; keys are hex digits and versions are left out, so nothing here can become markup.
async fn dashboard(State(service): Shared) -> Response {
    let now = service.host.now();
    let shelf = service.visors.read();
    let mut rows: Vec<_> = shelf
        .all(now)
        .map(|visor| {
            let state = if UptimeTracker::is_online(visor, now) { "up" } else { "down" };
            format!("<tr><td>{}</td><td>{state}</td></tr>", visor.key.0)
        })
        .collect();
    rows.sort_unstable();
    rows.truncate(1000);
    let page = format!("<!doctype html><title>Uptime</title><table>{}</table>\n", rows.concat());
    axum::response::Html(page).into_response()
}

#[cfg(test)]
mod tests {
    use dmsg_engine::identity::SecretKey;

    use super::*;

    /// 2024-10-01 00:00:00.
    const OCTOBER: u64 = 1_727_740_800;

    fn key() -> PublicKey {
        SecretKey::from_seed(b"visor").public_key()
    }

    fn beats(times: impl IntoIterator<Item = u64>) -> Visor {
        let mut visor = beat(None, key(), String::new(), OCTOBER);
        for time in times {
            visor = beat(Some(&visor), key(), "v1".into(), time);
        }
        visor
    }

    #[test]
    fn each_slot_counts_once_and_a_whole_day_is_a_hundred_percent() {
        let visor = beats([OCTOBER + 1, OCTOBER + 299, OCTOBER + 300, OCTOBER + 599]);
        assert_eq!(visor.days[&(OCTOBER / DAY)], 600);
        let all = beats((0..288).map(|slot| OCTOBER + slot * 300));
        let day = OCTOBER / DAY;
        let uptimes = daily(&all, day, day, OCTOBER + DAY);
        assert_eq!(uptimes, BTreeMap::from([("2024-10-01".to_owned(), "100.00".to_owned())]));
    }

    #[test]
    fn days_are_bounded() {
        let visor = beats((0..200).map(|day| OCTOBER + day * DAY));
        assert_eq!(visor.days.len(), DAYS_MAX);
        assert!(visor.days.contains_key(&(OCTOBER / DAY + 199)));
    }

    #[test]
    fn dates_are_widened_to_months() {
        let (first, last) = months(OCTOBER + 5 * DAY, OCTOBER + 7 * DAY);
        assert_eq!((date(first), date(last)), ("2024-10-01".into(), "2024-10-31".into()));
        assert_eq!(date(months(0, 0).0), "1970-01-01");
    }
}
