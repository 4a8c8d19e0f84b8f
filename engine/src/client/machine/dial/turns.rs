//! Whose turn it is to dial on a session.
//!
//! ```text
//!   admits? ──yes──▶ request out: unanswered + 1 ──answer, reset, end──▶ release
//!      └──no──▶ a queue per destination, destinations take turns ──next──▶ tried again
//! ```
//!
//! All dials through one server share the places for unanswered requests. A service that never answers would take all of
//! them, and everybody else behind that server would wait for its time-outs. So a destination may have an eighth as many
//! unanswered dials as there are places left: alone it gets 113, the next one 101, and so on; forty that take all they can
//! still leave places for whoever comes new.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::DialId;
use crate::wire::Addr;

/// Unanswered dials on one session; what exceeds it waits. Half of the streams that a server takes on one.
const UNANSWERED_MAX: usize = 1024;

/// The part of the free places that one destination may have.
const SHARE: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::client::machine) struct Turns {
    unanswered: BTreeMap<Addr, usize>,
    unanswered_count: usize,
    /// In each queue, the oldest dial comes first.
    waiting: BTreeMap<Addr, BTreeSet<DialId>>,
    /// The destinations in `waiting`, the next one first.
    order: VecDeque<Addr>,
}

impl Turns {
    /// Whether a dial to `to` may go out now.
    pub(in crate::client::machine) fn admits(&self, to: &Addr) -> bool {
        let own = self.unanswered.get(to).copied().unwrap_or(0);
        own < (UNANSWERED_MAX - self.unanswered_count) / SHARE
    }

    /// A request went out.
    pub(in crate::client::machine) fn take(&mut self, to: Addr) {
        *self.unanswered.entry(to).or_default() += 1;
        self.unanswered_count += 1;
    }

    /// A request was answered, or is given up.
    pub(in crate::client::machine) fn release(&mut self, to: &Addr) {
        let Some(own) = self.unanswered.get_mut(to) else { return };
        *own -= 1;
        self.unanswered_count -= 1;
        if *own == 0 {
            self.unanswered.remove(to);
        }
    }

    /// `id` waits for its turn.
    pub(in crate::client::machine) fn wait(&mut self, to: Addr, id: DialId) {
        let queue = self.waiting.entry(to).or_default();
        if queue.is_empty() {
            self.order.push_back(to);
        }
        queue.insert(id);
    }

    /// `id` waits no longer.
    pub(in crate::client::machine) fn leave(&mut self, to: &Addr, id: DialId) {
        if let Some(queue) = self.waiting.get_mut(to)
            && queue.remove(&id)
            && queue.is_empty()
        {
            self.waiting.remove(to);
            self.order.retain(|other| other != to);
        }
    }

    /// The next that may go out. It waits no longer.
    pub(in crate::client::machine) fn next(&mut self) -> Option<DialId> {
        for _ in 0..self.order.len() {
            let to = self.order.pop_front()?;
            if !self.admits(&to) {
                self.order.push_back(to);
                continue;
            }
            let queue = self.waiting.get_mut(&to)?;
            let id = queue.pop_first();
            if queue.is_empty() {
                self.waiting.remove(&to);
            } else {
                self.order.push_back(to);
            }
            return id;
        }
        None
    }

    /// Nobody waits any more.
    pub(in crate::client::machine) fn send_away(&mut self) {
        self.waiting.clear();
        self.order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{identity::SecretKey, wire::Port};

    fn addr(name: &str) -> Addr {
        Addr { key: SecretKey::from_seed(name.as_bytes()).public_key(), port: Port::MIN }
    }

    fn fill(turns: &mut Turns, to: Addr) -> usize {
        let mut taken = 0;
        while turns.admits(&to) {
            turns.take(to);
            taken += 1;
        }
        taken
    }

    #[test]
    fn those_who_take_all_they_can_leave_a_place_for_whoever_comes_new() {
        let mut turns = Turns::default();
        let shares: Vec<_> = (0..40).map(|i| fill(&mut turns, addr(&i.to_string()))).collect();
        assert_eq!(shares[..4], [113, 101, 90, 80]);
        assert!(shares.iter().all(|&share| share > 0), "{shares:?}");
        assert!(turns.admits(&addr("new")));
        (0..50).for_each(|_| turns.release(&addr("0")));
        assert!(!turns.admits(&addr("0")), "what it gives back is for all");
    }

    #[test]
    fn destinations_take_turns_and_a_full_one_is_passed_over() {
        let (mut turns, full, free) = (Turns::default(), addr("full"), addr("free"));
        let taken = fill(&mut turns, full);
        (0..3).for_each(|id| turns.wait(full, DialId(id)));
        (3..6).for_each(|id| turns.wait(free, DialId(id)));
        turns.leave(&free, DialId(4));
        turns.leave(&free, DialId(4));
        assert_eq!(turns.next(), Some(DialId(3)));
        assert_eq!(turns.next(), Some(DialId(5)));
        assert_eq!(turns.next(), None, "the other one is full");
        // One place alone is an eighth of nothing.
        (0..2).for_each(|_| turns.release(&full));
        assert_eq!(turns.next(), Some(DialId(0)));
        turns.leave(&full, DialId(1));
        turns.leave(&full, DialId(2));
        (2..taken).for_each(|_| turns.release(&full));
        assert_eq!((turns.next(), turns.unanswered_count), (None, 0));
        assert!(turns.order.is_empty() && turns.waiting.is_empty() && turns.unanswered.is_empty());
    }
}
