//! The infrastructure services behind the network: clients of all seven, and small servers of five (`services.md`).
//!
//! ```text
//!   TransportDiscoveryClient, …  typed calls ─▶ Caller ─▶ HttpTransport, bound to ONE service
//!                                               │ signs (auth), waits out 429 and 503, reads errors
//!   host::router, … ◀─ axum ─▶ Guard (auth) ─▶ service ─▶ Records (memory │ redb)
//! ```
//!
//! A service's client takes a transport whose requests have URIs in origin form (`/path?query`): the access
//! policy's, which picks the path for each request, or [`Bound`], which puts one base address in front. The client of
//! the DMSG Discovery, and the service, are in [`crate::discovery`]; the Config Bootstrapper's service is in
//! `crate::deployment`.
//!
//! One folder per service: the data in `mod.rs`, both sides of its API next to it.

pub mod address_resolver;
pub mod auth;
mod bound;
mod call;
pub mod config_bootstrapper;
mod error;
mod geo;
pub mod host;
mod ip;
mod keys;
pub mod records;
pub mod route_finder;
pub mod service_discovery;
pub mod transport_discovery;
pub mod uptime_tracker;

pub use bound::{BadBase, Bound};
pub use call::{CallOptions, Caller, Health, Monitor};
pub use error::ServiceError;
pub use geo::{GeoTable, NETWORKS_MAX, TABLE_BYTES_MAX};
pub use ip::{IpError, agreed_ip, agreed_ip_of};
pub use keys::KeyText;
