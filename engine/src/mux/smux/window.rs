//! smux version 2 windows: running totals, told modulo 2³² (`wire.md §3.4`).
//!
//! ```text
//!   0 ───────── consumed ───────── written ───────── limit = consumed + window
//!     taken by        │ in flight      │ what may be sent   │
//!     the reader      │                │                    │
//! ```
//!
//! Totals are kept in 64 bits and cut only for the wire. For each direction, at every moment: what
//! may still be sent + what is under way + what the receiver holds and has not granted = the
//! initial window + all credit beyond it, once the limit has passed the initial window; a peer may
//! begin with a limit below it (Go peers do: 65536 behind what they consumed), which takes credit
//! back for a while.

use super::header::Update;
use crate::mux::{CREDIT_MAX_BYTES, INITIAL_WINDOW_BYTES};

/// Grants below this are kept back until they add up to it, unless they are wanted at once.
const GRANT_MIN_BYTES: u64 = INITIAL_WINDOW_BYTES as u64 / 2;

/// What we may send.
#[derive(Debug)]
pub(super) struct SendWindow {
    written: u64,
    /// The total up to which the peer lets us write now.
    limit: u64,
    /// The highest limit so far; `written` never passes it.
    limit_max: u64,
}

/// An update that tells more consumed than was written (or absurdly less): it is of another
/// stream's life, and nothing can be concluded from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inconsistent;

impl SendWindow {
    pub(super) fn new() -> Self {
        let limit = u64::from(INITIAL_WINDOW_BYTES);
        Self { written: 0, limit, limit_max: limit }
    }

    pub(super) fn credit(&self) -> u32 {
        let credit = self.limit.saturating_sub(self.written);
        u32::try_from(credit).expect("a limit is at most CREDIT_MAX_BYTES ahead")
    }

    /// Takes `bytes` of the credit, all of it if there are fewer; returns what was taken.
    pub(super) fn take(&mut self, bytes: usize) -> u32 {
        let credit = self.credit();
        let taken = u32::try_from(bytes).map_or(credit, |bytes| bytes.min(credit));
        self.written += u64::from(taken);
        taken
    }

    /// Takes in what the peer tells. Returns the credit beyond every earlier limit if the credit
    /// has grown at all (then it may be 0), and `None` if it has not.
    pub(super) fn update(&mut self, update: Update) -> Result<Option<u32>, Inconsistent> {
        #[expect(clippy::cast_possible_truncation, reason = "the wire counts modulo 2^32")]
        let in_flight = u64::from((self.written as u32).wrapping_sub(update.consumed));
        if in_flight > self.written.min(u64::from(CREDIT_MAX_BYTES)) {
            return Err(Inconsistent);
        }
        let before = self.credit();
        let window = u64::from(update.window.min(CREDIT_MAX_BYTES));
        self.limit = self.written - in_flight + window;
        let beyond = self.limit.saturating_sub(self.limit_max);
        self.limit_max += beyond;
        let beyond = u32::try_from(beyond).expect("at most the window");
        Ok((self.credit() > before).then_some(beyond))
    }
}

/// What the peer may send.
#[derive(Debug)]
pub(super) struct RecvWindow {
    received: u64,
    granted: u64,
    /// What was granted when the peer was last told.
    told: u64,
}

impl RecvWindow {
    pub(super) fn new() -> Self {
        Self { received: 0, granted: 0, told: 0 }
    }

    /// The total up to which the peer may send.
    fn limit(&self) -> u64 {
        self.told + u64::from(INITIAL_WINDOW_BYTES)
    }

    /// What the peer may still send.
    pub(super) fn left(&self) -> u32 {
        u32::try_from(self.limit() - self.received).unwrap_or(u32::MAX)
    }

    /// Accounts data; false, and no change, when it goes beyond the window.
    #[must_use]
    pub(super) fn receive(&mut self, length: u32) -> bool {
        let received = self.received + u64::from(length);
        let fits = received <= self.limit();
        if fits {
            self.received = received;
        }
        fits
    }

