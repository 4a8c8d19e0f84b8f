//! The local proxy between ordinary programs and DMSG. Streams are TCP connections to an origin of the test, so that the
//! proxy is alone on the scale; `cli_*` runs it over a real network.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod hosts_outside_of_dmsg;
mod ordinary_programs;
mod refused_requests;
mod requests_as_they_are;
mod responses_that_break_off;
mod smuggled_requests;
mod switched_protocols;
mod tunnels;
mod web_socket_programs;
mod world;

#[path = "../common/smuggling.rs"]
mod smuggling;
