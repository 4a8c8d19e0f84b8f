//! Bulk throughput: how much a server moves per second of its CPU.

use std::{
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

use dmsg_bench::{
    Result, progress,
    report::{Report, Section},
};
use dmsg_engine::identity::SecretKey;

use super::{
    Bench,
    contender::{Contender, Running},
    load::{
        flow::{Flow, Sink, Source},
        session::{Session, dial},
    },
    rivals::{self, Rival},
};

/// Frame payloads of every comparison.
pub(super) const FRAMES: [(usize, &str); 4] =
    [(64, "64 B"), (1024, "1 KiB"), (4096, "4 KiB"), (16 * 1024, "16 KiB")];

/// Before the first measurement: pools filled, windows open, buffers grown.
const WARM_UP: Duration = Duration::from_millis(150);

/// How the streams of a flow lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Source sessions, and as many sink sessions.
    pub(super) pairs: usize,
    /// Streams of each source, each to another sink while there are enough.
    pub(super) streams: usize,
    /// Payload under way in all.
    pub(super) in_flight_max: u64,
}

/// 32 KiB for each of 64 pairs: what stays in the second and third level of caches.
pub(super) const IN_FLIGHT: u64 = 2 << 20;

/// As much as sockets and windows take.
const GREEDY: u64 = u64::MAX;

/// 64 pairs, each source's frames in turns for eight sinks.
pub(super) fn pairs(bench: &Bench, report: &mut Report) -> Result<()> {
    let shape = Shape { pairs: 64, streams: 8, in_flight_max: IN_FLIGHT };
    let method = "64 sources, 64 sinks; our relay and the peer server carry the frames of each source in turns to 8 sinks \
        over 512 streams, with credit; rivals have one sink per source, but for tokio-regroup, which has eight too. At most \
        2 MiB are under way. CPU time of the server's process around whole deliveries, all bytes compared on arrival.";
    let title = "Relay, 64 pairs, frames spread over other sessions";
    let [mut cost, mut rate] = sections("relay-64-pairs", title, method);
    for (frame_bytes, column) in FRAMES.into_iter().filter(|f| bench.wants_frames(f.0)) {
        let all = every_contender();
        let contenders = Contender::taking_part(bench, &all);
        compare(bench, &contenders, shape, frame_bytes, &mut |contender, sample| {
            cost.figure(contender.name(), column).push(sample.clone().map(|s| s.per_cpu));
            rate.figure(contender.name(), column).push(sample.map(|s| s.per_second));
        })?;
    }
    report.sections.extend([cost, rate]);
    Ok(())
}

/// The same without a bound on what is under way: the relay in front of receivers that are always too slow.
pub(super) fn greedy(bench: &Bench, report: &mut Report) -> Result<()> {
    let shape = Shape { pairs: 64, streams: 8, in_flight_max: GREEDY };
    let method = "As above, but sources send as much as sockets and windows take. The load's CPU is slower than the relay, so \
        all of the credit (128 MiB over 512 streams) ends up in queues; a proxy has no more than its sockets' buffers.";
    let title = "Relay, 64 pairs, receivers overloaded";
    let [mut cost, mut rate] = sections("relay-overload", title, method);
    for (frame_bytes, column) in
        [FRAMES[0], FRAMES[3]].into_iter().filter(|f| bench.wants_frames(f.0))
    {
        let all = every_contender();
        let contenders = Contender::taking_part(bench, &all[..5]);
        compare(bench, &contenders, shape, frame_bytes, &mut |contender, sample| {
            cost.figure(contender.name(), column).push(sample.clone().map(|s| s.per_cpu));
            rate.figure(contender.name(), column).push(sample.map(|s| s.per_second));
        })?;
    }
    report.sections.extend([cost, rate]);
    Ok(())
}

/// One pair of sessions with 1, 16 and 256 streams.
pub(super) fn streams(bench: &Bench, report: &mut Report) -> Result<()> {
    let method = "One source, one sink; frames of all streams in turns. Rivals see the same bytes. At most 2 MiB, and 256 KiB \
        per stream, are under way.";
    let title = "Relay, one pair of sessions by streams and frame size";
    let [mut cost, mut rate] = sections("relay-streams", title, method);
    let mut all = every_contender();
    all.retain(|one| !matches!(one, Contender::Rival(rival) if rival.needs_io_uring()));
    let contenders = Contender::taking_part(bench, &all);
    for streams in [1, 16, 256] {
        for (frame_bytes, frames) in FRAMES.into_iter().filter(|f| bench.wants_frames(f.0)) {
            let shape = Shape { pairs: 1, streams, in_flight_max: IN_FLIGHT };
            let column = format!("{streams} × {frames}");
            compare(bench, &contenders, shape, frame_bytes, &mut |contender, sample| {
                cost.figure(contender.name(), &column).push(sample.clone().map(|s| s.per_cpu));
                rate.figure(contender.name(), &column).push(sample.map(|s| s.per_second));
            })?;
        }
    }
    report.sections.extend([cost, rate]);
    Ok(())
}

fn every_contender() -> Vec<Contender> {
    let mut all = vec![Contender::URING, Contender::EPOLL, Contender::Peer];
    all.extend(Rival::FORWARDING.map(Contender::Rival));
    all
}

