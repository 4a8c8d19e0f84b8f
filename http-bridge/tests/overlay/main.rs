//! An overlay with real relays and services on loopback sockets; one scenario per file.
#![allow(unreachable_pub, clippy::unwrap_used)]

mod a_cache_of_another_deployment;
mod a_discovery_over_dmsg_alone;
mod a_visor_comes_up;
mod one_key_one_client;
#[path = "../common/program.rs"]
mod program;
mod servers_appear_late;
mod servers_vanish_in_the_middle_of_a_request;
mod world;
