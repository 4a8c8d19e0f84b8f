//! HTTP/1.1 as the RFCs have it, end by end: the client against scripted peers, the server against scripted callers, and
//! `serve --to` between a raw caller and a raw origin that records what reached it. One condition per file.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/smuggling.rs"]
mod smuggling;

mod client_builder;
mod client_dead_service;
mod client_expects_continue;
mod client_limits;
mod client_meets_early_responses;
mod client_reads_ahead;
mod client_trailers;
mod client_upgrades;
mod serve_to;
mod serve_to_bodies;
mod serve_to_refuses;
mod serve_to_upgrades;
mod server_bodies;
mod server_upgrades;
