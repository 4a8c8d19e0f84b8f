//! What is known of visors from their heartbeats; kept by an Uptime Tracker, and since 2026 by three other services.
//!
//! ```text
//!   heartbeat ─▶ its 5-minute slot is new? ─▶ + 300 s for its day      online: the last one under 6 min ago
//! ```

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use dmsg_engine::identity::PublicKey;
use serde::{Deserialize, Serialize};

use super::{HEARTBEAT_INTERVAL, Uptime};
use crate::{
    discovery::UnixNanos,
    services::{
        KeyText,
        auth::Authority,
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

pub(super) const DAY: u64 = 86_400;
const SLOT_SECONDS: u64 = HEARTBEAT_INTERVAL.as_secs();

/// What is known of a visor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Visor {
    pub(super) key: KeyText,
    version: String,
    /// Unix seconds of the last heartbeat.
    last: u64,
    /// Where it was then; what it claims if that came over DMSG.
    #[serde(default)]
    pub(super) address: Option<IpAddr>,
    /// Seconds of each day, by day since 1970.
    days: BTreeMap<u64, u64>,
}

impl Record for Visor {
    fn owners(&self) -> Vec<PublicKey> {
        Vec::new()
    }
}

/// The heartbeats of visors.
pub struct Ledger(Records<Visor>);

/// Which visors are wanted.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Only these.
    pub(super) keys: Option<HashSet<PublicKey>>,
    /// Only those that are up, or down.
    pub(super) online: Option<bool>,
}

impl Ledger {
    /// The heartbeats in `database`.
    pub fn open(database: &Database, now: UnixNanos) -> Result<Self, RecordsError> {
        Records::open(database, "visors", VISORS_MAX, now).map(Self)
    }

    /// Counts a heartbeat; returns when it is on disk.
    pub async fn beat(
        &self,
        caller: &Authority,
        version: &str,
        now: UnixNanos,
    ) -> Result<(), RecordsError> {
        self.0
            .edit(|shelf| {
                let known = shelf.get(&caller.key.to_string(), now);
                let mut visor = beat(known.as_deref(), caller.key, version, seconds(now));
                visor.address = caller.address.or(visor.address);
                Ok(((), vec![put(visor, now)]))
            })
            .await
    }

    /// Counts a sign of life that came with something else, and does not wait for the disk: a few minutes of uptime are
    /// not worth it. At most one write a slot.
    pub fn note(&self, key: PublicKey, version: &str, now: UnixNanos) {
        let noted = self.0.note(|shelf| {
            let known = shelf.get(&key.to_string(), now);
            let is_counted = known.as_ref().is_some_and(|visor| {
                visor.last / SLOT_SECONDS == seconds(now) / SLOT_SECONDS
                    && (version.is_empty() || visor.version == version)
            });
            if is_counted {
                return Vec::new();
            }
            vec![put(beat(known.as_deref(), key, version, seconds(now)), now)]
        });
        if let Err(error) = noted {
            tracing::debug!(%key, %error, "a sign of life was not counted");
        }
    }

    /// Changes with what [`Ledger::find`] finds.
    pub(super) fn version(&self) -> u64 {
        self.0.version()
    }

    /// The visors that are wanted, in the order of their keys, and whether each is up.
    pub(super) fn find(&self, wanted: &Wanted, now: UnixNanos) -> Vec<(bool, Arc<Visor>)> {
        let shelf = self.0.read();
        let named: Vec<_> = match &wanted.keys {
            Some(keys) => keys.iter().filter_map(|key| shelf.get(&key.to_string(), now)).collect(),
            None => shelf.all(now).cloned().collect(),
        };
        drop(shelf);
        let visors = named.into_iter().map(|visor| (visor.is_online(now), visor));
        let mut found: Vec<_> =
            visors.filter(|(up, _)| wanted.online.is_none_or(|online| online == *up)).collect();
        found.sort_by_key(|(_, visor)| visor.key);
        found
    }

    /// One of them.
    pub(super) fn visor(&self, key: &PublicKey, now: UnixNanos) -> Option<Arc<Visor>> {
        self.0.read().get(&key.to_string(), now)
    }

    /// Forgets who has been silent for two months.
    pub fn expire(&self, now: UnixNanos) {
        self.0.expire(now);
    }

    /// Name, records, and how many there may be.
    #[must_use]
    pub fn table(&self) -> (&'static str, usize, usize) {
        ("visors", self.0.count(), self.0.max())
    }
}

impl Visor {
    pub(super) fn is_online(&self, now: UnixNanos) -> bool {
        let last = UnixNanos(0).plus(Duration::from_secs(self.last));
        now.since(last) < ONLINE_FOR
    }

    /// The long form, with the days from `first` to `last`.
    pub(super) fn long(&self, on: bool, (first, last): (u64, u64), now: UnixNanos) -> Uptime {
        Uptime {
            key: self.key.0,
            on,
            version: self.version.clone(),
            daily: daily(self, first, last, seconds(now)),
            timeline: BTreeMap::new(),
        }
    }
}

/// Unix seconds.
pub(super) fn seconds(now: UnixNanos) -> u64 {
    u64::try_from(now.0 / 1_000_000_000).unwrap_or(0)
}

fn put(visor: Visor, now: UnixNanos) -> Edit<Visor> {
    Edit::Put { key: visor.key.0.to_string(), value: visor, deadline: now.plus(FORGET_AFTER) }
}

/// The visor after a heartbeat at `seconds`.
fn beat(known: Option<&Visor>, key: PublicKey, version: &str, seconds: u64) -> Visor {
    let mut visor = known.cloned().unwrap_or_else(|| Visor {
        key: KeyText(key),
        version: String::new(),
        last: 0,
        address: None,
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
    if !version.is_empty() {
        visor.version = version.chars().filter(|c| !c.is_control()).take(64).collect();
    }
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
pub(super) fn months(from: u64, to: u64) -> (u64, u64) {
    let day_of_month = |day: u64| date(day)[8..].parse::<u64>().unwrap_or(1);
    let first = (from / DAY).saturating_sub(day_of_month(from / DAY) - 1);
    let mut last = to / DAY;
    while day_of_month(last + 1) != 1 {
        last += 1;
    }
    (first, last)
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
        let mut visor = beat(None, key(), "", OCTOBER);
        for time in times {
            visor = beat(Some(&visor), key(), "v1", time);
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
