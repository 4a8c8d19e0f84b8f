//! Bytes both ways between a program and the far end of its tunnel, with half-close.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

use super::Far;
use crate::http::{BreakOff, Dial, join::join};

/// Copies until both directions have ended, or one of them failed, which is a reset for the other end.
pub(super) async fn run<N, D>(
    near: (N, Option<BreakOff>),
    far: Far<D::Stream>,
) -> io::Result<(u64, u64)>
where
    N: AsyncRead + AsyncWrite + Unpin,
    D: Dial,
{
    match far {
        Far::Dmsg(stream, _permit) => {
            let end = D::break_off(&stream);
            join(near, (stream, end)).await
        }
        Far::Tcp(stream, _permit) => {
            let end = stream.break_off();
            join(near, (stream, Some(end))).await
        }
    }
}
