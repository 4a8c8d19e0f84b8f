//! Fuzz targets: each module has one `run(&[u8])` that must neither panic nor break its own checks.
//!
//! The same functions serve three times: as libFuzzer programs (`cargo fuzz run -s none --features libfuzzer <name>`), as a
//! replay of `corpus/<name>` under plain `cargo test`, and with inputs of random bytes there.
//!
//! Byte targets feed parsers. `mux_ops` and `relay` play operations against a state machine and compare
//! with an oracle; most byte targets also compare the result of one cut of the input with that of another.

pub mod deployment_document;
pub mod discovery_entry;
pub mod dmsg_url;
pub mod gob;
pub mod handshake;
pub mod mux_ops;
pub mod noise_frames;
pub mod relay;
pub mod signed_objects;
pub mod smux;
pub mod yamux;

mod input;
mod mux_bytes;

/// A target: one input in, no panic out.
pub type Target = fn(&[u8]);

/// Every target by its name, for the replay.
pub const TARGETS: &[(&str, Target)] = &[
    ("deployment_document", deployment_document::run),
    ("discovery_entry", discovery_entry::run),
    ("dmsg_url", dmsg_url::run),
    ("gob", gob::run),
    ("handshake", handshake::run),
    ("mux_ops", mux_ops::run),
    ("noise_frames", noise_frames::run),
    ("relay", relay::run),
    ("signed_objects", signed_objects::run),
    ("smux", smux::run),
    ("yamux", yamux::run),
];
