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
}

/// 64 pairs, each source's frames in turns for eight sinks.
pub(super) fn pairs(bench: &Bench, report: &mut Report) -> Result<()> {
    let shape = Shape { pairs: 64, streams: 8 };
    let mut all = vec![Contender::URING, Contender::EPOLL, Contender::Peer];
    all.extend(Rival::FORWARDING.map(Contender::Rival));
    let contenders = Contender::taking_part(bench, &all);
    let mut cost = Section::new(
        "relay-64-pairs",
        "Relay, 64 pairs, frames spread over other sessions: payload per server-CPU-second",
        "GB per CPU-s",
        true,
    );
    cost.method = "64 sources, 64 sinks; our relay and the peer server carry the frames of each source in turns to 8 \
        sinks over 512 streams, with credit; rivals have one sink per source. CPU time of the server's process around \
        whole deliveries, all bytes compared on arrival."
        .to_owned();
    let mut rate = Section::new(
        "relay-64-pairs-rate",
        "The same: payload per second (the load's one CPU is the limit)",
        "GB/s",
        true,
    );
    for (frame_bytes, column) in FRAMES {
        compare(bench, &contenders, shape, frame_bytes, &mut |contender, sample| {
            cost.figure(contender.name(), column).push(sample.clone().map(|s| s.per_cpu));
            rate.figure(contender.name(), column).push(sample.map(|s| s.per_second));
        })?;
    }
    report.sections.extend([cost, rate]);
    Ok(())
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
    running: Running,
    flow: Flow,
}

impl Lane {
    pub(super) fn start(
        bench: &Bench,
        contender: Contender,
        shape: Shape,
        frame_bytes: usize,
    ) -> Result<Self> {
        let running = Running::start(bench, contender)?;
        let flow = match contender {
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
    let session = || Session::connect(running.address, key, SecretKey::generate()?);
    let sessions = || (0..shape.pairs).map(|_| session()).collect::<Result<Vec<_>>>();
    let (mut sources, mut sinks) = (sessions()?, sessions()?);
    for stream in 0..shape.streams {
        for (at, source) in sources.iter_mut().enumerate() {
            dial(source, &mut sinks[(at + stream) % shape.pairs])?;
        }
    }
    let sources = sources.into_iter().map(|s| Source::with_credit(s.socket, s.credit)).collect();
    let sinks = sinks.into_iter().map(|s| Sink::with_grants(s.socket, shape.streams)).collect();
    Flow::new(sources, sinks, shape.streams, frame_bytes)
}

/// Connections to a rival, joined in pairs.
fn plain_flow(running: &Running, shape: Shape, frame_bytes: usize) -> Result<Flow> {
    let (mut sources, mut sinks) = (Vec::new(), Vec::new());
    for pair in 0..shape.pairs {
        sources.push(Source::without_credit(plain_connection(running, pair, false)?));
        sinks.push(Sink::without_grants(plain_connection(running, pair, true)?, shape.streams));
    }
    Flow::new(sources, sinks, shape.streams, frame_bytes)
}

/// A connection to a rival that has said which pair it belongs to.
pub(super) fn plain_connection(running: &Running, pair: usize, is_sink: bool) -> Result<TcpStream> {
    let mut socket = TcpStream::connect(running.address)?;
    socket.set_nodelay(true)?;
    socket.write_all(&rivals::hello(pair, is_sink))?;
    Ok(socket)
}
