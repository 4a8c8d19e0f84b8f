//! A part of a file as a response body.

use std::{
    fs::File,
    future::Future,
    io,
    os::unix::fs::FileExt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;

use super::condition::Range;

/// Bytes read and handed over at once; the next are read when these are taken. Large enough to fill
/// the window of a stream, small enough that a thousand downloads hold a quarter of a gigabyte.
const CHUNK_BYTES: usize = 256 * 1024;

/// The file comes back with its chunk.
type ReadChunk = io::Result<(File, Vec<u8>)>;

/// Reads a range chunk by chunk, on the blocking threads.
pub(super) struct FileBody {
    /// `None` while a chunk is being read.
    file: Option<File>,
    rest: Range,
    reading: Option<JoinHandle<ReadChunk>>,
}

impl FileBody {
    pub(super) fn new(file: File, range: Range) -> Self {
        Self { file: Some(file), rest: range, reading: None }
    }

    fn start_reading(&mut self) {
        if let Some(file) = self.file.take() {
            let at = self.rest.first;
            let want =
                usize::try_from(self.rest.len).map_or(CHUNK_BYTES, |rest| rest.min(CHUNK_BYTES));
            self.reading = Some(tokio::task::spawn_blocking(move || {
                let mut chunk = vec![0; want];
                file.read_exact_at(&mut chunk, at)?;
                Ok((file, chunk))
            }));
        }
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.rest.len == 0 {
            return Poll::Ready(None);
        }
        self.start_reading();
        let Some(reading) = self.reading.as_mut() else { return Poll::Ready(None) };
        let done = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        // An error cuts the connection: the peer must see that something is missing.
        Poll::Ready(Some(done.map_err(io::Error::other).flatten().map(|(file, chunk)| {
            self.file = Some(file);
            self.rest.first += chunk.len() as u64;
            self.rest.len -= chunk.len() as u64;
            Frame::data(chunk.into())
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.len == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len)
    }
}
