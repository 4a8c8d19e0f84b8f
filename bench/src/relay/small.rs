//! Small messages: round trips one at a time, and many connections with one message each.

use std::time::Duration;

use dmsg_bench::{
    Result, progress,
    report::{Report, Section},
    stats::percentile,
};
use dmsg_engine::identity::SecretKey;

use super::{
    Bench,
    bulk::plain_connection,
    contender::{Contender, Running},
    load::{
        session::{Session, dial},
        talk::{Chat, Talker, ping_pong},
    },
    rivals::Rival,
};

const WARM_UP: Duration = Duration::from_millis(100);

/// Round trips over one stream.
pub(super) fn round_trips(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut section = Section::new(
        "rtt",
        "Ping-pong of 64 bytes over one relayed stream, both ends on the load's CPU",
        "µs",
        false,
    );
    section.method =
        "One message at a time. `echo` is one hop, there and back; the others are two.".to_owned();
    let rival = Contender::Rival;
    let all = [
        rival(Rival::Echo),
        rival(Rival::ReadWrite),
        rival(Rival::Splice),
        rival(Rival::Tokio64),
        Contender::URING,
        Contender::EPOLL,
        Contender::Peer,
    ];
    let mut lanes = Vec::new();
    for contender in Contender::taking_part(bench, &all) {
        let running = Running::start(bench, contender)?;
        let (mut a, mut b) = if contender == rival(Rival::Echo) {
            (Talker::new(plain_connection(&running, 0, false)?, 1, false), None)
        } else {
            let (a, b) = pair(&running, 0)?;
            (a, Some(b))
        };
        ping_pong(&mut a, b.as_mut(), WARM_UP)?;
        lanes.push((running, a, b));
    }
    for _ in 0..bench.repeats {
        for (running, a, b) in &mut lanes {
            let trips = bench.gate.measure(|| ping_pong(a, b.as_mut(), bench.time))?;
            let sorted = trips.map(|mut trips| {
                trips.sort_by(f64::total_cmp);
                trips
            });
            for (column, part) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
                let sample = sorted.clone().map(|sorted| percentile(&sorted, part));
                section.figure(running.contender.name(), column).push(sample);
            }
        }
    }
    report.sections.push(section);
    Ok(())
}

/// A joined pair of ends: a relayed stream, or two connections to a rival.
fn pair(running: &Running, at: usize) -> Result<(Talker, Talker)> {
    let Some(key) = running.key else {
        let end = |is_sink| plain_connection(running, at, is_sink);
        return Ok((Talker::new(end(false)?, 1, false), Talker::new(end(true)?, 2, false)));
    };
    let session = || Session::connect_and_wait(running.address, key, SecretKey::generate()?);
    let (mut a, mut b) = (session()?, session()?);
    let (at_a, at_b) = dial(&mut a, &mut b)?;
    Ok((Talker::new(a.socket, at_a, true), Talker::new(b.socket, at_b, true)))
}

/// 512 connections, each pair with one message under way.
pub(super) fn chat(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut section = Section::new(
        "chat-512",
        "Request and response of 64 bytes over 512 connections: server CPU per frame",
        "µs",
        false,
    );
    section.method =
        "256 pairs, each with one message under way; a frame is one message through the server."
            .to_owned();
    let rival = Contender::Rival;
    let all = [
        Contender::URING,
        Contender::EPOLL,
        Contender::Peer,
        rival(Rival::ReadWrite),
        rival(Rival::Tokio64),
        rival(Rival::Monoio),
        rival(Rival::TokioUring),
    ];
    let mut lanes = Vec::new();
    for contender in Contender::taking_part(bench, &all) {
        let running = Running::start(bench, contender)?;
        let pairs = (0..256).map(|at| pair(&running, at)).collect::<Result<Vec<_>>>()?;
        let mut chat = Chat::new(pairs)?;
        chat.run(WARM_UP)?;
        lanes.push((running, chat));
    }
    progress("chat-512: all connections are up");
    for _ in 0..bench.repeats {
        for (running, chat) in &mut lanes {
            let sample = bench.gate.measure(|| {
                let before = running.cpu_time()?;
                let frames = chat.run(bench.time)?;
                let cpu = running.cpu_time()? - before;
                Ok(cpu.as_secs_f64() * 1e6 / frames as f64)
            })?;
            section.figure(running.contender.name(), "CPU per frame").push(sample);
        }
    }
    report.sections.push(section);
    Ok(())
}
