//! Bulk load: sources that send as fast as credit and sockets allow, sinks that verify, grant and count.
//!
//! ```text
//!   Source ──template, round and round──▶ [ what is measured ] ──▶ Sink: parse, compare, count
//!      ◀──────────── credit ────────────                      ◀── grants (where there are windows)
//! ```
//!
//! One thread with edge-triggered epoll runs all of them. Sources take turns, and no more is under way than a flow allows: on
//! two CPUs the load is slower than any relay, so without such a bound every queue between the two is full all the time. Sinks
//! come first, so that what is under way stays in the caches. A run sends for a while, stops at a frame's end, and waits until
//! every byte has arrived: what is counted was delivered, and the CPU time around the whole is what its delivery cost.

use std::{
    io,
    net::TcpStream,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use dmsg_bench::Result;
use rustix::{
    event::epoll::{self, EventData, EventFlags},
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};

use super::{
    pattern::{Pattern, stream_of},
    yamux::{self, HEADER_BYTES, Header, INITIAL_WINDOW_BYTES},
};

/// Bytes of one receive call at most.
const READ_BYTES: usize = 256 * 1024;

/// Bytes of one send call at most, and of one source's turn.
const SEND_BYTES: usize = 64 * 1024;

/// A sink grants when it has taken this much of a stream, as Go's yamux does: half a window.
const GRANT_BYTES: u64 = INITIAL_WINDOW_BYTES / 2;

/// A flow that stands still for this long is broken.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// What of a socket's events concerns it.
#[derive(Debug, Default)]
struct Ready {
    readable: bool,
    writable: bool,
}

/// Parses what comes on a connection, cut anywhere.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    partial: [u8; HEADER_BYTES],
    held: usize,
    /// The stream of the data frame at hand, and what is missing of its body.
    stream: usize,
    left: usize,
}

/// What came next.
pub(crate) enum Piece<'a> {
    Header(Header),
    Body(usize, &'a [u8]),
}

impl Frames {
    #[inline]
    pub(crate) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Piece<'a>> {
        if bytes.is_empty() {
            return None;
        }
        if self.left > 0 {
            let (body, rest) = bytes.split_at(self.left.min(bytes.len()));
            *bytes = rest;
            self.left -= body.len();
            return Some(Piece::Body(self.stream, body));
        }
        let header = match bytes.split_first_chunk::<HEADER_BYTES>() {
            Some((header, rest)) if self.held == 0 => {
                *bytes = rest;
                Header::decode(header)
            }
            _ => {
                let count = (HEADER_BYTES - self.held).min(bytes.len());
                self.partial[self.held..self.held + count].copy_from_slice(&bytes[..count]);
                *bytes = &bytes[count..];
                self.held += count;
                if self.held < HEADER_BYTES {
                    return None;
                }
                self.held = 0;
                Header::decode(&self.partial)
            }
        };
        self.left = header.body_bytes();
        self.stream = stream_of(header.id);
        Some(Piece::Header(header))
    }
}

/// Sends the template.
#[derive(Debug)]
pub(crate) struct Source {
    socket: TcpStream,
    ready: Ready,
    frames: Frames,
    answers: Vec<u8>,
    /// Frames each stream may still send in all; `None` where nothing limits it.
    allowed: Option<Vec<u64>>,
    /// Credit that has not become a whole frame.
    credit: Vec<u64>,
    /// Wire bytes sent, in all runs; the place in the template follows.
    sent: u64,
    /// Wire bytes that may be sent.
    limit: u64,
}

impl Source {
    /// Over a session with `credit` left on each of its streams.
    pub(crate) fn with_credit(socket: TcpStream, credit: Vec<u64>) -> Self {
        let allowed = Some(vec![0; credit.len()]);
        Self { allowed, credit, ..Self::without_credit(socket) }
    }

    /// Over a connection without windows.
    pub(crate) fn without_credit(socket: TcpStream) -> Self {
        Self {
            socket,
            ready: Ready { readable: true, writable: true },
            frames: Frames::default(),
            answers: Vec::new(),
            allowed: None,
            credit: Vec::new(),
            sent: 0,
            limit: u64::MAX,
        }
    }

