//! Which visors are up, and for how long (`services.md §8`).

mod client;
mod ledger;
mod service;
mod summaries;

use std::collections::BTreeMap;

use dmsg_engine::identity::PublicKey;
use serde::{Deserialize, Serialize};

use super::keys;

pub(super) use client::heartbeat;
pub use client::{UptimeQuery, UptimeTrackerClient};
pub use ledger::{DAYS_MAX, Ledger, VISORS_MAX};
pub use service::UptimeTracker;
pub use summaries::{SUMMARY_KEYS_MAX, SummaryQuery, summaries};

/// How often a visor tells that it is up; each time counts for as long.
pub const HEARTBEAT_INTERVAL: std::time::Duration = std::time::Duration::from_secs(300);

/// A visor in the short form (`v1`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Online {
    /// Which visor.
    #[serde(with = "keys::one")]
    pub key: PublicKey,
    /// Whether it is up.
    pub online: bool,
}

/// A visor in the long form (`v2`), which the services that took an Uptime Tracker's place in 2026 call a summary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uptime {
    /// Which visor.
    #[serde(rename = "pk", with = "keys::one")]
    pub key: PublicKey,
    /// Whether it is up.
    #[serde(default)]
    pub on: bool,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// Percent of each day, two decimals, by date (`2024-10-01`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub daily: BTreeMap<String, String>,
    /// What was of each day, by date; of services of 2026 that are asked for `v3`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub timeline: BTreeMap<String, String>,
}

/// Where a visor is on the map.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Place {
    /// Degrees north.
    pub lat: f64,
    /// Degrees east.
    pub lon: f64,
}
