//! Ends that say that something is missing.
//!
//! A stream that is dropped ends like one whose sender was done, so its peer takes what came for the whole. Where nothing else
//! says that a part is missing (a tunnel, a body that ends with its connection), the end has to be a reset: whoever joins two
//! streams breaks one off when the other broke.

use std::{
    fmt, io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Makes the end of one stream a reset. The stream itself may be wrapped and out of reach.
#[derive(Clone)]
pub struct BreakOff(Arc<dyn Fn() + Send + Sync>);

impl BreakOff {
    /// `how` runs on the thread of whoever learns of the break, so it must not wait.
    pub fn new(how: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(how))
    }

    /// From now on the stream ends by a reset.
    pub fn now(&self) {
        (self.0)();
    }
}

impl fmt::Debug for BreakOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BreakOff")
    }
}

/// A TCP connection whose end can be made a reset.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    is_broken: Arc<AtomicBool>,
}

impl Socket {
    /// Wraps a connection.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, is_broken: Arc::default() }
    }

    /// What makes its end a reset.
    #[must_use]
    pub fn break_off(&self) -> BreakOff {
        let is_broken = Arc::clone(&self.is_broken);
        BreakOff::new(move || is_broken.store(true, Relaxed))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.is_broken.load(Relaxed) {
            // What the kernel has not sent yet is lost with it; the peer has a part either way, and knows.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl Connection for Socket {
    /// Responses on it carry its [`BreakOff`] among their extensions.
    fn connected(&self) -> Connected {
        Connected::new().extra(self.break_off())
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
