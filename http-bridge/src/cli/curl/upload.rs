//! A request body that is read while it is sent.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Body, Frame, SizeHint};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use crate::http::{BoxError, RequestBody};

/// Bytes that are read at once.
const PIECE_BYTES: usize = 64 * 1024;

/// A body of what the reader gives. With a length it goes with Content-Length, which more services understand than
/// chunks; then no more than that is sent, and less is an error.
pub(super) fn body<R: AsyncRead + Send + Unpin + 'static>(
    reader: R,
    length: Option<u64>,
) -> RequestBody {
    let pieces = ReaderStream::with_capacity(reader, PIECE_BYTES);
    RequestBody::Stream(Box::pin(Upload { pieces, left: length }))
}

struct Upload<R> {
    pieces: ReaderStream<R>,
    /// Of a body whose length is known.
    left: Option<u64>,
}

impl<R: AsyncRead + Unpin> Body for Upload<R> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.left == Some(0) {
            return Poll::Ready(None);
        }
        let piece = ready!(Pin::new(&mut this.pieces).poll_next(cx));
        Poll::Ready(match (piece, &mut this.left) {
            (None, Some(left)) => {
                let why =
                    format!("the file ended {left} bytes early: it was cut while it was sent");
                Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, why).into()))
            }
            (Some(Ok(mut piece)), Some(left)) => {
                piece.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= piece.len() as u64;
                Some(Ok(Frame::data(piece)))
            }
            (piece, _) => piece.map(|piece| piece.map(Frame::data).map_err(Into::into)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn sent(data: &'static [u8], length: Option<u64>) -> Result<Bytes, BoxError> {
        let RequestBody::Stream(body) = body(data, length) else { unreachable!() };
        assert_eq!(body.size_hint().exact(), length);
        Ok(body.collect().await?.to_bytes())
    }

    #[tokio::test]
    async fn a_file_that_grows_is_cut_and_one_that_shrinks_is_an_error() {
        assert_eq!(sent(b"12345", None).await.unwrap(), "12345");
        assert_eq!(sent(b"12345", Some(5)).await.unwrap(), "12345");
        assert_eq!(sent(b"12345", Some(3)).await.unwrap(), "123");
        assert_eq!(sent(b"", Some(0)).await.unwrap(), "");
        let error = sent(b"12345", Some(9)).await.unwrap_err().to_string();
        assert!(error.contains("4 bytes early"), "{error}");
    }
}