/// Per CPU-second of the server, and per second.
fn sections(id: &str, title: &str, method: &str) -> [Section; 2] {
    let cost_title = format!("{title}: payload per server-CPU-second");
    let mut cost = Section::new(id, &cost_title, "GB per CPU-s", true);
    cost.method = method.to_owned();
    let rate_title = format!("{title}: payload per second (the load's one CPU is the limit)");
    let mut rate = Section::new(&format!("{id}-rate"), &rate_title, "GB/s", true);
    rate.method = "From the same runs.".to_owned();
    [cost, rate]
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// GB per server-CPU-second.
    pub(super) per_cpu: f64,
    /// GB per second.
    pub(super) per_second: f64,
}

type GatedSample = dmsg_bench::gate::Gated<Sample>;

/// Lets the contenders take turns, round by round.
pub(super) fn compare(
    bench: &Bench,
    contenders: &[Contender],
    shape: Shape,
    frame_bytes: usize,
    take: &mut dyn FnMut(Contender, GatedSample),
) -> Result<()> {
    let start = Instant::now();
    let mut lanes = Vec::new();
    for contender in contenders {
        let told = |error| format!("{}: {error}", contender.name());
        lanes.push(Lane::start(bench, *contender, shape, frame_bytes).map_err(told)?);
    }
    for lane in &mut lanes {
        lane.flow.run(WARM_UP).map_err(|error| lane.told(&error))?;
    }
    for _ in 0..bench.repeats {
        for lane in &mut lanes {
            let sample = bench.gate.measure(|| lane.measure(bench.time));
            take(lane.running.contender, sample.map_err(|error| lane.told(&error))?);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    progress(&format!("{shape:?}, frames of {frame_bytes} bytes: {seconds:.1} s"));
    Ok(())
}

/// A contender under load.
pub(super) struct Lane {
    pub(super) running: Running,
    pub(super) flow: Flow,
}

impl Lane {
    pub(super) fn start(
        bench: &Bench,
        contender: Contender,
        shape: Shape,
        frame_bytes: usize,
    ) -> Result<Self> {
        Self::over(Running::start(bench, contender)?, shape, frame_bytes)
    }

    /// Over one that runs already.
    pub(super) fn over(running: Running, shape: Shape, frame_bytes: usize) -> Result<Self> {
        let flow = match running.contender {
            Contender::Rival(_) => plain_flow(&running, shape, frame_bytes)?,
            _ => relayed_flow(&running, shape, frame_bytes)?,
        };
        Ok(Self { running, flow })
    }

    pub(super) fn measure(&mut self, time: Duration) -> Result<Sample> {
        let before = self.running.cpu_time()?;
        let delivered = self.flow.run(time)?;
        let cpu = self.running.cpu_time()? - before;
        let bytes = delivered.bytes as f64 / 1e9;
        let per_cpu = bytes / cpu.as_secs_f64();
        Ok(Sample { per_cpu, per_second: bytes / delivered.time.as_secs_f64() })
    }

    fn told(&self, error: &dmsg_bench::Error) -> String {
        format!("{}: {error}", self.running.contender.name())
    }
}

/// Sessions with a server, and streams through it: stream `k` of source `i` goes to sink `i + k`.
pub(super) fn relayed_flow(running: &Running, shape: Shape, frame_bytes: usize) -> Result<Flow> {
    let key = running.server_key()?;
    let session = || Session::connect_and_wait(running.address, key, SecretKey::generate()?);
    let sessions = || (0..shape.pairs).map(|_| session()).collect::<Result<Vec<_>>>();
    let (mut sources, mut sinks) = (sessions()?, sessions()?);
    for stream in 0..shape.streams {
        for (at, source) in sources.iter_mut().enumerate() {
            dial(source, &mut sinks[(at + stream) % shape.pairs])?;
        }
    }
    let sources = sources.into_iter().map(|s| Source::with_credit(s.socket, s.credit)).collect();
    let sinks = sinks.into_iter().map(|s| Sink::with_grants(s.socket, shape.streams)).collect();
    Flow::new(sources, sinks, shape.streams, frame_bytes, shape.in_flight_max)
}

/// Connections to a rival, joined in pairs.
fn plain_flow(running: &Running, shape: Shape, frame_bytes: usize) -> Result<Flow> {
    let (mut sources, mut sinks) = (Vec::new(), Vec::new());
    for pair in 0..shape.pairs {
        let end = |is_sink| greeted(running, rivals::hello(pair, is_sink, shape.pairs));
        sources.push(Source::without_credit(end(false)?));
        sinks.push(Sink::without_grants(end(true)?, shape.streams));
    }
    Flow::new(sources, sinks, shape.streams, frame_bytes, shape.in_flight_max)
}

/// A connection to a rival that has said which pair it belongs to.
pub(super) fn plain_connection(running: &Running, pair: usize, is_sink: bool) -> Result<TcpStream> {
    greeted(running, rivals::hello(pair, is_sink, 1))
}

fn greeted(running: &Running, hello: [u8; rivals::HELLO_BYTES]) -> Result<TcpStream> {
    let mut socket = TcpStream::connect(running.address)?;
    socket.set_nodelay(true)?;
    socket.write_all(&hello)?;
    Ok(socket)
}
