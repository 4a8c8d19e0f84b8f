//! End to end: our client to our client, stream crypto included, beside what the AEAD alone gives.
//!
//! ```text
//!   source (a child) ── sealed frames ──▶ server ──▶ sink (a child): opens, compares, counts
//!          ◀─────────────────────────── count ──────
//! ```

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use dmsg_bench::{
    Result, cpu,
    gate::Gated,
    party::{self, Party},
    report::{Report, Section},
};
use dmsg_engine::{
    client::Client,
    identity::PublicKey,
    wire::{Addr, Port},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    Bench,
    contender::{Contender, PeerServer, Running},
    load::pattern::Pattern,
};

/// What one write hands over.
const WRITE_BYTES: usize = 64 * 1024;

/// Plaintext of a full frame, about.
const AEAD_BYTES: usize = 4096;

const PORT: u16 = 80;

/// Bulk through two clients and a server.
pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut section = Section::new(
        "end-to-end",
        "End to end with stream crypto, one stream: payload per CPU-second of each party",
        "GB per CPU-s",
        true,
    );
    section.method = "Client, server and client in three processes; the clients share the load's CPU. All bytes are compared by \
        the receiving client. \"AEAD alone\" seals and opens 4 KiB with ChaCha20-Poly1305 on the load's CPU, no more."
        .to_owned();
    let mut rate = Section::new("end-to-end-rate", "The same: payload per second", "GB/s", true);
    rate.method = "From the same runs; both clients share one CPU.".to_owned();
    let servers = [Contender::URING, Contender::EPOLL, Contender::Peer];
    let mut lanes = Vec::new();
    for contender in Contender::taking_part(bench, &servers) {
        let running = Running::start(bench, contender)?;
        lanes.push(Lane::start(bench, running)?);
    }
    let bytes = if bench.quick { 64 << 20 } else { 256 << 20 };
    for _ in 0..bench.repeats {
        for lane in &mut lanes {
            let name = lane.running.contender.name();
            let sample = bench.gate.measure(|| lane.transfer(bytes))?;
            let Transfer { source, sink, server, time } = sample.value;
            let gigabytes = bytes as f64 / 1e9;
            let mut push = |column: &str, cpu: Duration| {
                let value = gigabytes / cpu.as_secs_f64();
                section.figure(name, column).push(Gated { value, verdict: sample.verdict });
            };
            push("sealing client", source);
            push("opening client", sink);
            push("server", server);
            let value = gigabytes / time.as_secs_f64();
            rate.figure(name, "payload").push(Gated { value, verdict: sample.verdict });
        }
        let sample = bench.gate.measure(|| Ok(aead_alone(bench.time)))?;
        let [seal, open] = sample.value;
        let verdict = sample.verdict;
        section.figure(AEAD, "sealing client").push(Gated { value: seal, verdict });
        section.figure(AEAD, "opening client").push(Gated { value: open, verdict });
    }
    report.sections.extend([section, rate]);
    Ok(())
}

/// The row of the AEAD in the section.
pub(super) const AEAD: &str = "AEAD alone";

/// GB per CPU-second of sealing, and of opening.
fn aead_alone(time: Duration) -> [f64; 2] {
    let Ok(key) = UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]) else { return [f64::NAN; 2] };
    let key = LessSafeKey::new(key);
    let nonce = || Nonce::assume_unique_for_key([1; 12]);
    let mut sealed = vec![5; AEAD_BYTES];
    let tag = key.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut sealed);
    if let Ok(tag) = tag {
        sealed.extend_from_slice(tag.as_ref());
    }
    let rate = |work: &mut dyn FnMut()| {
        let (start, mut used, mut count) = (cpu::thread_time(), Duration::ZERO, 0_u64);
        while used < time / 2 {
            (0..32).for_each(|_| work());
            count += 32;
            used = cpu::thread_time() - start;
        }
        (count * AEAD_BYTES as u64) as f64 / 1e9 / used.as_secs_f64()
    };
    let mut plain = vec![5; AEAD_BYTES];
    let seal = rate(&mut || {
        let _ = black_box(key.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut plain));
    });
    let mut work = sealed.clone();
    let open = rate(&mut || {
        work.copy_from_slice(&sealed);
        let _ =
            black_box(key.open_in_place(nonce(), Aad::empty(), &mut work).map(|plain| plain.len()));
    });
    [seal, open]
}

