//! Plain TCP, one hop: the load sends, a process counts and drops. The receiving half of what any relay does.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use dmsg_bench::{
    Result,
    report::{Report, Section},
};

use super::{
    Bench,
    bulk::{IN_FLIGHT, plain_connection},
    contender::{Contender, Running},
    rivals::{COUNT_HELLO, Rival},
};

/// As many as the relay's pairs have.
const CONNECTIONS: usize = 64;

/// Bytes of one send.
const SEND_BYTES: usize = 64 * 1024;

/// 64 connections in turns.
pub(super) fn tcp(bench: &Bench, report: &mut Report) -> Result<()> {
    let contender = Contender::Rival(Rival::Discard);
    if Contender::taking_part(bench, &[contender]).is_empty() {
        return Ok(());
    }
    let title = "Plain TCP, one hop, 64 connections: bytes received";
    let mut section = Section::new("plain-tcp", title, "GB", true);
    section.method = "Received, counted and dropped: the receiving half of what a relay does, by a receiver that is faster than \
        the load and so takes small pieces. At most 2 MiB are under way."
        .to_owned();
    let running = Running::start(bench, contender)?;
    let connect = |at| plain_connection(&running, at, false);
    let mut sockets = (0..CONNECTIONS).map(connect).collect::<Result<Vec<_>>>()?;
    let mut counter = TcpStream::connect(running.address)?;
    counter.set_nodelay(true)?;
    counter.write_all(&COUNT_HELLO)?;
    let mut sent = 0;
    for round in 0..=bench.repeats {
        let sample = bench.gate.measure(|| {
            let (start, before, already) = (Instant::now(), running.cpu_time()?, sent);
            deliver(&mut sockets, &mut counter, &mut sent, bench.time)?;
            let cpu = running.cpu_time()? - before;
            let gigabytes = (sent - already) as f64 / 1e9;
            Ok((gigabytes / cpu.as_secs_f64(), gigabytes / start.elapsed().as_secs_f64()))
        })?;
        if round > 0 {
            let name = contender.name();
            section.figure(name, "per CPU-second").push(sample.clone().map(|sample| sample.0));
            section.figure(name, "per second").push(sample.map(|sample| sample.1));
        }
    }
    report.sections.push(section);
    Ok(())
}

/// Sends for `time`, a bound of bytes at a time, each awaited.
fn deliver(
    sockets: &mut [TcpStream],
    counter: &mut TcpStream,
    sent: &mut u64,
    time: Duration,
) -> Result<()> {
    let (start, chunk) = (Instant::now(), vec![0x5a; SEND_BYTES]);
    let turns = usize::try_from(IN_FLIGHT)? / SEND_BYTES;
    let mut next = 0;
    while start.elapsed() < time {
        for _ in 0..turns {
            sockets[next].write_all(&chunk)?;
            next = (next + 1) % sockets.len();
            *sent += SEND_BYTES as u64;
        }
        let mut count = [0; 8];
        while u64::from_be_bytes(count) != *sent {
            counter.write_all(&[1])?;
            counter.read_exact(&mut count)?;
        }
    }
    Ok(())
}
