//! What others cost: receivers that do not read, and a second core.

use std::{io::Write, time::Duration};

use dmsg_bench::{
    Result, progress,
    report::{Report, Section},
};
use dmsg_engine::identity::SecretKey;

use super::{
    Bench,
    bulk::{Lane, Shape},
    contender::{Contender, Running},
    load::{
        session::{Session, dial},
        yamux::Header,
    },
};

const WARM_UP: Duration = Duration::from_millis(150);
const FRAME_BYTES: usize = 4096;
const OURS: [Contender; 3] = [Contender::URING, Contender::EPOLL, Contender::Peer];

/// Sessions whose receivers never read, and the streams of each.
const STALLED_SESSIONS: usize = 8;
const STALLED_STREAMS: usize = 250;
/// Bytes that wait on each: together the 8 MiB that a session may have waiting.
const STALLED_BYTES: usize = 32 * 1024;

/// Rows of the fairness section.
pub(super) const ALONE: &str = "alone";
/// Beside the stalled ones.
pub(super) const BESIDE: &str = "beside 2,000 stalled streams";

/// 16 pairs, with and without 2,000 streams whose receivers do not read.
pub(super) fn fairness(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut section = Section::new(
        "fairness",
        "16 pairs, 4 KiB frames, beside receivers that never read",
        "GB/s",
        true,
    );
    section.method = "The same load on two servers; at one of them 8 sessions have 250 streams each with 32 KiB that nobody \
        reads: the 8 MiB that may wait for one session."
        .to_owned();
    let shape = Shape { pairs: 16, streams: 4, in_flight_max: 1 << 20 };
    for contender in Contender::taking_part(bench, &OURS) {
        let mut alone = Lane::start(bench, contender, shape, FRAME_BYTES)?;
        let mut beside = Lane::start(bench, contender, shape, FRAME_BYTES)?;
        let before = beside.running.anonymous_bytes()?;
        let held = stall(&beside.running)?;
        alone.flow.run(WARM_UP)?;
        beside.flow.run(WARM_UP)?;
        for _ in 0..bench.repeats {
            for (row, lane) in [(ALONE, &mut alone), (BESIDE, &mut beside)] {
                let sample = bench.gate.measure(|| lane.measure(bench.time))?;
                section.figure(row, contender.name()).push(sample.map(|s| s.per_second));
            }
        }
        let grown = beside.running.anonymous_bytes()?.saturating_sub(before) >> 20;
        section.remarks.push(format!(
            "{}: memory beside the stalled streams grew by {grown} MiB; {} MiB were sent to them.",
            contender.name(),
            (STALLED_SESSIONS * STALLED_STREAMS * STALLED_BYTES) >> 20,
        ));
        drop(held);
    }
    report.sections.push(section);
    Ok(())
}

/// Fills streams whose receivers do not read; they stay so as long as the sessions are held.
fn stall(running: &Running) -> Result<Vec<Session>> {
    let key = running.server_key()?;
    let session = || Session::connect_and_wait(running.address, key, SecretKey::generate()?);
    let mut held = Vec::new();
    for _ in 0..STALLED_SESSIONS {
        let (mut a, mut b) = (session()?, session()?);
        let mut frames = Vec::new();
        for _ in 0..STALLED_STREAMS {
            let (id, _) = dial(&mut a, &mut b)?;
            frames.extend_from_slice(&Header::data(id, STALLED_BYTES).encode());
            frames.resize(frames.len() + STALLED_BYTES, 7);
        }
        a.socket.write_all(&frames)?;
        held.extend([a, b]);
    }
    Ok(held)
}

/// Rows of the section on cores.
pub(super) const ONE: &str = "1 thread";
/// With a second.
pub(super) const TWO: &str = "2 threads";

/// Two threads against one: sessions are spread by the kernel, so about half of the traffic crosses.
pub(super) fn cores(bench: &Bench, report: &mut Report) -> Result<()> {
    let others: Vec<_> = bench.allowed.iter().copied().filter(|c| *c != bench.cpus.load).collect();
    let can_show = others.len() >= 3;
    let unit = if can_show { "GB/s" } else { "GB per CPU-s" };
    let title =
        "Two server threads against one, 64 pairs, 4 KiB frames, half of the traffic crossing";
    let mut section = Section::new("cores", title, unit, true);
    section.method =
        "The kernel spreads 128 sessions over both threads; streams between the two cross."
            .to_owned();
    if !can_show {
        section.remarks.push(format!(
            "With {} CPUs, one of them for the load, two server threads have no second CPU of their own: this shows what \
             crossing costs (per CPU-second), not what a second core gives.",
            others.len() + 1
        ));
    }
    let shape = Shape { pairs: 64, streams: 8, in_flight_max: super::bulk::IN_FLIGHT };
    for contender in Contender::taking_part(bench, &OURS[..2]) {
        let mut lanes = Vec::new();
        for (row, threads) in [(ONE, 1), (TWO, 2)] {
            let cpus = if can_show { others[..threads].to_vec() } else { vec![bench.cpus.server] };
            let running = Running::start_on(contender, &cpus, threads, &bench.tuning)?;
            let mut lane = Lane::over(running, shape, FRAME_BYTES)?;
            lane.flow.run(WARM_UP)?;
            lanes.push((row, lane));
        }
        for _ in 0..bench.repeats {
            for (row, lane) in &mut lanes {
                let sample = bench.gate.measure(|| lane.measure(bench.time))?;
                let value = sample.map(|s| if can_show { s.per_second } else { s.per_cpu });
                section.figure(row, contender.name()).push(value);
            }
        }
        progress(&format!("cores: {}", contender.name()));
    }
    report.sections.push(section);
    Ok(())
}