/// CPU time of the parties, and how long it took.
#[derive(Debug, Clone, Copy)]
struct Transfer {
    source: Duration,
    sink: Duration,
    server: Duration,
    time: Duration,
}

struct Lane {
    running: Running,
    source: Party,
    sink: Party,
}

impl Lane {
    fn start(bench: &Bench, running: Running) -> Result<Self> {
        let server = format!("{}@{}", running.server_key()?, running.address);
        let cpu = bench.cpus.load.to_string();
        let sink = Party::spawn(&["party", "--cpu", &cpu, "--sink", &server])?;
        let key = sink.word(0).to_owned();
        let source = Party::spawn(&["party", "--cpu", &cpu, "--source", &server, "--to", &key])?;
        Ok(Self { running, source, sink })
    }

    /// Has the source send `bytes`, and hears from the sink, by way of the source, that they have come.
    fn transfer(&mut self, bytes: u64) -> Result<Transfer> {
        let parties = |lane: &Self| -> Result<[Duration; 3]> {
            Ok([lane.source.cpu_time()?, lane.sink.cpu_time()?, lane.running.cpu_time()?])
        };
        let (start, before) = (Instant::now(), parties(self)?);
        let answer = self.source.ask(&bytes.to_string())?;
        let time = start.elapsed();
        if answer != bytes.to_string() {
            return Err(format!("{bytes} bytes were sent; the source says {answer:?}").into());
        }
        let after = parties(self)?;
        let [source, sink, server] = [0, 1, 2].map(|at| after[at] - before[at]);
        Ok(Transfer { source, sink, server, time })
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// In a child: accepts streams; each begins with its length, and is answered with how much of it was right.
pub(super) fn sink(server: &PeerServer) -> Result<()> {
    party::exit_when_orphaned();
    let client = server.client(true)?;
    runtime()?.block_on(async {
        let mut listener = client.listen(Port::new(PORT).ok_or("no such port")?)?;
        client.ready().await?;
        party::ready(&client.public_key().to_string())?;
        let (pattern, mut buffer) = (Pattern::new(AEAD_BYTES), vec![0; WRITE_BYTES]);
        loop {
            let mut stream = listener.accept().await?;
            let length = stream.read_u64().await?;
            let mut received = 0;
            while received < length {
                let count = stream.read(&mut buffer).await?;
                if count == 0 || !pattern.matches(received, &buffer[..count]) {
                    break;
                }
                received += count as u64;
            }
            stream.write_u64(received).await?;
            stream.shutdown().await?;
        }
    })
}

/// In a child: sends as much as each line of stdin says, and prints what the sink has counted.
pub(super) fn source(server: &PeerServer, to: PublicKey) -> Result<()> {
    let client = server.client(true)?;
    let runtime = runtime()?;
    runtime.block_on(client.ready())?;
    party::ready("")?;
    let pattern = Pattern::new(AEAD_BYTES).template_of(WRITE_BYTES);
    for line in std::io::stdin().lines() {
        let length: u64 = line?.trim().parse()?;
        let received = runtime.block_on(send(&client, to, length, &pattern))?;
        party::say(&received.to_string())?;
    }
    Ok(())
}

async fn send(client: &Client, to: PublicKey, length: u64, pattern: &[u8]) -> Result<u64> {
    let port = Port::new(PORT).ok_or("no such port")?;
    let mut stream = client.dial(Addr { key: to, port }).await?;
    stream.write_u64(length).await?;
    let mut left = length;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(pattern.len());
        stream.write_all(&pattern[..count]).await?;
        left -= count as u64;
    }
    stream.flush().await?;
    Ok(stream.read_u64().await?)
}
