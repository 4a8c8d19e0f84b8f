//! Any bytes as yamux frames (`wire.md §3.3`), in either role.

use dmsg_engine::mux::MuxKind;

/// One input: `role and behaviour, cut, bytes`.
pub fn run(data: &[u8]) {
    crate::mux_bytes::run(MuxKind::Yamux, data);
}
