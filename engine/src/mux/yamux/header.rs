//! The yamux header (`wire.md §3.3`): 12 bytes, big-endian.
//!
//! ```text
//!   0         1      2       4           8          12
//!   │ version │ type │ flags │ stream id │ length    │   payload behind data frames only
//! ```

use crate::mux::MuxError;

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 12;

const VERSION: u8 = 0;

/// The flags of a frame; bits without a meaning are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flags(pub(super) u16);

impl Flags {
    pub(super) const NONE: Self = Self(0);
    /// Opens a stream; asks, on a ping.
    pub(super) const SYN: Self = Self(1);
    /// Acknowledges a stream; answers, on a ping.
    pub(super) const ACK: Self = Self(2);
    /// Ends the sender's direction.
    pub(super) const FIN: Self = Self(4);
    /// Ends the stream.
    pub(super) const RST: Self = Self(8);

    pub(super) fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    /// Whether none of the four is set.
    pub(super) fn is_empty(self) -> bool {
        self.0 & 0b1111 == 0
    }
}

/// What a frame is, and what its length field means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Type {
    /// That many bytes of payload follow.
    Data = 0,
    /// Credit is given: a delta.
    WindowUpdate = 1,
    /// A value to be sent back.
    Ping = 2,
    /// The code.
    GoAway = 3,
}

/// A header whose version and type are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Type,
    pub(super) flags: Flags,
    pub(super) id: u32,
    pub(super) length: u32,
}

impl Header {
    pub(super) fn decode(bytes: [u8; HEADER_BYTES]) -> Result<Self, MuxError> {
        let [version, kind, f0, f1, i0, i1, i2, i3, l0, l1, l2, l3] = bytes;
        if version != VERSION {
            return Err(MuxError::Version(version));
        }
        let kind = match kind {
            0 => Type::Data,
            1 => Type::WindowUpdate,
            2 => Type::Ping,
            3 => Type::GoAway,
            other => return Err(MuxError::Type(other)),
        };
        Ok(Self {
            kind,
            flags: Flags(u16::from_be_bytes([f0, f1])),
            id: u32::from_be_bytes([i0, i1, i2, i3]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }

    pub(super) fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = VERSION;
        bytes[1] = self.kind as u8;
        bytes[2..4].copy_from_slice(&self.flags.0.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.id.to_be_bytes());
        bytes[8..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_worked_example_decodes_and_encodes() {
        let bytes = [0, 1, 0, 4, 0, 0, 0, 1, 0, 2, 0x49, 0xf0];
        let header = Header { kind: Type::WindowUpdate, flags: Flags::FIN, id: 1, length: 150_000 };
        assert_eq!(Header::decode(bytes), Ok(header));
        assert_eq!(header.encode(), bytes);
    }

    #[test]
    fn other_versions_and_types_are_named() {
        let with = |version, kind| {
            Header::decode([version, kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap_err()
        };
        assert!((1..=255).all(|version| with(version, 0) == MuxError::Version(version)));
        assert!((4..=255).all(|kind| with(0, kind) == MuxError::Type(kind)));
    }
}
