//! Destinations that do not answer, and how often they are asked all the same.
//!
//! ```text
//!              3 requests in a row without an answer
//!   answers ──────────────────────────────────────────▶ failing: one request per 50 ms, the others wait for their turn
//!      ▲                                                    │
//!      └──────────────── the first answer ──────────────────┘    whoever waits goes at once
//! ```
//!
//! A caller in a loop asks a dead service as fast as it is told so. What the dial costs then, the engine bounds; but a service
//! that takes streams and breaks them off, or one of which a cache says at once that it is nowhere, would get whole cores of
//! this machine, and of the relay and the service too. Nobody is turned away here: a request waits in line for its turn, for
//! half of its time and [`HttpConfig::wait_timeout`](super::HttpConfig) at most, and then goes all the same. Who gives up
//! waiting leaves no gap in the line, so that one request per 50 ms goes as long as there is any.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use dmsg_engine::wire::Addr;
use tokio::{
    sync::{Mutex as Line, Notify},
    time::{Instant, sleep_until, timeout},
};

/// Requests in a row without an answer that make a destination a failing one.
const FAILURES_MAX: u32 = 3;

/// Between two requests to a failing destination, ± half of it at random: 20 a second, which are 2 % of a CPU where each costs a
/// stream.
const GAP: Duration = Duration::from_millis(50);

/// Failures longer ago than this are forgotten.
const MEMORY: Duration = Duration::from_secs(60);

/// Destinations remembered at once, some 150 bytes each.
const REMEMBERED_MAX: usize = 1024;

struct Record {
    in_a_row: u32,
    failed_at: Instant,
    /// When the next request may go; locked by whoever is first in line, behind whom the others wait.
    line: Arc<Line<Instant>>,
    /// Told when an answer comes.
    answered: Arc<Notify>,
}

/// The destinations of one HTTP client that gave no answer of late.
#[derive(Default)]
pub(super) struct Failing {
    records: Mutex<HashMap<Addr, Record>>,
    /// How many there are, so that requests take no lock while there is none.
    count: AtomicUsize,
}

impl Failing {
    /// Waits until a request to `to` may go: not at all if it answers, `most` at most.
    pub(super) async fn turn(&self, to: Addr, most: Duration) {
        if self.count.load(Relaxed) == 0 {
            return;
        }
        let (line, answered) = {
            let records = self.lock();
            let Some(record) = records.get(&to) else { return };
            if record.in_a_row < FAILURES_MAX || record.failed_at.elapsed() > MEMORY {
                return;
            }
            (Arc::clone(&record.line), Arc::clone(&record.answered).notified_owned())
        };
        let turn = async {
            let mut next = line.lock().await;
            sleep_until(*next).await;
            *next = Instant::now() + GAP.mul_f64(rand::random_range(0.5..=1.5));
        };
        let turn = async {
            tokio::select! {
                () = turn => {}
                () = answered => {}
            }
        };
        // If neither comes in time, it goes all the same. A crowd that came at once does not go at once.
        let _ = timeout(most.mul_f64(rand::random_range(0.5..=1.0)), turn).await;
    }

    /// A request to `to` ended without an answer.
    pub(super) fn fail(&self, to: Addr) {
        let (mut records, now) = (self.lock(), Instant::now());
        if !records.contains_key(&to) {
            make_room(&mut records, now);
        }
        let record = records.entry(to).or_insert_with(|| Record {
            in_a_row: 0,
            failed_at: now,
            line: Arc::new(Line::new(now)),
            answered: Arc::default(),
        });
        if now.duration_since(record.failed_at) > MEMORY {
            record.in_a_row = 0;
        }
        record.in_a_row = record.in_a_row.saturating_add(1);
        record.failed_at = now;
        self.count.store(records.len(), Relaxed);
    }

    /// `to` answered.
    pub(super) fn succeed(&self, to: Addr) {
        if self.count.load(Relaxed) == 0 {
            return;
        }
        let mut records = self.lock();
        let record = records.remove(&to);
        self.count.store(records.len(), Relaxed);
        drop(records);
        if let Some(record) = record {
            record.answered.notify_waiters();
        }
    }

