//! As much of yamux as a load generator needs: it costs a few nanoseconds per frame and leaves all policy to its caller, so
//! that the measured server and not the load is the bottleneck. The engine's own mux serves everywhere else.

/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = 12;

/// Credit of a new stream.
pub(crate) const INITIAL_WINDOW_BYTES: u64 = 256 * 1024;

/// Frame types.
pub(crate) const DATA: u8 = 0;
/// Credit.
pub(crate) const WINDOW_UPDATE: u8 = 1;
/// Asks for, or is, a sign of life.
pub(crate) const PING: u8 = 2;

/// Flags.
pub(crate) const SYN: u16 = 1;
/// Acknowledges.
pub(crate) const ACK: u16 = 2;
/// Ends one direction.
pub(crate) const FIN: u16 = 4;
/// Ends the stream.
pub(crate) const RST: u16 = 8;

/// A frame header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    pub(crate) flags: u16,
    pub(crate) id: u32,
    pub(crate) length: u32,
}

impl Header {
    pub(crate) fn data(id: u32, length: usize) -> Self {
        let length = u32::try_from(length).expect("frames of the load are small");
        Self { kind: DATA, flags: 0, id, length }
    }

    pub(crate) fn update(id: u32, flags: u16, length: u32) -> Self {
        Self { kind: WINDOW_UPDATE, flags, id, length }
    }

    pub(crate) fn ping(value: u32) -> Self {
        Self { kind: PING, flags: SYN, id: 0, length: value }
    }

    pub(crate) fn pong(value: u32) -> Self {
        Self { kind: PING, flags: ACK, id: 0, length: value }
    }

    pub(crate) fn encode(self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[1] = self.kind;
        out[2..4].copy_from_slice(&self.flags.to_be_bytes());
        out[4..8].copy_from_slice(&self.id.to_be_bytes());
        out[8..].copy_from_slice(&self.length.to_be_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [_, kind, f0, f1, i0, i1, i2, i3, l0, l1, l2, l3] = *bytes;
        Self {
            kind,
            flags: u16::from_be_bytes([f0, f1]),
            id: u32::from_be_bytes([i0, i1, i2, i3]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        }
    }

    /// Bytes that follow it.
    pub(crate) fn body_bytes(self) -> usize {
        if self.kind == DATA { self.length as usize } else { 0 }
    }
}
