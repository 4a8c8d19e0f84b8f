//! A stream that has left HTTP behind (101 Switching Protocols; RFC 9110 §7.8).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{BreakOff, pool::Conn};

/// The bytes behind a 101, in both directions: a web socket, say. What the peer sent right behind its
/// answer is read first. Dropping it closes the stream and frees its place among the client's streams; as long as it
/// lives it is never reclaimed, since nothing tells an idle conversation from a forgotten one.
pub struct Upgraded {
    io: TokioIo<hyper::upgrade::Upgraded>,
    conn: Conn,
}

impl std::fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upgraded").finish_non_exhaustive()
    }
}

impl Upgraded {
    pub(super) fn new(io: hyper::upgrade::Upgraded, mut conn: Conn) -> Self {
        conn.leave_http();
        Self { io: TokioIo::new(io), conn }
    }

    /// What makes its end a reset, for whoever gives it up in the middle.
    #[must_use]
    pub fn break_off(&self) -> Option<BreakOff> {
        self.conn.break_off()
    }
}

impl AsyncRead for Upgraded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