    /// Brings `limit` up to date: frames go out in turns, so the stream with the least credit decides.
    fn update_limit(&mut self, frame_bytes: usize) {
        let Some(allowed) = &mut self.allowed else { return };
        let streams = allowed.len() as u64;
        for (credit, allowed) in self.credit.iter_mut().zip(allowed.iter_mut()) {
            *allowed += *credit / frame_bytes as u64;
            *credit %= frame_bytes as u64;
        }
        let turns = (0..).zip(&*allowed).map(|(stream, allowed)| allowed * streams + stream);
        self.limit = turns.min().unwrap_or(0) * (frame_bytes + HEADER_BYTES) as u64;
    }

    fn received(&mut self, mut bytes: &[u8]) -> Result<()> {
        while let Some(piece) = self.frames.next(&mut bytes) {
            let Piece::Header(header) = piece else {
                return Err("the server sent data to a source".into());
            };
            if header.flags & (yamux::RST | yamux::FIN) != 0 && header.kind != yamux::PING {
                return Err("the server ended the stream of a source".into());
            }
            match header.kind {
                yamux::WINDOW_UPDATE => {
                    if let Some(credit) = self.credit.get_mut(stream_of(header.id)) {
                        *credit += u64::from(header.length);
                    }
                }
                yamux::PING if header.flags & yamux::SYN != 0 => {
                    self.answers.extend_from_slice(&Header::pong(header.length).encode());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Verifies and counts.
#[derive(Debug)]
pub(crate) struct Sink {
    socket: TcpStream,
    ready: Ready,
    frames: Frames,
    answers: Vec<u8>,
    grants: bool,
    /// Per stream: bytes received, and bytes of them that were not granted back.
    streams: Vec<(u64, u64)>,
    /// The ids of its streams are even when a server opened them.
    id_offset: u32,
}

impl Sink {
    /// Over a session whose server opened `streams` streams to us.
    pub(crate) fn with_grants(socket: TcpStream, streams: usize) -> Self {
        Self { grants: true, id_offset: 1, ..Self::without_grants(socket, streams) }
    }

    /// Over a connection without windows.
    pub(crate) fn without_grants(socket: TcpStream, streams: usize) -> Self {
        Self {
            socket,
            ready: Ready { readable: true, writable: true },
            frames: Frames::default(),
            answers: Vec::new(),
            grants: false,
            streams: vec![(0, 0); streams],
            id_offset: 0,
        }
    }

    /// Returns how many payload bytes there were.
    fn received(&mut self, pattern: &Pattern, mut bytes: &[u8]) -> Result<u64> {
        let mut count = 0;
        while let Some(piece) = self.frames.next(&mut bytes) {
            match piece {
                Piece::Body(stream, body) => {
                    let Some((received, owed)) = self.streams.get_mut(stream) else {
                        return Err(format!("data on stream {stream}, which nobody opened").into());
                    };
                    if !pattern.matches(*received, body) {
                        return Err(format!("wrong bytes at {received} of stream {stream}").into());
                    }
                    *received += body.len() as u64;
                    *owed += body.len() as u64;
                    count += body.len() as u64;
                    if self.grants && *owed >= GRANT_BYTES {
                        let delta = u32::try_from(std::mem::take(owed))?;
                        let id = super::pattern::id_of(stream) + self.id_offset;
                        self.answers.extend_from_slice(&Header::update(id, 0, delta).encode());
                    }
                }
                Piece::Header(header) if header.kind == yamux::PING => {
                    if header.flags & yamux::SYN != 0 {
                        self.answers.extend_from_slice(&Header::pong(header.length).encode());
                    }
                }
                Piece::Header(header) if header.flags & (yamux::RST | yamux::FIN) != 0 => {
                    return Err(format!("the server ended stream {} of a sink", header.id).into());
                }
                Piece::Header(_) => {}
            }
        }
        Ok(count)
    }
}

/// What a run delivered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Delivered {
    /// Payload bytes that arrived, all compared.
    pub(crate) bytes: u64,
    /// From the first send to the last arrival.
    pub(crate) time: Duration,
}

/// Sources and sinks on one thread.
#[derive(Debug)]
pub(crate) struct Flow {
    sources: Vec<Source>,
    sinks: Vec<Sink>,
    epoll: std::os::fd::OwnedFd,
    pattern: Pattern,
    template: Vec<u8>,
    frame_bytes: usize,
    /// Payload that may be under way in all.
    in_flight_max: u64,
    /// The source whose turn is next.
    turn: usize,
    buffer: Vec<u8>,
}

impl Flow {
    /// Of connections that are up, with `streams` streams in each.
    pub(crate) fn new(
        sources: Vec<Source>,
        sinks: Vec<Sink>,
        streams: usize,
        frame_bytes: usize,
        in_flight_max: u64,
    ) -> Result<Self> {
        let pattern = Pattern::new(frame_bytes);
        let template = pattern.template(streams, frame_bytes);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let sockets = sources.iter().map(|source| &source.socket);
        for (at, socket) in (0..).zip(sockets.chain(sinks.iter().map(|sink| &sink.socket))) {
            socket.set_nonblocking(true)?;
            let events = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
            epoll::add(&epoll, socket, EventData::new_u64(at), events)?;
        }
        let buffer = vec![0; READ_BYTES];
        Ok(Self {
            sources,
            sinks,
            epoll,
            pattern,
            template,
            frame_bytes,
            in_flight_max,
            turn: 0,
            buffer,
        })
    }

    /// Sends for `time`, then waits for all of it.
    pub(crate) fn run(&mut self, time: Duration) -> Result<Delivered> {
        let start = Instant::now();
        let mut delivered = 0;
        let mut stop_at: Option<Vec<u64>> = None;
        let mut moved_at = start;
        let before = self.sent_payload();
        loop {
            let mut moved = 0;
            for at in 0..self.sinks.len() {
                moved += self.drain_sink(at)?;
            }
            delivered += moved;
            let mut busy = moved > 0;
            let mut under_way = self.sent_payload() - before - delivered;
            for _ in 0..self.sources.len() {
                if stop_at.is_none() && under_way >= self.in_flight_max {
                    break;
                }
                let at = self.turn;
                self.turn = (at + 1) % self.sources.len();
                let stop = stop_at.as_ref().map_or(u64::MAX, |stops| stops[at]);
                let sent = self.feed_source(at, stop)?;
                busy |= sent > 0;
                under_way += sent;
            }
            let now = Instant::now();
            if busy {
                moved_at = now;
            } else if now > moved_at + STALL_TIMEOUT {
                let sent = self.sent_payload() - before;
                return Err(
                    format!("{sent} bytes were sent, {delivered} arrived, then none").into()
                );
            }
            if stop_at.is_none() && now >= start + time {
                stop_at = Some(self.ends_of_frames());
            }
            let done = stop_at.as_ref().is_some_and(|stops| {
                self.sources.iter().zip(stops).all(|(source, stop)| source.sent == *stop)
                    && delivered == self.sent_payload() - before
            });
            if done {
                return Ok(Delivered { bytes: delivered, time: now - start });
            }
            self.wait(busy)?;
        }
    }

    /// Where each source stops: at the end of the frame it is in.
    fn ends_of_frames(&self) -> Vec<u64> {
        let frame = (self.frame_bytes + HEADER_BYTES) as u64;
        self.sources.iter().map(|source| source.sent.next_multiple_of(frame)).collect()
    }

    fn sent_payload(&self) -> u64 {
        let frame = (self.frame_bytes + HEADER_BYTES) as u64;
        let payload = |source: &Source| {
            let part = (source.sent % frame).saturating_sub(HEADER_BYTES as u64);
            source.sent / frame * self.frame_bytes as u64 + part
        };
        self.sources.iter().map(payload).sum()
    }

    fn drain_sink(&mut self, at: usize) -> Result<u64> {
        let sink = &mut self.sinks[at];
        if !sink.ready.readable && sink.answers.is_empty() {
            return Ok(0);
        }
        let mut count = 0;
        if sink.ready.readable {
            let got = read(&sink.socket, &mut self.buffer, &mut sink.ready)?;
            count = sink.received(&self.pattern, &self.buffer[..got])?;
        }
        write_answers(&sink.socket, &mut sink.answers, &mut sink.ready)?;
        Ok(count)
    }

    /// One turn of a source; returns the wire bytes that it sent.
    fn feed_source(&mut self, at: usize, stop: u64) -> Result<u64> {
        let source = &mut self.sources[at];
        if source.ready.readable {
            let got = read(&source.socket, &mut self.buffer, &mut source.ready)?;
            source.received(&self.buffer[..got])?;
        }
        if source.sent >= source.limit.min(stop) || source.allowed.is_some() && source.sent == 0 {
            source.update_limit(self.frame_bytes);
        }
        let mut room = source.limit.min(stop).saturating_sub(source.sent);
        if !source.answers.is_empty() {
            // Between two frames, or the server would take it for payload.
            let frame = (self.frame_bytes + HEADER_BYTES) as u64;
            room = room.min((frame - source.sent % frame) % frame);
            if room == 0 {
                write_answers(&source.socket, &mut source.answers, &mut source.ready)?;
            }
        }
        if !source.ready.writable || room == 0 {
            return Ok(0);
        }
        let place = (source.sent % self.template.len() as u64) as usize;
        let count = (self.template.len() - place).min(SEND_BYTES);
        let count = count.min(usize::try_from(room).unwrap_or(usize::MAX));
        let chunk = &self.template[place..place + count];
        let sent = write(&source.socket, chunk, &mut source.ready)?;
        source.sent += sent as u64;
        Ok(sent as u64)
    }

    fn wait(&mut self, busy: bool) -> Result<()> {
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 256];
        let timeout = if busy { 0 } else { 100_000_000 };
        let timeout = rustix::time::Timespec { tv_sec: 0, tv_nsec: timeout };
        let (events, _) = match epoll::wait(&self.epoll, &mut events, Some(&timeout)) {
            Err(Errno::INTR) => return Ok(()),
            other => other?,
        };
        for event in events.iter() {
            let at = usize::try_from(event.data.u64())?;
            let ready = match self.sources.get_mut(at) {
                Some(source) => &mut source.ready,
                None => &mut self.sinks[at - self.sources.len()].ready,
            };
            let flags = event.flags;
            let error = flags.intersects(EventFlags::ERR | EventFlags::HUP);
            ready.readable |= flags.contains(EventFlags::IN) || error;
            ready.writable |= flags.contains(EventFlags::OUT) || error;
        }
        Ok(())
    }
}

fn read(socket: impl AsFd, buffer: &mut [u8], ready: &mut Ready) -> Result<usize> {
    match recv(socket, &mut *buffer, RecvFlags::empty()) {
        Ok((0, _)) => Err("the server closed a connection of the load".into()),
        Ok((count, _)) => {
            // A short read has emptied the socket; the next arrival is a new edge.
            ready.readable = count == buffer.len();
            Ok(count)
        }
        Err(Errno::AGAIN) => {
            ready.readable = false;
            Ok(0)
        }
        Err(Errno::INTR) => Ok(0),
        Err(error) => Err(lost(error)),
    }
}

fn write(socket: impl AsFd, bytes: &[u8], ready: &mut Ready) -> Result<usize> {
    match send(socket, bytes, SendFlags::NOSIGNAL) {
        Ok(count) => {
            ready.writable = count == bytes.len();
            Ok(count)
        }
        Err(Errno::AGAIN) => {
            ready.writable = false;
            Ok(0)
        }
        Err(Errno::INTR) => Ok(0),
        Err(error) => Err(lost(error)),
    }
}

fn write_answers(socket: impl AsFd, answers: &mut Vec<u8>, ready: &mut Ready) -> Result<()> {
    if ready.writable && !answers.is_empty() {
        let sent = write(socket, answers, ready)?;
        answers.drain(..sent);
    }
    Ok(())
}

fn lost(error: Errno) -> dmsg_bench::Error {
    format!("a connection of the load broke: {}", io::Error::from(error)).into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        thread,
    };

    use super::*;

    /// A flow through a thread that copies, and changes the byte at `wrong_at`.
    fn flow_through(wrong_at: Option<usize>) -> Result<Delivered> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (source, mut from) = (connect(), listener.accept().unwrap().0);
        let (sink, mut to) = (connect(), listener.accept().unwrap().0);
        let copier = thread::spawn(move || {
            let (mut buffer, mut copied) = ([0; 10_007], 0);
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                if let Some(at) = wrong_at.filter(|at| (copied..copied + count).contains(at)) {
                    buffer[at - copied] ^= 1;
                }
                copied += count;
                if to.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
        });
        let (sources, sinks) = (Source::without_credit(source), Sink::without_grants(sink, 3));
        let mut flow = Flow::new(vec![sources], vec![sinks], 3, 1024, 1 << 20)?;
        let delivered = flow.run(Duration::from_millis(20));
        drop(flow);
        copier.join().unwrap();
        delivered
    }

    #[test]
    fn all_that_was_sent_is_counted_once_it_has_arrived() {
        let delivered = flow_through(None).unwrap();
        assert!(delivered.bytes > 0 && delivered.bytes.is_multiple_of(1024), "{delivered:?}");
    }

    #[test]
    fn one_changed_byte_of_payload_is_found() {
        let error = flow_through(Some(20 * (1024 + HEADER_BYTES) + 100)).unwrap_err();
        assert!(error.to_string().contains("wrong bytes"), "{error}");
    }
}
