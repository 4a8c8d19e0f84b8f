//! The handle of a stream: an encrypted byte pipe between two clients.
//!
//! Sealing and opening run on the caller's task; the engine's thread only moves ciphertext
//! ([`super::pipe`]). The handle needs no runtime and implements both tokio's and futures' traits.
//!
//! How a stream ends:
//! - `shutdown` sends FIN behind everything written and returns when the mux has it. Reading goes
//!   on as long as the
//!   relay lets it: relays of 2023–2026 end both directions with the first FIN (`wire.md §4.7`);
//! - a read after the peer's FIN gives 0 bytes; if the FIN cut a frame in two, `UnexpectedEof`
//!   instead;
//! - a reset, or the end of the session, fails reads and writes with an error that says which;
//! - dropping the handle frees its port at once. What was written still goes out, then FIN; if
//!   that, or the peer's own
//!   FIN, takes longer than [`super::machine::LINGER`], the stream is reset.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{link::SEAL_BLOCK_BYTES, pipe::Pipe};
use crate::{
    identity::PublicKey,
    noise::TransportKeys,
    pool::{Slice, StreamUse},
    stream::{FRAME_MAX_BYTES, FRAME_PLAINTEXT_MAX_BYTES, FrameError, FrameOpener, FrameSealer},
    wire::Addr,
};

/// Plaintext sealed by one write at most: 16 full frames, close to 64 KiB on the wire. Large enough
/// that a write is worth the engine's wake-up, small enough that the first bytes leave while the
/// next are sealed.
const WRITE_MAX_BYTES: usize = SEAL_BLOCK_BYTES / FRAME_MAX_BYTES * FRAME_PLAINTEXT_MAX_BYTES;

/// A write of this much is sealed into a block that has been used before; less would hold a block that is several times its
/// size while it waits.
const BLOCK_MIN_BYTES: usize = WRITE_MAX_BYTES / 4;

/// An encrypted byte stream between two clients. Dropping it closes it.
pub struct Stream {
    pipe: Arc<Pipe>,
    local: Addr,
    remote: Addr,
    server: PublicKey,
    sealer: FrameSealer,
    opener: FrameOpener,
    /// Ciphertext that is being opened.
    current: Slice,
    /// Stands in for `current` when there is none, so that no receive block is held while idle.
    empty: Slice,
}

impl Stream {
    pub(crate) fn new(
        pipe: Arc<Pipe>,
        local: Addr,
        remote: Addr,
        server: PublicKey,
        keys: &TransportKeys,
    ) -> Self {
        let empty = Slice::from_vec(Vec::new());
        Self {
            pipe,
            local,
            remote,
            server,
            sealer: FrameSealer::new(&keys.send),
            opener: FrameOpener::new(&keys.recv),
            current: empty.clone(),
            empty,
        }
    }

    /// Our key and port.
    #[must_use]
    pub fn local_addr(&self) -> Addr {
        self.local
    }

    /// The peer's key (authenticated by the handshake) and port.
    #[must_use]
    pub fn remote_addr(&self) -> Addr {
        self.remote
    }

    /// The server it runs through.
    #[must_use]
    pub fn server(&self) -> PublicKey {
        self.server
    }

    /// The record of its use, where its holder tells whether it may be reclaimed (see
    /// [`crate::pool::streams`]).
    #[must_use]
    pub fn usage(&self) -> Arc<StreamUse> {
        Arc::clone(self.pipe.usage())
    }

    /// Plaintext that is there, into `out`; 0 is the end of the stream.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if out.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            let filled = self.opener.read(&mut self.current, out).map_err(frame_error)?;
            if self.current.is_empty() {
                self.current = self.empty.clone();
            }
            if filled > 0 {
                return Poll::Ready(Ok(filled));
            }
            match ready!(self.pipe.poll_take(cx))? {
                Some(slice) => self.current = slice,
                None => return Poll::Ready(self.opener.finish().map_err(frame_error).map(|()| 0)),
            }
        }
    }

    /// Seals a part of `data` and hands it to the machine; how much.
    pub(crate) fn poll_seal(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.pipe.poll_room(cx))?;
        let part = &data[..data.len().min(WRITE_MAX_BYTES)];
        let sealed = if part.len() >= BLOCK_MIN_BYTES {
            let mut block = self.pipe.blocks().take();
            let len = self.sealer.write_to(part, block.memory_mut()).map_err(io::Error::other)?;
            block.freeze(len)
        } else {
            let mut sealed = Vec::new();
            self.sealer.write(part, &mut sealed).map_err(io::Error::other)?;
            Slice::from_vec(sealed)
        };
        self.pipe.push_outbound(sealed);
        Poll::Ready(Ok(part.len()))
    }

    /// Nothing is held back: a write is on its way when it returns. So a flush only tells whether
    /// the stream still stands.
    fn poll_intact(&self) -> Poll<io::Result<()>> {
        Poll::Ready(self.pipe.end_reason().map_or(Ok(()), |end| Err(end.into())))
    }
}

