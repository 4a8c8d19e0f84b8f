//! Bytes both ways between a program and the far end of its tunnel, with half-close.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

use super::Far;

/// Bytes in flight in each direction: sixteen frames, so that a write is worth its wake-up.
const BUFFER_BYTES: usize = 64 * 1024;

/// Copies until both directions have ended, or one of them failed; then both ends are closed.
pub(super) async fn run<N, S>(mut near: N, far: Far<S>) -> io::Result<(u64, u64)>
where
    N: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    match far {
        Far::Dmsg(mut stream, _permit) => {
            copy_bidirectional_with_sizes(&mut near, &mut stream, BUFFER_BYTES, BUFFER_BYTES).await
        }
        Far::Tcp(mut stream, _permit) => {
            copy_bidirectional_with_sizes(&mut near, &mut stream, BUFFER_BYTES, BUFFER_BYTES).await
        }
    }
}
