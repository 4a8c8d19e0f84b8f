//! Plain proxies by hand on edge-triggered epoll: what the kernel allows when nobody looks at the bytes.

use std::{
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
};

use dmsg_bench::Result;
use rustix::{
    event::epoll::{self, EventData, EventFlags},
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
    pipe::{PipeFlags, SpliceFlags, pipe_with, splice},
};

use super::{COUNT_HELLO, HELLO_BYTES, Waiting};

/// Bytes of the copying proxy's buffer, one per direction.
const BUFFER_BYTES: usize = 64 * 1024;

/// Size asked for each pipe; above the default of 64 KiB, so that one splice can take what a socket has.
const PIPE_BYTES: usize = 256 * 1024;

/// Bytes of one splice.
const SPLICE_BYTES: usize = 256 * 1024;

/// Rounds that one direction may take before the others have their turn.
const ROUNDS_MAX: usize = 8;

/// What carries bytes from one socket to another.
pub(super) trait Carrier: Sized {
    fn new() -> Result<Self>;
    /// Takes bytes in; 0 at the end of the stream.
    fn fill(&mut self, from: &TcpStream) -> rustix::io::Result<usize>;
    /// Gives bytes out.
    fn empty(&mut self, to: &TcpStream) -> rustix::io::Result<usize>;
    fn held(&self) -> usize;
}

/// A buffer in user space.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Carrier for Buffer {
    fn new() -> Result<Self> {
        Ok(Self { bytes: vec![0; BUFFER_BYTES], start: 0, end: 0 })
    }

    fn fill(&mut self, from: &TcpStream) -> rustix::io::Result<usize> {
        self.end = recv(from, &mut self.bytes[..], RecvFlags::empty())?.0;
        self.start = 0;
        Ok(self.end)
    }

    fn empty(&mut self, to: &TcpStream) -> rustix::io::Result<usize> {
        let sent = send(to, &self.bytes[self.start..self.end], SendFlags::NOSIGNAL)?;
        self.start += sent;
        Ok(sent)
    }

    fn held(&self) -> usize {
        self.end - self.start
    }
}

/// A pipe in the kernel.
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

impl Carrier for Pipe {
    fn new() -> Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A smaller pipe works too; without privileges the sum of all pipes is limited.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE_BYTES);
        Ok(Self { read, write, held: 0 })
    }

    fn fill(&mut self, from: &TcpStream) -> rustix::io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        self.held = splice(from, None, &self.write, None, SPLICE_BYTES, flags)?;
        Ok(self.held)
    }

    fn empty(&mut self, to: &TcpStream) -> rustix::io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let sent = splice(&self.read, None, to, None, self.held, flags)?;
        self.held -= sent;
        Ok(sent)
    }

    fn held(&self) -> usize {
        self.held
    }
}

/// How a turn of a direction ended.
enum Turn {
    /// Nothing more to do until an event.
    Idle,
    /// There is more; others first.
    More,
    Over,
}

/// Moves until the kernel says stop.
fn pump<C: Carrier>(carrier: &mut C, from: &TcpStream, to: &TcpStream) -> Turn {
    for _ in 0..ROUNDS_MAX {
        while carrier.held() > 0 {
            match carrier.empty(to) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Turn::Idle,
                Err(_) => return Turn::Over,
            }
        }
        match carrier.fill(from) {
            Ok(0) => return Turn::Over,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Turn::Idle,
            Err(_) => return Turn::Over,
        }
    }
    Turn::More
}

/// Two connections and what is between them.
struct Pair<C> {
    ends: [TcpStream; 2],
    carriers: [C; 2],
    listed: bool,
    over: bool,
}

impl<C: Carrier> Pair<C> {
    /// Whether there is more to do.
    fn turn(&mut self) -> bool {
        let [one, other] = &self.ends;
        let [there, back] = &mut self.carriers;
        let turns = [pump(there, one, other), pump(back, other, one)];
        self.over = turns.iter().any(|turn| matches!(turn, Turn::Over));
        turns.iter().any(|turn| matches!(turn, Turn::More)) && !self.over
    }
}

