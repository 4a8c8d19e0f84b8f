//! Network addresses of visors that others connect to directly (`services.md §6`): the HTTP API, and the UDP side of `sudph`.

mod client;
mod service;
pub mod sudph;

use serde::{Deserialize, Serialize};

pub use client::AddressResolverClient;
pub use service::{ADDRESSES_MAX, AddressResolver, BINDINGS_MAX};

/// How a visor is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Network {
    /// Plain TCP to a public address.
    Stcpr,
    /// UDP through NATs.
    Sudph,
}

impl Network {
    /// The name in paths.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stcpr => "stcpr",
            Self::Sudph => "sudph",
        }
    }
}

/// What a visor binds: its port, and the addresses of its interfaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// A number, as text.
    #[serde(default)]
    pub port: String,
    /// IP addresses without port.
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// Where a visor is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// `stcpr`: an IP address without port. `sudph`: `ip:port` as the resolver sees it.
    pub remote_addr: String,
    /// The port it listens on, as text.
    #[serde(default)]
    pub port: String,
    /// Addresses of its interfaces, to try when it shares our public address.
    #[serde(default, deserialize_with = "nullable")]
    pub addresses: Vec<String>,
    /// Whether the resolver sees both of us at one address; never true over HTTP, so decide it yourself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_local: bool,
}

/// The keys that can be resolved, by network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bound {
    /// By `sudph`.
    #[serde(deserialize_with = "nullable")]
    pub sudph: Vec<String>,
    /// By `stcpr`.
    #[serde(deserialize_with = "nullable")]
    pub stcpr: Vec<String>,
}

fn nullable<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Option::<Vec<String>>::deserialize(from).map(Option::unwrap_or_default)
}
