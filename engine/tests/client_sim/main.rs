//! The client's machine in simulated time, against a scripted server: one module per condition.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)]

mod cancel;
mod cycles;
mod dead_service;
mod dialling;
mod echo;
mod hedge;
mod inbound;
mod moving;
mod pressure;
mod reclaim;
mod reconnect;
mod reconnect_storm;
mod resume;
mod scripted;
mod session_death;
mod stale_waits;
mod through_relay;
mod world;