    /// A step of the table is a whole one, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, HashMap<Addr, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets what is old, or else what failed first.
fn make_room(records: &mut HashMap<Addr, Record>, now: Instant) {
    if records.len() < REMEMBERED_MAX {
        return;
    }
    records.retain(|_, record| now.duration_since(record.failed_at) <= MEMORY);
    if records.len() >= REMEMBERED_MAX
        && let Some((&first, _)) = records.iter().min_by_key(|(_, record)| record.failed_at)
    {
        records.remove(&first);
    }
}

#[cfg(test)]
mod tests {
    use dmsg_engine::{identity::SecretKey, wire::Port};

    use super::*;

    const MOST: Duration = Duration::from_secs(5);

    fn addr(port: u16) -> Addr {
        let key = SecretKey::from_seed(b"failing").public_key();
        Addr { key, port: Port::new(port).unwrap_or(Port::MIN) }
    }

    async fn waited(failing: &Failing, to: Addr) -> Duration {
        let begun = Instant::now();
        failing.turn(to, MOST).await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn after_three_failures_requests_go_one_by_one_until_one_is_answered() {
        let (failing, to) = (Arc::new(Failing::default()), addr(80));
        for _ in 0..3 {
            assert_eq!(waited(&failing, to).await, Duration::ZERO);
            failing.fail(to);
        }
        let begun = Instant::now();
        for _ in 0..21 {
            failing.turn(to, MOST).await;
            failing.fail(to);
        }
        let lasted = begun.elapsed().as_millis();
        assert!((500..=1500).contains(&lasted), "{lasted} ms for 20 gaps");
        assert_eq!(waited(&failing, addr(81)).await, Duration::ZERO, "another one");
        // A crowd stands in line, and the first answer lets all of it pass.
        let begun = Instant::now();
        let crowd: Vec<_> = (0..40)
            .map(|_| {
                let failing = Arc::clone(&failing);
                tokio::spawn(async move { failing.turn(to, MOST).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(10)).await;
        failing.succeed(to);
        for waiting in crowd {
            waiting.await.expect("a turn does not panic");
        }
        assert_eq!(begun.elapsed(), Duration::from_millis(10));
        assert_eq!(waited(&failing, to).await, Duration::ZERO, "nothing is held against it");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_allowed_nor_for_what_was_long_ago() {
        let (failing, to) = (Arc::new(Failing::default()), addr(80));
        (0..3).for_each(|_| failing.fail(to));
        let begun = Instant::now();
        let crowd: Vec<_> = (0..1000)
            .map(|_| {
                let failing = Arc::clone(&failing);
                tokio::spawn(async move { failing.turn(to, MOST).await })
            })
            .collect();
        for waiting in crowd {
            waiting.await.expect("a turn does not panic");
        }
        assert!((MOST / 2..=MOST).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        tokio::time::sleep(MEMORY).await;
        for _ in 0..10 {
            assert_eq!(waited(&failing, to).await, Duration::ZERO);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_give_up_waiting_leave_no_gap_in_the_line() {
        let (failing, to) = (Failing::default(), addr(80));
        (0..3).for_each(|_| failing.fail(to));
        failing.turn(to, MOST).await;
        for _ in 0..100 {
            let given_up = timeout(Duration::from_millis(1), failing.turn(to, MOST)).await;
            failing.fail(to);
            if given_up.is_ok() {
                break;
            }
        }
        let waited = waited(&failing, to).await;
        assert!(waited <= GAP * 2, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_remembered_than_allowed() {
        let failing = Failing::default();
        for port in 0..3 * REMEMBERED_MAX {
            failing.fail(addr(u16::try_from(port).unwrap_or(0) + 1));
            assert!(failing.lock().len() <= REMEMBERED_MAX);
        }
        tokio::time::sleep(MEMORY + Duration::from_secs(1)).await;
        failing.fail(addr(u16::MAX));
        assert_eq!(failing.lock().len(), 1, "all others were old");
    }
}
