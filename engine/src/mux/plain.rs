//! Plain data frames, for a relay that passes them on by the block instead of event by event.
//!
//! A data frame without flags on an open stream means its payload and nothing else. Whoever finds some at the front of
//! what was received, within the stream's window and the credit of the stream that they go to, has them re-addressed with
//! [`MuxKind::write_plain`] and accounts them on both sides, [`Mux::take_plain`] and [`Mux::spend`]. What is not plain, or
//! beyond a window, goes the way of all frames, through [`Mux::next_event`], which names the rule that was broken.
//!
//! A frame that was cut by the end of a block is passed on as far as it has come; the rest, as it comes, as frames of its own.

use super::{Mux, MuxKind, Protocol, SMUX_FRAME_MAX_BYTES, StreamId, frame::Body, id_map::Hint};

/// What the header of a plain data frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlainFrame {
    /// The stream.
    pub(crate) id: StreamId,
    /// Bytes of payload, at least one.
    pub(crate) len: u32,
}

/// Room for a header of any kind.
pub(crate) const HEADER_MAX_BYTES: usize = 12;

/// Where in a header of any kind the stream's id stands.
pub(crate) const ID_AT: usize = 4;

impl MuxKind {
    /// An id as it stands at [`ID_AT`].
    #[inline]
    pub(crate) fn id_bytes(self, id: StreamId) -> [u8; 4] {
        match self {
            Self::Yamux => id.0.to_be_bytes(),
            Self::SmuxV1 | Self::SmuxV2 => id.0.to_le_bytes(),
        }
    }

    /// Bytes of a header.
    pub(crate) fn header_bytes(self) -> usize {
        match self {
            Self::Yamux => HEADER_MAX_BYTES,
            Self::SmuxV1 | Self::SmuxV2 => 8,
        }
    }

    /// The most payload of one plain frame that we send.
    pub(crate) fn plain_max_bytes(self) -> u32 {
        match self {
            Self::Yamux => u32::MAX,
            Self::SmuxV1 | Self::SmuxV2 => SMUX_FRAME_MAX_BYTES as u32,
        }
    }

    /// The plain data frame whose header `bytes` begin with.
    #[inline]
    pub(crate) fn peek_plain(self, bytes: &[u8]) -> Option<PlainFrame> {
        let (id, len) = match self {
            Self::Yamux => {
                let header = bytes.first_chunk::<12>()?;
                let [v, t, f0, f1, i0, i1, i2, i3, l0, l1, l2, l3] = *header;
                if [v, t, f0, f1] != [0; 4] {
                    return None;
                }
                (u32::from_be_bytes([i0, i1, i2, i3]), u32::from_be_bytes([l0, l1, l2, l3]))
            }
            Self::SmuxV1 | Self::SmuxV2 => {
                let [v, c, l0, l1, i0, i1, i2, i3] = *bytes.first_chunk::<8>()?;
                if [v, c] != [self.smux_version(), SMUX_PUSH] {
                    return None;
                }
                (u32::from_le_bytes([i0, i1, i2, i3]), u32::from(u16::from_le_bytes([l0, l1])))
            }
        };
        (len > 0).then_some(PlainFrame { id: StreamId(id), len })
    }

    /// Writes the header of `frame`, whose length is within [`MuxKind::plain_max_bytes`], over the first bytes of `out`.
    #[inline]
    pub(crate) fn write_plain(self, frame: PlainFrame, out: &mut [u8]) {
        let PlainFrame { id: StreamId(id), len } = frame;
        match self {
            Self::Yamux => {
                out[..4].fill(0);
                out[4..8].copy_from_slice(&id.to_be_bytes());
                out[8..12].copy_from_slice(&len.to_be_bytes());
            }
            Self::SmuxV1 | Self::SmuxV2 => {
                debug_assert!(len <= self.plain_max_bytes(), "cut by the caller");
                let [l0, l1, ..] = len.to_le_bytes();
                out[..4].copy_from_slice(&[self.smux_version(), SMUX_PUSH, l0, l1]);
                out[4..8].copy_from_slice(&id.to_le_bytes());
            }
        }
    }

    fn smux_version(self) -> u8 {
        if self == Self::SmuxV1 { 1 } else { 2 }
    }
}

/// smux's command of a data frame.
const SMUX_PUSH: u8 = 2;

impl Mux {
    /// Whether the next byte received is the first of a header, and nothing of an earlier frame is left to tell.
    pub(crate) fn is_between_frames(&self) -> bool {
        each!(self, mux => mux.is_between_frames())
    }

    /// The plain frame at hand whose payload is still to come: its stream, and how much.
    pub(crate) fn plain_rest(&self) -> Option<PlainFrame> {
        each!(self, mux => mux.plain_rest())
    }

    /// What the peer may still send on a stream (`u32::MAX` where the mux has no window); 0 for a stream that takes nothing.
    pub(crate) fn receive_window(&mut self, id: StreamId, hint: &mut Hint) -> u32 {
        each!(self, mux => mux.receive_window(id, hint))
    }

    /// As [`Mux::send_credit`].
    pub(crate) fn find_credit(&mut self, id: StreamId, hint: &mut Hint) -> u32 {
        each!(self, mux => mux.find_credit(id, hint))
    }

    /// Accounts `frames` plain frames of `bytes` in all, not more than [`Mux::receive_window`], that came on a stream.
    pub(crate) fn take_plain(&mut self, id: StreamId, frames: u32, bytes: u32, hint: &mut Hint) {
        each!(self, mux => {
            mux.take_plain(id, bytes, hint);
            mux.counters.frames += u64::from(frames);
            mux.counters.data_frames += u64::from(frames);
        });
    }

    /// Of the plain frame that was taken last, `missing` bytes are still to come.
    pub(crate) fn leave_plain_rest(&mut self, id: StreamId, missing: u32) {
        each!(self, mux => mux.body = Body::keeping(id, missing));
    }

    /// Spends credit for `bytes` that go out on a stream, not more than [`Mux::find_credit`].
    pub(crate) fn spend(&mut self, id: StreamId, bytes: u32, hint: &mut Hint) {
        each!(self, mux => mux.spend(id, bytes, hint));
    }
}