const LISTENER: u64 = u64::MAX;

/// A proxy between the ends of pairs.
pub(super) fn serve<C: Carrier>(listener: &TcpListener) -> Result<()> {
    listener.set_nonblocking(true)?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let (mut waiting, mut pairs) = (Waiting::new(), Vec::<Option<Pair<C>>>::new());
    let mut turns: Vec<usize> = Vec::new();
    loop {
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 256];
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        let timeout = (!turns.is_empty()).then_some(&now);
        let (events, _) = match epoll::wait(&poll, &mut events, timeout) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        for event in events.iter() {
            let data = event.data.u64();
            if data == LISTENER {
                let Some((one, other)) = accept(listener, &mut waiting)? else { continue };
                let at = pairs.len();
                for end in [&one, &other] {
                    let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
                    epoll::add(&poll, end, EventData::new_u64(at as u64), flags)?;
                }
                let carriers = [C::new()?, C::new()?];
                pairs.push(Some(Pair { ends: [one, other], carriers, listed: false, over: false }));
                continue;
            }
            let at = usize::try_from(data)?;
            if let Some(Some(pair)) = pairs.get_mut(at)
                && !std::mem::replace(&mut pair.listed, true)
            {
                turns.push(at);
            }
        }
        for at in std::mem::take(&mut turns) {
            let Some(pair) = &mut pairs[at] else { continue };
            pair.listed = pair.turn();
            if pair.listed {
                turns.push(at);
            }
            if pair.over {
                pairs[at] = None;
            }
        }
    }
}

/// The next connection, and its partner if that came before.
fn accept(
    listener: &TcpListener,
    waiting: &mut Waiting<TcpStream>,
) -> Result<Option<(TcpStream, TcpStream)>> {
    let (socket, _) = listener.accept()?;
    socket.set_nonblocking(false)?;
    socket.set_nodelay(true)?;
    let mut hello = [0; HELLO_BYTES];
    recv(&socket, &mut hello, RecvFlags::WAITALL)?;
    socket.set_nonblocking(true)?;
    Ok(waiting.join(hello, socket))
}

/// One hop: every connection on its own, its bytes counted and dropped, or sent back. A connection whose hello says so is told
/// the count for each byte that it sends.
pub(super) fn serve_single(listener: &TcpListener, echoes: bool) -> Result<()> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut sockets: Vec<Option<(TcpStream, bool)>> = Vec::new();
    let (mut buffer, mut counted) = (vec![0; 4 * BUFFER_BYTES], 0_u64);
    loop {
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 256];
        let (events, _) = match epoll::wait(&poll, &mut events, None) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        for event in events.iter() {
            let data = event.data.u64();
            if data == LISTENER {
                let (socket, _) = listener.accept()?;
                let mut hello = [0; HELLO_BYTES];
                recv(&socket, &mut hello, RecvFlags::WAITALL)?;
                socket.set_nodelay(true)?;
                let data = EventData::new_u64(sockets.len() as u64);
                epoll::add(&poll, &socket, data, EventFlags::IN)?;
                sockets.push(Some((socket, hello == COUNT_HELLO)));
                continue;
            }
            let at = usize::try_from(data)?;
            let Some(Some((socket, asks))) = sockets.get(at) else { continue };
            let count = recv(socket, &mut buffer[..], RecvFlags::DONTWAIT).map_or(0, |got| got.0);
            if count == 0 {
                sockets[at] = None;
            } else if *asks {
                send(socket, &counted.to_be_bytes(), SendFlags::NOSIGNAL)?;
            } else {
                counted += count as u64;
                let mut rest = &buffer[..if echoes { count } else { 0 }];
                while !rest.is_empty() {
                    let Ok(sent) = send(socket, rest, SendFlags::NOSIGNAL) else { break };
                    rest = &rest[sent..];
                }
            }
        }
    }
}
