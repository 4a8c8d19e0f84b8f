//! Sessions and streams coming up: what each costs the server, how long a client waits, what an idle one holds.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use dmsg_bench::{
    Result, cpu,
    gate::Gated,
    progress,
    report::{Report, Section},
    stats::percentile,
};
use dmsg_engine::{
    client::{Client, DialError, Listener},
    identity::SecretKey,
    wire::{Addr, Port, SignedObject},
};

use super::{
    Bench,
    contender::{Contender, Running},
    load::session::{Session, dial},
};

const SERVERS: [Contender; 3] = [Contender::URING, Contender::EPOLL, Contender::Peer];

/// Pairs that open streams at the same time.
const OPENING_PAIRS: usize = 64;

/// Streams that each pair opens in one measurement.
const OPENS_PER_PAIR: usize = 8;

/// Stream opens: cost at the server, rate, and latency.
pub(super) fn opens(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut cost = Section::new("opens", "Stream open: server CPU", "µs", false);
    cost.method = format!(
        "Request, its delivery, response, its delivery. \"together\": {OPENING_PAIRS} pairs at a time; \"alone\": one. \
         Requests and responses are signed beforehand, so that the load costs little; the reset afterwards is in the figure."
    );
    let mut rate = Section::new("opens-rate", "Stream opens per second", "1/s", true);
    rate.method = "From the same runs.".to_owned();
    let mut latency =
        Section::new("opens-latency", "Stream open, one at a time: latency", "µs", false);
    latency.method = "From the same runs; both clients' work but signing is in it.".to_owned();
    let mut lanes = Vec::new();
    for contender in Contender::taking_part(bench, &SERVERS) {
        let running = Running::start(bench, contender)?;
        let pairs =
            (0..OPENING_PAIRS).map(|_| session_pair(&running)).collect::<Result<Vec<_>>>()?;
        lanes.push((running, pairs));
    }
    for _ in 0..bench.repeats {
        for (running, pairs) in &mut lanes {
            let name = running.contender.name();
            let sample = bench.gate.measure(|| open_together(running, pairs))?;
            cost.figure(name, "together").push(sample.clone().map(|sample| sample.0));
            rate.figure(name, "together").push(sample.map(|sample| sample.1));
            let sample = bench.gate.measure(|| open_alone(running, &mut pairs[0]))?;
            cost.figure(name, "alone").push(sample.clone().map(|sample| sample.0));
            for (column, part) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
                let sample = sample.clone().map(|(_, sorted)| percentile(&sorted, part));
                latency.figure(name, column).push(sample);
            }
        }
    }
    report.sections.extend([cost, rate, latency]);
    Ok(())
}

type Pair = (Session, Session);

fn session_pair(running: &Running) -> Result<Pair> {
    let key = running.server_key()?;
    let session = || Session::connect_and_wait(running.address, key, SecretKey::generate()?);
    Ok((session()?, session()?))
}

/// What `count` opens from `a` to `b` will say.
fn signed(a: &Session, b: &Session, count: usize) -> Result<Vec<(SignedObject, SignedObject)>> {
    let one = |_| {
        let request = a.request(b.key())?;
        let response = b.response(&request);
        Ok((request, response))
    };
    (0..count).map(one).collect()
}

/// CPU µs per open, and opens per second.
fn open_together(running: &Running, pairs: &mut [Pair]) -> Result<(f64, f64)> {
    let scripts = pairs.iter().map(|(a, b)| signed(a, b, OPENS_PER_PAIR));
    let scripts = scripts.collect::<Result<Vec<_>>>()?;
    let (start, before) = (Instant::now(), running.cpu_time()?);
    for round in 0..OPENS_PER_PAIR {
        let mut opened = Vec::with_capacity(pairs.len());
        for ((a, _), script) in pairs.iter_mut().zip(&scripts) {
            opened.push(a.open(&script[round].0)?);
        }
        for ((_, b), script) in pairs.iter_mut().zip(&scripts) {
            let (id, request) = b.next_object(None)?;
            check(&request, &script[round].0)?;
            b.accept(id, &script[round].1)?;
        }
        for (((a, _), script), id) in pairs.iter_mut().zip(&scripts).zip(opened) {
            check(&a.next_object(Some(id))?.1, &script[round].1)?;
            a.reset(id)?;
        }
    }
    let time = start.elapsed();
    let cpu = running.cpu_time()? - before;
    let count = (pairs.len() * OPENS_PER_PAIR) as f64;
    Ok((cpu.as_secs_f64() * 1e6 / count, count / time.as_secs_f64()))
}

/// CPU µs per open, and latencies in µs, sorted.
fn open_alone(running: &Running, (a, b): &mut Pair) -> Result<(f64, Vec<f64>)> {
    let script = signed(a, b, OPENING_PAIRS * OPENS_PER_PAIR)?;
    let before = running.cpu_time()?;
    let mut latencies = Vec::with_capacity(script.len());
    for (request, response) in &script {
        let start = Instant::now();
        let id = a.open(request)?;
        let (at_b, seen) = b.next_object(None)?;
        check(&seen, request)?;
        b.accept(at_b, response)?;
        check(&a.next_object(Some(id))?.1, response)?;
        latencies.push(start.elapsed().as_secs_f64() * 1e6);
        a.reset(id)?;
    }
    let cpu = running.cpu_time()? - before;
    latencies.sort_by(f64::total_cmp);
    Ok((cpu.as_secs_f64() * 1e6 / script.len() as f64, latencies))
}

fn check(seen: &SignedObject, sent: &SignedObject) -> Result<()> {
    if seen == sent { Ok(()) } else { Err("the server changed an object".into()) }
}

