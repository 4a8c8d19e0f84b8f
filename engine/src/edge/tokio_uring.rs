//! Reads and writes with the owned buffers of tokio-uring, as its own sockets and files have them.
//!
//! tokio-uring has no traits for streams, only methods with the same names on each of its types; so
//! [`OwnedStream`] gives a [`Stream`] those methods. A [`Listener`](crate::client::Listener) needs
//! nothing: its `accept` works on every runtime.

use std::{
    future::{Future, poll_fn},
    io,
};

use tokio_uring::{
    BufResult,
    buf::{BoundedBuf, BoundedBufMut},
};

use crate::{client::Stream, driver::owned};

/// The methods of tokio-uring's own streams. Dropping a future drops the buffer that was lent to
/// it; a read that is not done has taken no byte of the stream.
pub trait OwnedStream {
    /// Reads what is there, at most one buffer full; 0 is the peer's end of the stream.
    fn read_owned<B: BoundedBufMut>(&mut self, buf: B)
    -> impl Future<Output = BufResult<usize, B>>;

    /// Writes a part, close to 64 KiB at most, and tells how much.
    fn write_owned<B: BoundedBuf>(&mut self, buf: B) -> impl Future<Output = BufResult<usize, B>>;

    /// Writes all of it.
    fn write_all_owned<B: BoundedBuf>(&mut self, buf: B) -> impl Future<Output = BufResult<(), B>>;
}

impl OwnedStream for Stream {
    async fn read_owned<B: BoundedBufMut>(&mut self, mut buf: B) -> BufResult<usize, B> {
        let mut lent = owned::Lent::default();
        let read = poll_fn(|cx| lent.fill_uring(&mut buf, |out| self.poll_fill(cx, out))).await;
        (read, buf)
    }

    async fn write_owned<B: BoundedBuf>(&mut self, buf: B) -> BufResult<usize, B> {
        let data = owned::uring_bytes(&buf);
        let written = poll_fn(|cx| self.poll_seal(cx, data)).await;
        (written, buf)
    }

    async fn write_all_owned<B: BoundedBuf>(&mut self, buf: B) -> BufResult<(), B> {
        let mut data = owned::uring_bytes(&buf);
        let mut result = Ok(());
        while !data.is_empty() {
            match poll_fn(|cx| self.poll_seal(cx, data)).await {
                Ok(written) => data = &data[written..],
                Err(error) => {
                    result = Err::<(), io::Error>(error);
                    break;
                }
            }
        }
        (result, buf)
    }
}
