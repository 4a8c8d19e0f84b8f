//! The gate against the machine's slow state.
//!
//! On shared machines the hypervisor moves virtual CPUs between physical cores. When the two CPUs of a run end up far apart, a
//! cache line takes several times as long from one to the other, and everything that crosses cores burns up to three times the
//! CPU: a comparison across such a change is worth nothing. So the time of one bounce of a cache line (there and back) between
//! the two is measured before and after each measurement, and the measurement is repeated when either is at or above the limit,
//! a few times; then it stands, marked as slow.

use std::{
    hint::spin_loop,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    Result,
    cpu::{self, Cpus},
};

/// A bounce at or above this is the slow state: 41–75 ns and 350–500 ns were seen, and nothing between.
pub const SLOW_NS: f64 = 100.0;

/// Bounces of one probe: about 1 ms in the fast state.
const BOUNCES: u64 = 20_000;

/// A probe is given up after this long: with one CPU taken away entirely, each bounce costs a time slice.
const PROBE_TIME_MAX: Duration = Duration::from_millis(50);

/// How long to wait for a better state before a measurement is repeated.
const REST: Duration = Duration::from_millis(300);

/// What the gate says of one measurement.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Verdict {
    /// The worse of the two bounces around the measurement; `None` on a machine with one CPU, where nothing crosses.
    pub bounce_ns: Option<f64>,
    /// Measurements thrown away before this one.
    pub repeats: u32,
    /// Whether it was taken in the slow state, after all tries.
    pub slow: bool,
}

/// A value with its verdict.
#[derive(Debug, Clone)]
pub struct Gated<T> {
    /// What was measured.
    pub value: T,
    /// In what state of the machine.
    pub verdict: Verdict,
}

impl<T> Gated<T> {
    /// The same verdict on something made of the value.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Gated<U> {
        Gated { value: make(self.value), verdict: self.verdict }
    }
}

/// Measures the state of two CPUs around measurements.
#[derive(Debug, Clone)]
pub struct Gate {
    cpus: Cpus,
    slow_ns: f64,
    tries_max: u32,
}

impl Gate {
    /// A gate between the two CPUs of a run. `tries_max` counts the first try.
    #[must_use]
    pub fn new(cpus: Cpus, tries_max: u32) -> Self {
        Self { cpus, slow_ns: SLOW_NS, tries_max: tries_max.max(1) }
    }

    /// Another limit, for machines whose fast state is slower.
    #[must_use]
    pub fn with_limit(self, slow_ns: f64) -> Self {
        Self { slow_ns, ..self }
    }

    /// Runs `run`, again while the machine is slow around it.
    ///
    /// # Errors
    /// Those of `run`.
    pub fn measure<T>(&self, mut run: impl FnMut() -> Result<T>) -> Result<Gated<T>> {
        let mut repeats = 0;
        loop {
            let before = self.bounce_ns();
            let value = run()?;
            let bounce_ns = before.zip(self.bounce_ns()).map(|(a, b)| a.max(b));
            let slow = bounce_ns.is_some_and(|ns| ns >= self.slow_ns);
            if !slow || repeats + 1 >= self.tries_max {
                return Ok(Gated { value, verdict: Verdict { bounce_ns, repeats, slow } });
            }
            repeats += 1;
            thread::sleep(REST);
        }
    }

    /// Nanoseconds that a cache line takes from one CPU to the other and back: the best of three probes, because an
    /// interruption can only make one longer.
    #[must_use]
    pub fn bounce_ns(&self) -> Option<f64> {
        (0..3).filter_map(|_| probe(self.cpus)).min_by(f64::total_cmp)
    }
}

/// Two pinned threads count up one number in turns.
fn probe(cpus: Cpus) -> Option<f64> {
    if cpus.server == cpus.load {
        return None;
    }
    let line = Arc::new(AtomicU64::new(0));
    let other = {
        let line = Arc::clone(&line);
        thread::spawn(move || cpu::pin(&[cpus.server]).is_ok_and(|()| play(&line, 1).is_some()))
    };
    let own = thread::spawn(move || cpu::pin(&[cpus.load]).ok().and_then(|()| play(&line, 0)));
    let time = own.join().ok().flatten();
    let played = other.join().unwrap_or(false);
    // Who could not finish in time was kept from running, which is as bad for a measurement as a slow machine.
    let time = time.filter(|_| played).unwrap_or(PROBE_TIME_MAX);
    Some(time.as_nanos() as f64 / BOUNCES as f64)
}

/// Waits for each number of its parity and answers with the next. The clock starts with the other side's first answer.
fn play(line: &AtomicU64, parity: u64) -> Option<Duration> {
    let mut start = Instant::now();
    let limit = start + PROBE_TIME_MAX;
    for turn in 0..=BOUNCES {
        let own = 2 * turn + parity;
        let mut spins = 0_u32;
        while line.load(Ordering::Acquire) != own {
            spin_loop();
            spins += 1;
            if spins.is_multiple_of(1024) && Instant::now() > limit {
                return None;
            }
        }
        if turn == 1 {
            start = Instant::now();
        }
        line.store(own + 1, Ordering::Release);
    }
    Some(start.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate_with(slow_ns: f64) -> Gate {
        Gate::new(cpu::choose(), 3).with_limit(slow_ns)
    }

    #[test]
    fn in_the_slow_state_a_measurement_is_repeated_and_marked() {
        let mut runs = 0;
        let count = |runs: &mut u32| -> Result<u32> {
            *runs += 1;
            Ok(*runs)
        };
        let gated = gate_with(0.0).measure(|| count(&mut runs)).expect("counting does not fail");
        if gated.verdict.bounce_ns.is_some() {
            assert_eq!((gated.value, gated.verdict.repeats, gated.verdict.slow), (3, 2, true));
        }
        let gated = gate_with(f64::INFINITY).measure(|| count(&mut runs)).expect("the same");
        assert_eq!((gated.verdict.repeats, gated.verdict.slow), (0, false));
    }

    #[test]
    fn one_cpu_has_no_bounce() {
        assert_eq!(Gate::new(Cpus { server: 0, load: 0 }, 1).bounce_ns(), None);
    }
}