/// Whole dials with our own clients: crypto at both ends included.
pub(super) fn dials(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut section =
        Section::new("dial", "Whole dial with our clients, one at a time", "µs", false);
    section.method = "Client::dial to Listener::accept through the server; both clients share the load's CPU. CPU time is \
        that of the clients' process, of both together, and of the server. A handshake for each stream, as with every peer; \
        \"again\": by ticket, as our clients dial one of ours that they have dialled before."
        .to_owned();
    let ways = [false, true];
    for (contender, resumes) in Contender::taking_part(bench, &SERVERS)
        .into_iter()
        .flat_map(|contender| ways.map(|resumes| (contender, resumes)))
    {
        let running = Running::start(bench, contender)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut near = running.server()?.client(resumes)?;
        let far = running.server()?.client(resumes)?;
        let port = Port::new(80).ok_or("80 is a port")?;
        let mut listener = far.listen(port)?;
        let name = running.contender.name();
        let row = if resumes { format!("{name}, again") } else { name.to_owned() };
        let told = |error| format!("{name}: {error}");
        runtime.block_on(async {
            near.ready().await?;
            far.ready().await
        })?;
        let address = Addr { key: far.public_key(), port };
        for round in 0..=bench.repeats {
            let sample = bench.gate.measure(|| {
                let own = cpu::process_time(std::process::id())?;
                let before = running.cpu_time()?;
                let dials =
                    runtime.block_on(dial_for(bench.time, &mut near, &mut listener, address));
                let mut dials = dials.map_err(told)?;
                let server = running.cpu_time()? - before;
                let own = cpu::process_time(std::process::id())? - own;
                let per_dial = |time: Duration| time.as_secs_f64() * 1e6 / dials.len() as f64;
                let costs = [per_dial(own), per_dial(server)];
                dials.sort_by(f64::total_cmp);
                Ok((dials, costs))
            })?;
            if round == 0 {
                continue; // The first also warms up.
            }
            let mut push = |column: &str, value: f64| {
                let value = Gated { value, verdict: sample.verdict };
                section.figure(&row, column).push(value);
            };
            let (dials, [own, server]) = &sample.value;
            push("p50", percentile(dials, 0.5));
            push("p99", percentile(dials, 0.99));
            push("CPU of both clients", *own);
            push("CPU of the server", *server);
        }
        runtime.block_on(async {
            near.close().await;
            far.close().await;
        });
    }
    report.sections.push(section);
    Ok(())
}

async fn dial_for(
    time: Duration,
    near: &mut Client,
    listener: &mut Listener,
    address: Addr,
) -> std::result::Result<Vec<f64>, DialError> {
    let (start, mut latencies) = (Instant::now(), Vec::new());
    while start.elapsed() < time {
        let begun = Instant::now();
        let dialled = near.dial(address).await?;
        let accepted = listener.accept().await?;
        latencies.push(begun.elapsed().as_secs_f64() * 1e6);
        drop((dialled, accepted));
    }
    Ok(latencies)
}

/// Session handshakes.
pub(super) fn handshakes(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut section =
        Section::new("handshakes", "Session handshakes per second of server CPU", "1/CPU-s", true);
    section.method =
        "Connect, handshake, close, one after the other; accepting and closing are in the figure."
            .to_owned();
    let mut lanes = Vec::new();
    for contender in Contender::taking_part(bench, &SERVERS) {
        lanes.push(Running::start(bench, contender)?);
    }
    for _ in 0..bench.repeats {
        for running in &lanes {
            let key = running.server_key()?;
            let sample = bench.gate.measure(|| {
                let (start, before, mut count) = (Instant::now(), running.cpu_time()?, 0);
                while start.elapsed() < bench.time {
                    drop(Session::connect(running.address, key, SecretKey::generate()?)?);
                    count += 1;
                }
                Ok(f64::from(count) / (running.cpu_time()? - before).as_secs_f64())
            })?;
            section.figure(running.contender.name(), "handshakes").push(sample);
        }
    }
    report.sections.push(section);
    Ok(())
}

/// What idle sessions and streams hold.
pub(super) fn memory(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut section = Section::new(
        "memory",
        "User-space memory of the server that idle peers hold",
        "bytes",
        false,
    );
    section.method = "Growth of the server process's anonymous resident memory, divided by what was added; sockets are the \
        kernel's and not in it. Once per server: memory does not depend on the state of the machine."
        .to_owned();
    let (sessions_count, streams_per_pair) = if bench.quick { (1000, 32) } else { (4000, 128) };
    for contender in Contender::taking_part(bench, &SERVERS) {
        let running = Running::start(bench, contender)?;
        let name = running.contender.name();
        let key = running.server_key()?;
        let mut pairs = (0..64).map(|_| session_pair(&running)).collect::<Result<Vec<_>>>()?;
        for (a, b) in &mut pairs {
            dial(a, b)?;
        }
        let base = running.anonymous_bytes()?;
        let mut held: Vec<TcpStream> = Vec::new();
        for _ in 0..sessions_count {
            held.push(Session::connect(running.address, key, SecretKey::generate()?)?.socket);
        }
        let with_sessions = running.anonymous_bytes()?;
        for _ in 0..streams_per_pair {
            for (a, b) in &mut pairs {
                dial(a, b)?;
            }
        }
        let with_streams = running.anonymous_bytes()?;
        let streams_count = streams_per_pair * pairs.len();
        let mut push = |column: &str, growth: u64, count: usize| {
            section.put(name, column, growth as f64 / count as f64);
        };
        push("per session", with_sessions.saturating_sub(base), sessions_count);
        push("per relayed stream", with_streams.saturating_sub(with_sessions), streams_count);
        progress(&format!("memory: {name}: {sessions_count} sessions, {streams_count} streams"));
    }
    report.sections.push(section);
    Ok(())
}
