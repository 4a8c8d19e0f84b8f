//! Which counters of a session were seen (`wire.md §2.2`, G26's rules).
//!
//! ```text
//!   too old │  remembered: one bit each, 1024  │ newer: always fresh
//!  ─────────┴──────────────────────────────────┴───────────────────▶ counter
//!            newest-1023                 newest
//! ```

use super::NoiseError;

/// Counters, down from the newest, of which is known whether they were seen: 1023 newer objects may
/// overtake an older one.
const WINDOW_COUNT: u64 = 1024;

const WORD_BITS: u64 = u64::BITS as u64;

/// Checks first, marks later: between the two lies the AEAD, so a forgery leaves no trace.
#[derive(Debug, Default)]
pub(super) struct ReplayWindow {
    /// Zero until the first mark; no counter in use is.
    newest: u64,
    /// Bit `counter % WINDOW_COUNT`, set if seen; stale bits are cleared when `newest` moves over
    /// them.
    seen: [u64; (WINDOW_COUNT / WORD_BITS) as usize],
}

impl ReplayWindow {
    /// Whether `counter` may be new.
    pub(super) fn check(&self, counter: u64) -> Result<(), NoiseError> {
        if counter == 0 {
            return Err(NoiseError::CounterZero);
        }
        let Some(age) = self.newest.checked_sub(counter) else {
            return Ok(());
        };
        let (word, bit) = place(counter);
        if age >= WINDOW_COUNT {
            Err(NoiseError::CounterTooOld { counter, newest: self.newest })
        } else if self.seen[word] & bit != 0 {
            Err(NoiseError::CounterSeen(counter))
        } else {
            Ok(())
        }
    }

    /// Remembers a counter that [`check`](Self::check) let pass and whose object was genuine.
    pub(super) fn mark(&mut self, counter: u64) {
        if let Some(jump) = counter.checked_sub(self.newest) {
            if jump >= WINDOW_COUNT {
                self.seen = Default::default();
            } else {
                for skipped in self.newest + 1..counter {
                    let (word, bit) = place(skipped);
                    self.seen[word] &= !bit;
                }
            }
            self.newest = counter;
        }
        let (word, bit) = place(counter);
        self.seen[word] |= bit;
    }
}

fn place(counter: u64) -> (usize, u64) {
    let index = counter % WINDOW_COUNT;
    ((index / WORD_BITS) as usize, 1 << (index % WORD_BITS))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn take(window: &mut ReplayWindow, counter: u64) -> Result<(), NoiseError> {
        window.check(counter)?;
        window.mark(counter);
        Ok(())
    }

    #[test]
    fn each_rule_has_its_error() {
        let mut window = ReplayWindow::default();
        assert_eq!(take(&mut window, 0), Err(NoiseError::CounterZero));
        assert_eq!(take(&mut window, 5000), Ok(()));
        assert_eq!(take(&mut window, 5000), Err(NoiseError::CounterSeen(5000)));
        assert_eq!(take(&mut window, 5000 - 1023), Ok(()));
        assert_eq!(
            take(&mut window, 5000 - 1024),
            Err(NoiseError::CounterTooOld { counter: 3976, newest: 5000 })
        );
    }

    #[test]
    fn the_greatest_counter_fits() {
        let mut window = ReplayWindow::default();
        assert_eq!(take(&mut window, u64::MAX), Ok(()));
        assert_eq!(take(&mut window, u64::MAX), Err(NoiseError::CounterSeen(u64::MAX)));
        assert_eq!(take(&mut window, u64::MAX - 1023), Ok(()));
    }

    #[test]
    fn a_check_without_a_mark_changes_nothing() {
        let mut window = ReplayWindow::default();
        take(&mut window, 7).unwrap();
        window.check(1 << 40).unwrap();
        assert_eq!(take(&mut window, 6), Ok(()));
    }

    /// Counters that stay near each other, step over the window's edge, or jump far.
    fn steps() -> impl Strategy<Value = Vec<i64>> {
        let step = prop_oneof![-3i64..4, -1100i64..1100, -2i64..3000];
        proptest::collection::vec(step, 1..400)
    }

    proptest! {
        /// The model remembers everything and looks the rules up.
        #[test]
        fn the_window_agrees_with_a_set(steps in steps()) {
            let mut window = ReplayWindow::default();
            let mut model = BTreeSet::new();
            let mut counter = 1000u64;
            for step in steps {
                counter = counter.saturating_add_signed(step);
                let newest = model.last().copied().unwrap_or(0);
                let expected = if counter == 0 {
                    Err(NoiseError::CounterZero)
                } else if newest >= counter + WINDOW_COUNT {
                    Err(NoiseError::CounterTooOld { counter, newest })
                } else if !model.insert(counter) {
                    Err(NoiseError::CounterSeen(counter))
                } else {
                    Ok(())
                };
                prop_assert_eq!(take(&mut window, counter), expected);
            }
        }
    }
}