fn frame_error(error: FrameError) -> io::Error {
    let kind = match error {
        FrameError::Truncated(_) => io::ErrorKind::UnexpectedEof,
        _ => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error)
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = ready!(self.poll_fill(cx, buf.initialize_unfilled()))?;
        buf.advance(filled);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_seal(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_intact()
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pipe.poll_finish(cx).map_err(Into::into)
    }
}

impl futures_io::AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_fill(cx, out)
    }
}

impl futures_io::AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_seal(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_intact()
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pipe.poll_finish(cx).map_err(Into::into)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.pipe.drop_handle();
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({} to {} via {})", self.local, self.remote, self.server.short())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Mutex;

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use zeroize::Zeroizing;

    use super::*;
    use crate::{
        client::{
            error::StreamEnd,
            lease::Lease,
            link::{EngineLink, Post},
            machine::Command,
            pipe::{OUTBOUND_MAX_BYTES, Wakes},
        },
        driver::PostError,
        identity::SecretKey,
        io::{Io, RandomSource},
        mux::{MuxKind, StreamId},
        pool::{BlockPool, Holder, StreamLimits, StreamPool},
        wire::Port,
    };

    struct Nowhere;

    impl Post for Nowhere {
        fn post(&self, command: Command) -> Result<(), PostError<Command>> {
            Err(PostError::Stopped(command))
        }

        fn post_release(&self, _: Command) {}
    }

    /// A stream, its machine side, and a sealer for what its peer would send.
    fn stream() -> (Stream, Arc<Pipe>, FrameSealer) {
        stream_of(&StreamPool::new(StreamLimits::flat(1)))
    }

    fn stream_of(places: &StreamPool) -> (Stream, Arc<Pipe>, FrameSealer) {
        let random: RandomSource = Box::new(|_| {});
        let conn = Io::new(random, std::time::Instant::now(), 0).add_conn();
        let link = Arc::new(EngineLink::new(Nowhere));
        let holder = Holder { label: "test".into(), destination: None };
        let lease = Lease::reclaimable(places.try_acquire(&holder).unwrap());
        let pipe = Pipe::new((conn, StreamId(1)), MuxKind::Yamux, link, lease);
        let key = SecretKey::from_seed(b"stream").public_key();
        let addr = Addr { key, port: Port::MIN };
        let keys = TransportKeys {
            send: Zeroizing::new([1; 32]),
            recv: Zeroizing::new([2; 32]),
            handshake_hash: [0; 32],
        };
        let stream = Stream::new(Arc::clone(&pipe), addr, addr, key, &keys);
        (stream, pipe, FrameSealer::new(&[2; 32]))
    }

    fn arrives(pipe: &Pipe, bytes: Vec<u8>) {
        pipe.push_inbound(Slice::from_vec(bytes), &mut Wakes::default()).unwrap();
    }

    fn sealed(sealer: &mut FrameSealer, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        sealer.write(plain, &mut out).unwrap();
        out
    }

    #[test]
    fn a_stream_is_send_and_sync() {
        fn check<T: Send + Sync + Unpin + 'static>() {}
        check::<Stream>();
    }

    /// A peer that mixes a little of an unread stream into each receive block of a busy one.
    #[test]
    fn unread_pieces_of_many_blocks_keep_few_blocks_and_are_read_in_order() {
        let (mut stream, pipe, mut sealer) = stream();
        let blocks = BlockPool::new(192 * 1024, 64);
        drop((0..64).map(|_| blocks.take()).collect::<Vec<_>>());
        let mut wakes = Wakes::default();
        for number in 0..62 {
            let mut block = blocks.take();
            // Too long to be gathered.
            let frames =
                [sealed(&mut sealer, &[number; 4000]), sealed(&mut sealer, &[number; 200])]
                    .concat();
            block.memory_mut()[..frames.len()].copy_from_slice(&frames);
            pipe.push_inbound(block.freeze(frames.len()), &mut wakes).unwrap();
        }
        let kept_bytes = (64 - blocks.free_count()) * blocks.block_bytes();
        assert!(kept_bytes <= 2 * pipe.unread_bytes(), "{kept_bytes} bytes of blocks");
        let mut read = vec![0; 62 * 4200];
        stream.read_exact(&mut read).now_or_never().unwrap().unwrap();
        assert!(read.chunks(4200).zip(0..).all(|(chunk, number)| chunk == vec![number; 4200]));
        assert_eq!((pipe.unread_bytes(), blocks.free_count()), (0, 64));
    }

    /// Else the machine, pushing the next piece, could come between a reader and what it tells of itself, or the reader between
    /// the machine and what that tells: a stream with nothing unread would be taken back, or one with something never.
    #[test]
    fn what_the_pool_is_told_is_told_under_the_lock_of_the_pipe() {
        type Watched = Arc<Mutex<Option<Arc<Pipe>>>>;
        let (watched, locked) = (Watched::default(), Arc::new(Mutex::new(Vec::new())));
        let (epoch, seen, noted) =
            (std::time::Instant::now(), Arc::clone(&watched), Arc::clone(&locked));
        let clock = move || {
            if let Some(pipe) = &*seen.lock().unwrap() {
                noted.lock().unwrap().push(pipe.is_inbound_locked());
            }
            epoch
        };
        let places = StreamPool::with_clock(StreamLimits::flat(1), Arc::new(clock));
        let (mut stream, pipe, mut sealer) = stream_of(&places);
        *watched.lock().unwrap() = Some(Arc::clone(&pipe));
        assert!(stream.read(&mut [0; 4]).now_or_never().is_none());
        // Two pieces, of which one is left, then the last.
        for _ in 0..2 {
            arrives(
                &pipe,
                [sealed(&mut sealer, &[1; 4000]), sealed(&mut sealer, &[2; 4000])].concat(),
            );
        }
        for _ in 0..4 {
            assert!(stream.read(&mut [0; 4000]).now_or_never().is_some());
        }
        pipe.finish_inbound();
        *watched.lock().unwrap() = None;
        let locked = locked.lock().unwrap();
        assert!(locked.len() >= 4 && locked.iter().all(|locked| *locked), "{locked:?}");
    }

    #[test]
    fn what_came_before_the_fin_is_read_and_then_the_end() {
        let (mut stream, pipe, mut sealer) = stream();
        arrives(&pipe, sealed(&mut sealer, b"last words"));
        pipe.finish_inbound();
        let mut read = Vec::new();
        assert_eq!(stream.read_to_end(&mut read).now_or_never().unwrap().unwrap(), 10);
        assert_eq!(stream.read(&mut [0; 4]).now_or_never().unwrap().unwrap(), 0);
    }

    #[test]
    fn a_fin_inside_a_frame_is_an_unexpected_end() {
        let (mut stream, pipe, mut sealer) = stream();
        let mut bytes = sealed(&mut sealer, b"whole");
        let whole = bytes.len();
        bytes.extend(sealed(&mut sealer, b"cut"));
        for cut in 1..bytes.len() - whole {
            let (mut stream, pipe, _) = self::stream();
            arrives(&pipe, bytes[..whole + cut].to_vec());
            pipe.finish_inbound();
            let mut read = Vec::new();
            let error = stream.read_to_end(&mut read).now_or_never().unwrap().unwrap_err();
            assert_eq!((error.kind(), &read[..]), (io::ErrorKind::UnexpectedEof, &b"whole"[..]));
        }
        pipe.finish_inbound();
        assert_eq!(stream.read(&mut [0; 4]).now_or_never().unwrap().unwrap(), 0);
    }

    #[test]
    fn a_forged_frame_is_invalid_data_and_final() {
        let (mut stream, pipe, mut sealer) = stream();
        let mut bytes = sealed(&mut sealer, b"forged");
        *bytes.last_mut().unwrap() ^= 1;
        bytes.extend(sealed(&mut sealer, b"genuine"));
        arrives(&pipe, bytes);
        for _ in 0..2 {
            let error = stream.read(&mut [0; 4]).now_or_never().unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn a_writer_pends_when_the_pipe_is_full_and_goes_on_when_it_empties() {
        let (mut stream, pipe, _) = stream();
        let chunk = vec![0; 64 * 1024];
        let mut written = 0;
        while let Some(count) = stream.write(&chunk).now_or_never() {
            written += count.unwrap();
        }
        // The bound counts sealed bytes, 26 more for each frame of 4070.
        assert!((OUTBOUND_MAX_BYTES - 4096..OUTBOUND_MAX_BYTES + 65_536).contains(&written));
        assert!(stream.flush().now_or_never().unwrap().is_ok());
        while pipe.pop_outbound(10_000).is_some() {}
        assert!(stream.write(&chunk).now_or_never().is_some());
    }

    #[test]
    fn shutdown_waits_for_the_fin_and_closes_writing() {
        let (mut stream, pipe, _) = stream();
        assert!(stream.shutdown().now_or_never().is_none());
        assert!(pipe.outbound_state().finish);
        pipe.note_finished();
        assert!(stream.shutdown().now_or_never().unwrap().is_ok());
        let error = stream.write(b"x").now_or_never().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn the_first_reason_of_an_end_stands() {
        let (mut stream, pipe, mut sealer) = stream();
        arrives(&pipe, sealed(&mut sealer, b"lost"));
        pipe.end(StreamEnd::Reset);
        pipe.end(StreamEnd::Closed);
        let error = stream.read(&mut [0; 4]).now_or_never().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(stream.flush().now_or_never().unwrap().is_err());
        assert!(stream.shutdown().now_or_never().unwrap().is_err());
    }
}
