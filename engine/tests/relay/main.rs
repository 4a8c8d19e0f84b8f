//! The relay in simulated time: one scenario per module, named after the condition.
//!
//! Each runs the real [`dmsg_engine::relay::Relay`] against scripted clients (`peer.rs`) over simulated
//! connections, with a seed that replays.
#![allow(clippy::unwrap_used, missing_docs)]

mod memory;
mod peer;

mod acks;
mod announced_lengths;
mod bad_requests;
mod bounds;
mod census;
mod core_ends;
mod cut_after_header;
mod floods;
mod half_close;
mod handshake_abuse;
mod hostile_windows;
mod idle_memory;
mod muxes_meet;
mod newest_session_wins;
mod relayed_dial;
mod sessions_die;
mod silent_peers;
mod slow_receiver;
mod small_questions;
mod two_cores;
