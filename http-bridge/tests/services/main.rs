//! The five small services and their clients, one condition per file.

mod address_resolver;
mod bad_input;
mod dmsg_identity;
mod quirks;
mod restart;
mod route_finder;
mod service_discovery;
mod support;
mod transport_discovery;
mod uptime_tracker;
