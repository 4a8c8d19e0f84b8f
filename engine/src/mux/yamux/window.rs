//! yamux windows: credit given in deltas that only add (`wire.md §3.3`).
//!
//! For each direction, at every moment: what the sender may still send + what is under way + what
//! the receiver holds and has not granted = the initial window + all credit beyond it.

use crate::mux::{CREDIT_MAX_BYTES, INITIAL_WINDOW_BYTES};

/// Grants below this are kept back until they add up to it, unless they are wanted at once.
const GRANT_MIN_BYTES: u32 = INITIAL_WINDOW_BYTES / 2;

/// What we may send.
#[derive(Debug)]
pub(super) struct SendWindow {
    credit: u32,
}

impl SendWindow {
    pub(super) fn new() -> Self {
        Self { credit: INITIAL_WINDOW_BYTES }
    }

    pub(super) fn credit(&self) -> u32 {
        self.credit
    }

    /// Takes `bytes` of the credit, all of it if there are fewer; returns what was taken.
    pub(super) fn take(&mut self, bytes: usize) -> u32 {
        let taken = u32::try_from(bytes).map_or(self.credit, |bytes| bytes.min(self.credit));
        self.credit -= taken;
        taken
    }

    /// Adds the peer's `delta`; false, and no change, when that is more than a window may hold.
    #[must_use]
    pub(super) fn add(&mut self, delta: u32) -> bool {
        let sum = self.credit.checked_add(delta).filter(|&sum| sum <= CREDIT_MAX_BYTES);
        self.credit = sum.unwrap_or(self.credit);
        sum.is_some()
    }
}

/// What the peer may send.
#[derive(Debug)]
pub(super) struct RecvWindow {
    /// What the peer has been told it may send, less what came.
    left: u32,
    /// Granted, not yet told.
    kept_back: u32,
}

impl RecvWindow {
    pub(super) fn new() -> Self {
        Self { left: INITIAL_WINDOW_BYTES, kept_back: 0 }
    }

    pub(super) fn left(&self) -> u32 {
        self.left
    }

    /// Accounts a data frame; false, and no change, when it is longer than what is left.
    #[must_use]
    pub(super) fn receive(&mut self, length: u32) -> bool {
        let left = self.left.checked_sub(length);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }

    /// Grants `bytes`; returns the delta to send now, if one is due. Grants that would lift the
    /// window above [`CREDIT_MAX_BYTES`] are cut: no sum of a peer's making can wrap.
    pub(super) fn grant(&mut self, bytes: u32, eager: bool) -> Option<u32> {
        let room = CREDIT_MAX_BYTES.saturating_sub(self.left);
        self.kept_back = self.kept_back.saturating_add(bytes).min(room);
        if self.kept_back == 0 || !(eager || self.kept_back >= GRANT_MIN_BYTES) {
            return None;
        }
        self.left += self.kept_back;
        Some(std::mem::take(&mut self.kept_back))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_added_up_to_the_maximum_and_not_past_it() {
        for (delta, fits) in [
            (0, true),
            (1, true),
            (CREDIT_MAX_BYTES - INITIAL_WINDOW_BYTES, true),
            (CREDIT_MAX_BYTES - INITIAL_WINDOW_BYTES + 1, false),
            (1 << 31, false),
            (u32::MAX - INITIAL_WINDOW_BYTES, false),
            (u32::MAX, false),
        ] {
            let mut window = SendWindow::new();
            assert_eq!(window.add(delta), fits, "{delta}");
            let expected = INITIAL_WINDOW_BYTES + if fits { delta } else { 0 };
            assert_eq!(window.credit(), expected, "{delta}");
        }
    }

    #[test]
    fn taking_stops_at_the_credit() {
        let mut window = SendWindow::new();
        assert_eq!(window.take(262_000), 262_000);
        assert_eq!(window.take(usize::MAX), 144);
        assert_eq!(window.take(1), 0);
    }

    #[test]
    fn a_frame_longer_than_the_window_is_refused_and_not_accounted() {
        let mut window = RecvWindow::new();
        assert!(window.receive(INITIAL_WINDOW_BYTES - 1));
        assert!(!window.receive(2) && window.left() == 1);
        assert!(window.receive(1) && window.receive(0));
    }

    #[test]
    fn grants_are_gathered_to_half_a_window_unless_eager() {
        let mut window = RecvWindow::new();
        assert!(window.receive(200_000));
        assert_eq!(window.grant(50_000, false), None);
        assert_eq!(window.grant(50_000, false), None);
        assert_eq!(window.left(), INITIAL_WINDOW_BYTES - 200_000, "not lifted before it is told");
        assert_eq!(window.grant(50_000, false), Some(150_000));
        assert_eq!(window.grant(1, true), Some(1));
        assert_eq!(window.grant(0, true), None);
        assert_eq!(window.grant(0, false), None);
    }

    #[test]
    fn no_grant_lifts_a_window_past_the_maximum() {
        let mut window = RecvWindow::new();
        let room = CREDIT_MAX_BYTES - INITIAL_WINDOW_BYTES;
        assert_eq!(window.grant(u32::MAX, true), Some(room));
        assert_eq!(window.grant(u32::MAX, true), None);
        assert_eq!(window.left(), CREDIT_MAX_BYTES);
    }
}
