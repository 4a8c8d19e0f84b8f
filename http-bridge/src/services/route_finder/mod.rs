//! Routes over the transports (`services.md §7`).

mod client;
mod graph;
mod service;

use std::{collections::HashMap, str::FromStr};

use dmsg_engine::identity::PublicKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::{keys, transport_discovery::TransportId};

pub use client::RouteFinderClient;
pub use graph::{Graph, ROUTES_DEFAULT, ROUTES_MAX};
pub use service::{EDGES_MAX, REFRESH_INTERVAL, RouteFinder};

/// From whom to whom; one string, `<from>:<to>`, in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Edge {
    /// The first visor.
    pub from: PublicKey,
    /// The last visor.
    pub to: PublicKey,
}

impl Edge {
    /// The way back.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { from: self.to, to: self.from }
    }
}

impl std::fmt::Display for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.from, self.to)
    }
}

impl FromStr for Edge {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once(':').ok_or("an edge is <from>:<to>")?;
        let key = |text: &str| text.parse().map_err(|error| format!("{error}"));
        Ok(Self { from: key(from)?, to: key(to)? })
    }
}

impl Serialize for Edge {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Edge {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Bounds of the routes asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteOptions {
    /// Hops at least.
    #[serde(rename = "MinHops", alias = "minHops", alias = "min_hops")]
    pub min_hops: u16,
    /// Hops at most.
    #[serde(rename = "MaxHops", alias = "maxHops", alias = "max_hops")]
    pub max_hops: u16,
    /// Routes per edge at most; since 2026, before it was always five.
    #[serde(rename = "NumRoutes", alias = "numRoutes", skip_serializing_if = "Option::is_none")]
    pub routes_max: Option<u16>,
}

impl Default for RouteOptions {
    fn default() -> Self {
        Self { min_hops: 1, max_hops: 50, routes_max: None }
    }
}

/// One transport of a route, in its direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// Which transport.
    #[serde(rename = "TpID", alias = "tpID", alias = "tp_id")]
    pub transport: TransportId,
    /// From this visor …
    #[serde(rename = "From", alias = "from", with = "keys::one")]
    pub from: PublicKey,
    /// … to this one.
    #[serde(rename = "To", alias = "to", with = "keys::one")]
    pub to: PublicKey,
}

/// Hops in order.
pub type Route = Vec<Hop>;

/// Routes by edge, shortest first.
pub type Routes = HashMap<Edge, Vec<Route>>;

/// Whether a route leads along `edge` within the bounds.
#[must_use]
pub fn is_sound(route: &[Hop], edge: Edge, options: RouteOptions) -> bool {
    let ends = route.first().map(|hop| hop.from).zip(route.last().map(|hop| hop.to));
    let (min, max) = (usize::from(options.min_hops), usize::from(options.max_hops));
    ends == Some((edge.from, edge.to))
        && route.windows(2).all(|pair| pair[0].to == pair[1].from)
        && (min..=max).contains(&route.len())
}
