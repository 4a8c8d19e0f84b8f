//! The whole system in simulated time: real relay cores, real clients, random traffic and random faults.
//!
//! Safety: whatever is read is what the other end wrote, in order. Liveness: when the faults stop, every stream
//! ends, new ones work between any two clients, and in the end nothing is held anywhere. Tasks are polled only
//! when they were woken, so a wake-up that is missing shows as a stream that does not end.
//!
//! `SYSTEM_SIM_SEED=n` runs one seed, `SYSTEM_SIM_SEEDS=n` so many of them.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)]

mod chaos;
mod end;
mod town;

/// Seeds of an ordinary run.
const SEEDS: u64 = 100;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_happens_bytes_stay_in_order_and_everything_ends() {
    if let Some(seed) = number("SYSTEM_SIM_SEED") {
        return println!("{:?}", chaos::run(seed));
    }
    let seeds = number("SYSTEM_SIM_SEEDS").unwrap_or(SEEDS);
    let mut total = chaos::Tally::default();
    for seed in 0..seeds {
        total.add(&chaos::run(seed));
    }
    println!("{seeds} seeds: {total:?}");
    // The runs are worth something only if the faults do not end everything before it begins.
    if seeds >= SEEDS {
        assert!(total.whole > 3 * seeds && total.broken > seeds && total.bytes > seeds * 30_000);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 8] {
        assert_eq!(chaos::run(seed), chaos::run(seed), "seed {seed}");
    }
}
