//! A relay on tokio: one thread, one task and one buffer per direction.

use std::net::TcpListener;

use dmsg_bench::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
};

use super::{HELLO_BYTES, Waiting, frames::Rewriter};
use crate::relay::load::yamux::HEADER_BYTES;

pub(super) fn serve(listener: TcpListener, buffer_bytes: usize) -> Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let mut waiting = Waiting::new();
        loop {
            let (mut socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            let mut hello = [0; HELLO_BYTES];
            socket.read_exact(&mut hello).await?;
            if let Some((one, other)) = waiting.join(hello, socket) {
                let ((read1, write1), (read2, write2)) = (one.into_split(), other.into_split());
                tokio::spawn(forward(read1, write2, buffer_bytes));
                tokio::spawn(forward(read2, write1, buffer_bytes));
            }
        }
    })
}

/// One direction, until either end is gone.
async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, buffer_bytes: usize) {
    let mut buffer = vec![0; buffer_bytes];
    let (mut rewriter, mut held) = (Rewriter::default(), 0);
    while let Ok(count) = from.read(&mut buffer[held..]).await {
        let filled = held + count;
        let whole = rewriter.rewrite(&mut buffer[..filled]);
        if count == 0 || to.write_all(&buffer[..whole]).await.is_err() {
            return;
        }
        buffer.copy_within(whole..filled, 0);
        held = filled - whole;
        debug_assert!(held < HEADER_BYTES, "only a part of a header is kept back");
    }
}
