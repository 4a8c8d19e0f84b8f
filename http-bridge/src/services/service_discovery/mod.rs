//! The directory of offered services: VPN, proxies, public visors (`services.md §5`).

mod client;
mod offer;

pub use client::{Query, ServiceDiscoveryClient};
pub use offer::{Geo, Offer, OfferAddr, OfferInfo};
