//! Small messages: one frame at a time, there and back.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use dmsg_bench::Result;
use rustix::{
    event::epoll::{self, EventData, EventFlags},
    io::Errno,
};

use super::{
    flow::{Frames, Piece},
    yamux::{self, Header, INITIAL_WINDOW_BYTES},
};

/// Payload of one message.
pub(crate) const MESSAGE_BYTES: usize = 64;

/// A conversation that stands still for this long is broken.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// One end of a stream, or of a plain connection.
#[derive(Debug)]
pub(crate) struct Talker {
    socket: TcpStream,
    frames: Frames,
    frame: Vec<u8>,
    id: u32,
    grants: bool,
    received: u64,
    owed: u64,
    out: Vec<u8>,
}

impl Talker {
    /// On the stream `id` of a session, or (`grants` false) on a connection to a rival.
    pub(crate) fn new(socket: TcpStream, id: u32, grants: bool) -> Self {
        let mut frame = Header::data(id, MESSAGE_BYTES).encode().to_vec();
        frame.extend((0..MESSAGE_BYTES).map(content));
        let (received, owed, out) = (0, 0, Vec::new());
        Self { socket, frames: Frames::default(), frame, id, grants, received, owed, out }
    }

    /// Sends a message.
    pub(crate) fn say(&mut self) -> Result<()> {
        Ok(self.socket.write_all(&self.frame)?)
    }

    /// Waits for a message, or sees what is there if the socket does not wait; returns how many are complete now.
    pub(crate) fn hear(&mut self) -> Result<u64> {
        let mut buffer = [0; 2048];
        let before = self.received / MESSAGE_BYTES as u64;
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err("the server closed a connection of the load".into()),
                Ok(count) => self.received(&buffer[..count])?,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(0),
                Err(error) => return Err(error.into()),
            }
            let heard = self.received / MESSAGE_BYTES as u64 - before;
            if heard > 0 {
                return Ok(heard);
            }
        }
    }

    fn received(&mut self, mut bytes: &[u8]) -> Result<()> {
        while let Some(piece) = self.frames.next(&mut bytes) {
            match piece {
                Piece::Body(_, body) => {
                    let at = self.received as usize;
                    let right = (at..).zip(body).all(|(at, b)| *b == content(at % MESSAGE_BYTES));
                    if !right {
                        return Err("a message has arrived with wrong bytes".into());
                    }
                    self.received += body.len() as u64;
                    self.owed += body.len() as u64;
                }
                Piece::Header(Header { kind: yamux::PING, flags, length, .. }) => {
                    if flags & yamux::SYN != 0 {
                        self.out.extend_from_slice(&Header::pong(length).encode());
                    }
                }
                Piece::Header(header) if header.flags & (yamux::RST | yamux::FIN) != 0 => {
                    return Err("the server ended a stream of the load".into());
                }
                Piece::Header(_) => {}
            }
        }
        if self.grants && self.owed >= INITIAL_WINDOW_BYTES / 2 {
            let delta = u32::try_from(std::mem::take(&mut self.owed))?;
            self.out.extend_from_slice(&Header::update(self.id, 0, delta).encode());
        }
        if !self.out.is_empty() {
            self.socket.write_all(&self.out)?;
            self.out.clear();
        }
        Ok(())
    }
}

fn content(at: usize) -> u8 {
    (at as u8).wrapping_mul(37).wrapping_add(11)
}

/// Round trips one after the other for `time`, in microseconds: `a` says, `b` answers. Without a `b` whoever is at the other end
/// of `a` answers.
pub(crate) fn ping_pong(
    a: &mut Talker,
    mut b: Option<&mut Talker>,
    time: Duration,
) -> Result<Vec<f64>> {
    let mut trips = Vec::new();
    let start = Instant::now();
    let mut last = start;
    while last < start + time {
        a.say()?;
        if let Some(b) = b.as_deref_mut() {
            b.hear()?;
            b.say()?;
        }
        a.hear()?;
        let now = Instant::now();
        trips.push((now - last).as_secs_f64() * 1e6);
        last = now;
    }
    Ok(trips)
}

/// Many pairs, each with one message under way: whoever hears one answers.
#[derive(Debug)]
pub(crate) struct Chat {
    talkers: Vec<Talker>,
    epoll: OwnedFd,
}

impl Chat {
    /// Of pairs of ends.
    pub(crate) fn new(pairs: Vec<(Talker, Talker)>) -> Result<Self> {
        let talkers: Vec<_> = pairs.into_iter().flat_map(|(a, b)| [a, b]).collect();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (at, talker) in (0..).zip(&talkers) {
            talker.socket.set_nonblocking(true)?;
            epoll::add(&epoll, &talker.socket, EventData::new_u64(at), EventFlags::IN)?;
        }
        Ok(Self { talkers, epoll })
    }

    /// Lets them talk for `time`, then waits until all is answered; returns how many messages were heard.
    pub(crate) fn run(&mut self, time: Duration) -> Result<u64> {
        let start = Instant::now();
        let (mut heard, mut open) = (0, 0);
        for first in self.talkers.iter_mut().step_by(2) {
            first.say()?;
            open += 1;
        }
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 256];
        let timeout =
            rustix::time::Timespec { tv_sec: i64::try_from(STALL_TIMEOUT.as_secs())?, tv_nsec: 0 };
        while open > 0 {
            let (ready, _) = match epoll::wait(&self.epoll, &mut events, Some(&timeout)) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            if ready.is_empty() {
                return Err(format!("{open} messages were sent and have not arrived").into());
            }
            let goes_on = Instant::now() < start + time;
            for event in ready.iter() {
                let talker = &mut self.talkers[usize::try_from(event.data.u64())?];
                let count = talker.hear()?;
                heard += count;
                open -= count;
                if goes_on && count > 0 {
                    talker.say()?;
                    open += 1;
                }
            }
        }
        Ok(heard)
    }
}
