//! What a relay does to each frame: find its header, give it another stream id.

use crate::relay::load::yamux::HEADER_BYTES;

/// The place of a stream in frames, cut anywhere.
#[derive(Debug, Default)]
pub(super) struct Rewriter {
    /// Bytes of the current frame's body that are still to come.
    body_left: usize,
}

impl Rewriter {
    /// Rewrites the headers in `bytes`; returns how many bytes may go on. The rest is a part of a header: keep it, and put what
    /// comes next behind it.
    pub(super) fn rewrite(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        loop {
            let skip = self.body_left.min(bytes.len() - at);
            self.body_left -= skip;
            at += skip;
            let Some(header) = bytes.get_mut(at..at + HEADER_BYTES) else { return at };
            let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            header[4..8].copy_from_slice(&id.wrapping_add(1).to_be_bytes());
            let length = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
            self.body_left = if header[1] == 0 { length as usize } else { 0 };
            at += HEADER_BYTES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::load::yamux::Header;

    #[test]
    fn every_cut_gives_the_same_frames() {
        let mut whole = Vec::new();
        for id in [1, 3, 5] {
            whole.extend_from_slice(&Header::data(id, 5).encode());
            whole.extend_from_slice(b"hello");
        }
        let mut expected = whole.clone();
        assert_eq!(Rewriter::default().rewrite(&mut expected), whole.len());
        assert_ne!(expected, whole);
        for cut in 1..whole.len() {
            let (mut rewriter, mut held, mut out) = (Rewriter::default(), Vec::new(), Vec::new());
            for part in [&whole[..cut], &whole[cut..]] {
                held.extend_from_slice(part);
                let done = rewriter.rewrite(&mut held);
                out.extend(held.drain(..done));
            }
            assert_eq!(out, expected, "cut at {cut}");
        }
    }
}
