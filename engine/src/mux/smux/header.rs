//! The smux header (`wire.md §3.4`): 8 bytes, little-endian; and the payload of an update, 8 bytes
//! too.
//!
//! ```text
//!   0         1         2        4           8
//!   │ version │ command │ length │ stream id │   payload behind data frames and updates only
//!   │ consumed                   │ window    │   an update's payload
//! ```

use crate::mux::MuxError;

/// Bytes of a header, and of an update's payload.
pub(super) const HEADER_BYTES: usize = 8;

/// The length field of an update.
pub(super) const UPDATE_BYTES: u16 = HEADER_BYTES as u16;

/// The version that both sides were configured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::mux) enum Version {
    /// Streams without windows.
    V1 = 1,
    /// Streams with windows.
    V2 = 2,
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Command {
    /// Opens a stream.
    Syn = 0,
    /// Ends the sender's direction.
    Fin = 1,
    /// Carries payload.
    Push = 2,
    /// Keeps the session alive.
    Nop = 3,
    /// Tells what was consumed; version 2 only.
    Update = 4,
}

/// A header that obeys the rules of its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) command: Command,
    pub(super) length: u16,
    pub(super) id: u32,
}

impl Header {
    pub(super) fn decode(version: Version, bytes: [u8; HEADER_BYTES]) -> Result<Self, MuxError> {
        let [found, command, l0, l1, i0, i1, i2, i3] = bytes;
        if found != version as u8 {
            return Err(MuxError::Version(found));
        }
        let (kind, length) = (command, u16::from_le_bytes([l0, l1]));
        let command = match kind {
            0 => Command::Syn,
            1 => Command::Fin,
            2 => Command::Push,
            3 => Command::Nop,
            4 if version == Version::V2 => Command::Update,
            other => return Err(MuxError::Type(other)),
        };
        let length_allowed = match command {
            Command::Syn | Command::Fin | Command::Nop => length == 0,
            Command::Push => true,
            Command::Update => length == UPDATE_BYTES,
        };
        if !length_allowed {
            return Err(MuxError::Length { command: kind, length });
        }
        Ok(Self { command, length, id: u32::from_le_bytes([i0, i1, i2, i3]) })
    }

    pub(super) fn encode(self, version: Version) -> [u8; HEADER_BYTES] {
        let [l0, l1] = self.length.to_le_bytes();
        let [i0, i1, i2, i3] = self.id.to_le_bytes();
        [version as u8, self.command as u8, l0, l1, i0, i1, i2, i3]
    }
}

/// An update's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Update {
    /// Bytes of the stream that were consumed since its start, modulo 2³².
    pub(super) consumed: u32,
    /// Bytes beyond those that may be sent.
    pub(super) window: u32,
}

impl Update {
    pub(super) fn decode(bytes: [u8; HEADER_BYTES]) -> Self {
        let [c0, c1, c2, c3, w0, w1, w2, w3] = bytes;
        Self {
            consumed: u32::from_le_bytes([c0, c1, c2, c3]),
            window: u32::from_le_bytes([w0, w1, w2, w3]),
        }
    }

    pub(super) fn encode(self) -> [u8; HEADER_BYTES] {
        let [c0, c1, c2, c3] = self.consumed.to_le_bytes();
        let [w0, w1, w2, w3] = self.window.to_le_bytes();
        [c0, c1, c2, c3, w0, w1, w2, w3]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_worked_example_decodes_and_encodes() {
        let bytes = [2, 4, 8, 0, 3, 0, 0, 0];
        let header = Header { command: Command::Update, length: 8, id: 3 };
        assert_eq!(Header::decode(Version::V2, bytes), Ok(header));
        assert_eq!(header.encode(Version::V2), bytes);
        let bytes = [0x11, 0, 0, 0, 0, 0, 1, 0];
        let update = Update { consumed: 17, window: 65536 };
        assert_eq!((Update::decode(bytes), update.encode()), (update, bytes));
    }

    #[test]
    fn every_command_and_length_meets_its_rule() {
        for version in [Version::V1, Version::V2] {
            for command in 0..=255 {
                for length in [0u16, 1, 7, 8, 9, u16::MAX] {
                    let [l0, l1] = length.to_le_bytes();
                    let bytes = [version as u8, command, l0, l1, 3, 0, 0, 0];
                    let rule = Header::decode(version, bytes).err();
                    let wrong_length = Some(MuxError::Length { command, length });
                    let expected = match (version, command, length) {
                        (_, 0 | 1 | 3, 0) | (_, 2, _) | (Version::V2, 4, 8) => None,
                        (_, 0 | 1 | 3, _) | (Version::V2, 4, _) => wrong_length,
                        _ => Some(MuxError::Type(command)),
                    };
                    assert_eq!(rule, expected, "{bytes:?}");
                }
            }
        }
    }

    #[test]
    fn the_other_version_is_refused() {
        for (ours, found) in [(Version::V1, 2), (Version::V2, 1), (Version::V2, 0)] {
            let error = Header::decode(ours, [found, 0, 0, 0, 3, 0, 0, 0]).unwrap_err();
            assert_eq!(error, MuxError::Version(found));
        }
    }
}