    /// Grants `bytes`; returns the update to send now, if one is due.
    ///
    /// The window told is [`INITIAL_WINDOW_BYTES`]. Only when more was granted than came (a relay
    /// passing on a larger window) it is larger by the difference, as no peer may hear of more
    /// consumed than it wrote; it stays within [`CREDIT_MAX_BYTES`].
    pub(super) fn grant(&mut self, bytes: u32, eager: bool) -> Option<Update> {
        let ahead_max = u64::from(CREDIT_MAX_BYTES - INITIAL_WINDOW_BYTES);
        self.granted = (self.granted + u64::from(bytes)).min(self.received + ahead_max);
        let untold = self.granted - self.told;
        if untold == 0 || !(eager || untold >= GRANT_MIN_BYTES) {
            return None;
        }
        self.told = self.granted;
        let consumed = self.granted.min(self.received);
        let window = self.granted - consumed + u64::from(INITIAL_WINDOW_BYTES);
        #[expect(clippy::cast_possible_truncation, reason = "the wire counts modulo 2^32")]
        let consumed = consumed as u32;
        Some(Update { consumed, window: u32::try_from(window).expect("at most CREDIT_MAX_BYTES") })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const INITIAL: u32 = INITIAL_WINDOW_BYTES;

    fn update(consumed: u32, window: u32) -> Update {
        Update { consumed, window }
    }

    #[test]
    fn a_first_update_may_shrink_the_window_and_take_credit_back() {
        let mut window = SendWindow::new();
        assert_eq!(window.take(100_000), 100_000);
        assert_eq!(window.update(update(10_000, 65_536)), Ok(None));
        assert_eq!(window.credit(), 0, "100000 written, 75536 allowed");
        assert_eq!(window.update(update(50_000, 65_536)), Ok(Some(0)), "grown, but not beyond");
        assert_eq!(window.credit(), 15_536);
        assert_eq!(window.take(usize::MAX), 15_536);
        assert_eq!(window.update(update(115_536, 200_000)), Ok(Some(115_536 + 200_000 - INITIAL)));
        assert_eq!(window.credit(), 200_000);
    }

    #[test]
    fn totals_go_on_past_two_to_the_32nd() {
        let mut window = SendWindow::new();
        let (mut total, mut credit) = (0u64, u64::from(INITIAL));
        while total < (1 << 32) + 1_000_000 {
            let taken = u64::from(window.take(INITIAL as usize));
            assert_eq!(taken, u64::from(INITIAL));
            total += taken;
            let beyond = window.update(update(total as u32, INITIAL)).unwrap().unwrap();
            credit += u64::from(beyond);
            assert_eq!(credit, total + u64::from(INITIAL));
        }
        assert_eq!(window.update(update(total as u32 + 1, INITIAL)), Err(Inconsistent));
    }

    #[test]
    fn more_consumed_than_written_is_inconsistent() {
        let mut window = SendWindow::new();
        assert_eq!(window.update(update(1, INITIAL)), Err(Inconsistent));
        assert_eq!(window.take(10), 10);
        for consumed in [11, 1 << 31, u32::MAX] {
            assert_eq!(window.update(update(consumed, INITIAL)), Err(Inconsistent), "{consumed}");
        }
        assert_eq!(window.update(update(10, INITIAL)), Ok(Some(10)));
    }

    #[test]
    fn extreme_windows_are_cut_to_the_maximum() {
        let mut window = SendWindow::new();
        let beyond = CREDIT_MAX_BYTES - INITIAL;
        assert_eq!(window.update(update(0, u32::MAX)), Ok(Some(beyond)));
        assert_eq!(window.credit(), CREDIT_MAX_BYTES);
        assert_eq!(window.update(update(0, 0)), Ok(None));
        assert_eq!((window.credit(), window.take(1)), (0, 0));
    }

    #[test]
    fn data_beyond_the_window_is_refused_and_not_accounted() {
        let mut window = RecvWindow::new();
        for _ in 0..8 {
            assert!(window.receive(32_768));
        }
        assert!(!window.receive(1) && window.receive(0));
        assert_eq!(window.grant(1, true), Some(update(1, INITIAL)));
        assert!(window.receive(1) && !window.receive(1));
    }

    #[test]
    fn grants_are_gathered_to_half_a_window_unless_eager() {
        let mut window = RecvWindow::new();
        for _ in 0..8 {
            assert!(window.receive(32_768));
        }
        assert_eq!(window.grant(131_071, false), None);
        assert!(!window.receive(1), "not lifted before it is told");
        assert_eq!(window.grant(1, false), Some(update(131_072, INITIAL)));
        assert_eq!(window.grant(5, true), Some(update(131_077, INITIAL)));
        assert_eq!(window.grant(0, true), None);
    }

    #[test]
    fn a_grant_ahead_of_the_data_widens_the_window_and_never_the_consumed() {
        let mut window = RecvWindow::new();
        assert!(window.receive(100));
        assert_eq!(window.grant(1000, true), Some(update(100, INITIAL + 900)));
        assert_eq!(window.grant(u32::MAX, true), Some(update(100, CREDIT_MAX_BYTES)));
        assert_eq!(window.grant(u32::MAX, true), None);
    }
}
