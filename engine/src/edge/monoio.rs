//! The traits of monoio: `AsyncReadRent`, `AsyncWriteRent`, and `Stream` for listeners.
//!
//! Dropping the future of a read or write drops the buffer that was lent, as everywhere in monoio;
//! no byte of the stream is lost by it, since a read that is not done has taken none.

use std::{future::poll_fn, io, pin::Pin};

use monoio::{
    BufResult,
    buf::{IoBuf, IoBufMut, IoVecBuf, IoVecBufMut},
    io::{AsyncReadRent, AsyncWriteRent, stream},
};
use tokio::io::AsyncWrite;

use crate::{
    client::{DialError, Listener, Stream},
    driver::owned,
};

impl AsyncReadRent for Stream {
    /// Reads what is there, at most one buffer full; 0 is the peer's end of the stream.
    async fn read<B: IoBufMut>(&mut self, mut buf: B) -> BufResult<usize, B> {
        let mut lent = owned::Lent::default();
        let read = poll_fn(|cx| lent.fill_monoio(&mut buf, |out| self.poll_fill(cx, out))).await;
        (read, buf)
    }

    /// Reads into the first buffer that has room.
    async fn readv<B: IoVecBufMut>(&mut self, mut buf: B) -> BufResult<usize, B> {
        let mut lent = owned::Lent::default();
        let read =
            poll_fn(|cx| lent.fill_monoio_vectored(&mut buf, |out| self.poll_fill(cx, out))).await;
        (read, buf)
    }
}

impl AsyncWriteRent for Stream {
    /// Seals what fits one step, close to 64 KiB at most, and hands it to the engine.
    async fn write<B: IoBuf>(&mut self, buf: B) -> BufResult<usize, B> {
        let data = owned::monoio_bytes(&buf);
        let written = poll_fn(|cx| self.poll_seal(cx, data)).await;
        (written, buf)
    }

    /// Writes of the first buffer that is not empty.
    async fn writev<B: IoVecBuf>(&mut self, buf: B) -> BufResult<usize, B> {
        let data = owned::monoio_first_bytes(&buf);
        let written = poll_fn(|cx| self.poll_seal(cx, data)).await;
        (written, buf)
    }

    async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| AsyncWrite::poll_flush(Pin::new(&mut *self), cx)).await
    }

    /// Sends FIN behind everything written. Reading goes on.
    async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|cx| AsyncWrite::poll_shutdown(Pin::new(&mut *self), cx)).await
    }
}

impl stream::Stream for Listener {
    type Item = Result<Stream, DialError>;

    /// The next stream; `None` when the client is closed.
    async fn next(&mut self) -> Option<Self::Item> {
        match self.accept().await {
            Err(DialError::Closed) => None,
            accepted => Some(accepted),
        }
    }
}
