//! The registry of transports between visors (`services.md §4`).
//!
//! ```text
//!   id = SHA-256( 16 zero bytes ‖ edge 0 ‖ edge 1 ‖ type )[..16], version nibble 0, variant bits 10
//!   signed: id ‖ edge 0 ‖ edge 1 ‖ type, by both edges        edges ascending; the label is not covered
//! ```

mod client;
mod entry;
mod id;
mod service;

pub use client::TransportDiscoveryClient;
pub use entry::{EntryProblem, SignedTransport, Transport};
pub use id::{BadTransportId, TransportId};
pub use service::{
    BATCH_MAX, RegistryLimits, TRANSPORTS_MAX, TRANSPORTS_PER_EDGE_MAX, TransportDiscovery,
};
