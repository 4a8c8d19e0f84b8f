//! The directory of offered services: VPN, proxies, public visors (`services.md §5`).

mod client;
mod offer;
mod service;

pub use client::{Query, ServiceDiscoveryClient};
pub use offer::{Geo, Offer, OfferAddr, OfferInfo};
pub use service::{OFFER_BYTES_MAX, OFFERS_MAX, OFFERS_PER_KEY_MAX, ServiceDiscovery};
