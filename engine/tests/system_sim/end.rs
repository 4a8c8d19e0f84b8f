//! One end of a stream: writes a pattern that its position gives, and checks what it reads against it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
};

use dmsg_engine::client::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Whether a task was woken since it last waited.
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

impl Flag {
    fn new() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(true)))
    }

    fn take(&self) -> bool {
        self.0.swap(false, Relaxed)
    }
}

pub struct End {
    stream: Stream,
    /// The resident that holds it.
    pub owner: usize,
    /// What both ends know: the address of the one who dialled.
    pub name: (u8, u16),
    pub dialled: bool,
    pub written: u64,
    pub read: u64,
    /// Bytes still to be written.
    to_write: u64,
    /// Reads nothing for now.
    pub stalled: bool,
    closing: bool,
    pub closed: bool,
    pub ended: bool,
    pub broken: Option<std::io::Error>,
    reader: Arc<Flag>,
    writer: Arc<Flag>,
}

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, dialled, written, read, broken, .. } = self;
        write!(f, "end of {name:?} (dialled {dialled}, wrote {written}, read {read}, {broken:?})")
    }
}

impl End {
    pub fn new(stream: Stream, owner: usize, dialled: bool) -> Self {
        let address = if dialled { stream.local_addr() } else { stream.remote_addr() };
        Self {
            name: (address.key.as_bytes()[32], address.port.get()),
            stream,
            owner,
            dialled,
            written: 0,
            read: 0,
            to_write: 0,
            stalled: false,
            closing: false,
            closed: false,
            ended: false,
            broken: None,
            reader: Flag::new(),
            writer: Flag::new(),
        }
    }

    pub fn write(&mut self, bytes: u64) {
        if !self.closing {
            self.to_write += bytes;
            self.writer.0.store(true, Relaxed);
        }
    }

    /// FIN behind what is to be written.
    pub fn close(&mut self) {
        if !std::mem::replace(&mut self.closing, true) {
            self.writer.0.store(true, Relaxed);
        }
    }

    pub fn unstall(&mut self) {
        if std::mem::take(&mut self.stalled) {
            self.reader.0.store(true, Relaxed);
        }
    }

    pub fn is_over(&self) -> bool {
        self.broken.is_some() || (self.ended && self.closed)
    }

    /// Does what it was woken for.
    pub fn poll(&mut self) {
        if self.broken.is_none() && !self.ended && !self.stalled && self.reader.take() {
            self.poll_read();
        }
        if self.broken.is_none() && !self.closed && self.writer.take() {
            self.poll_write();
        }
    }

    fn pattern(&self, by_dialler: bool, at: u64) -> u8 {
        let name = u64::from(self.name.0) << 16 | u64::from(self.name.1);
        let mixed = (name ^ u64::from(by_dialler) << 40)
            .wrapping_add(at / 7)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as u8 ^ at as u8
    }

    fn poll_read(&mut self) {
        let waker = Waker::from(Arc::clone(&self.reader));
        let mut memory = [0; 9000];
        loop {
            let mut buffer = ReadBuf::new(&mut memory);
            let cx = &mut Context::from_waker(&waker);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => return,
                Poll::Ready(Err(error)) => return self.broken = Some(error),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return self.ended = true,
                Poll::Ready(Ok(())) => {
                    for (at, &byte) in (self.read..).zip(buffer.filled()) {
                        let expected = self.pattern(!self.dialled, at);
                        assert_eq!(byte, expected, "byte {at} of stream {:?}", self.name);
                    }
                    self.read += buffer.filled().len() as u64;
                }
            }
        }
    }

    fn poll_write(&mut self) {
        let waker = Waker::from(Arc::clone(&self.writer));
        let cx = &mut Context::from_waker(&waker);
        while self.to_write > 0 {
            let end = self.written + self.to_write.min(20_000);
            let bytes: Vec<u8> =
                (self.written..end).map(|at| self.pattern(self.dialled, at)).collect();
            match Pin::new(&mut self.stream).poll_write(cx, &bytes) {
                Poll::Pending => return,
                Poll::Ready(Err(error)) => return self.broken = Some(error),
                Poll::Ready(Ok(count)) => {
                    self.written += count as u64;
                    self.to_write -= count as u64;
                }
            }
        }
        if self.closing {
            match Pin::new(&mut self.stream).poll_shutdown(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.closed = true,
                Poll::Ready(Err(error)) => self.broken = Some(error),
            }
        }
    }
}
