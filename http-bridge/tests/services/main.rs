//! The five small services and their clients, one condition per file.

mod address_resolver;
mod bad_input;
mod calls_of_2026;
mod deployment_without_http;
mod dmsg_identity;
mod killed_processes;
#[path = "../common/program.rs"]
mod program;
mod quirks;
mod restart;
mod route_finder;
mod service_discovery;
mod sudph;
mod support;
mod transport_discovery;
mod uptime_tracker;
