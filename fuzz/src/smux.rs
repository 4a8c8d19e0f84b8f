//! Any bytes as smux frames (`wire.md §3.4`), both versions, in either role.

use dmsg_engine::mux::MuxKind;

/// One input: `version, role and behaviour, cut, bytes`.
pub fn run(data: &[u8]) {
    let (version, rest) = data.split_first().map_or((0, data), |(first, rest)| (*first, rest));
    let kind = if version % 2 == 0 { MuxKind::SmuxV1 } else { MuxKind::SmuxV2 };
    crate::mux_bytes::run(kind, rest);
}
