//! Relays on the runtimes with owned buffers, monoio and tokio-uring: a one-shot receive and a one-shot send at a time, which
//! is what these runtimes offer. 64 KiB per direction.

use std::{net::TcpListener, rc::Rc};

use dmsg_bench::Result;

use super::{HELLO_BYTES, Waiting, frames::Rewriter};

const BUFFER_BYTES: usize = 64 * 1024;

/// The ring's size; two operations per connection may be under way.
const RING_ENTRIES: u32 = 4096;

pub(super) fn serve_monoio(listener: TcpListener) -> Result<()> {
    use monoio::io::{AsyncReadRentExt, Splitable};

    listener.set_nonblocking(true)?;
    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
        .with_entries(RING_ENTRIES)
        .build()?;
    runtime.block_on(async {
        let listener = monoio::net::TcpListener::from_std(listener)?;
        let mut waiting = Waiting::new();
        loop {
            let (mut socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            let (count, hello) = socket.read_exact(Box::new([0; HELLO_BYTES])).await;
            count?;
            if let Some((one, other)) = waiting.join(*hello, socket) {
                let ((read1, write1), (read2, write2)) = (one.into_split(), other.into_split());
                monoio::spawn(forward_monoio(read1, write2));
                monoio::spawn(forward_monoio(read2, write1));
            }
        }
    })
}

async fn forward_monoio<R, W>(mut from: R, mut to: W)
where
    R: monoio::io::AsyncReadRent,
    W: monoio::io::AsyncWriteRentExt,
{
    use monoio::buf::{IoBuf, IoBufMut};

    let (mut rewriter, mut held) = (Rewriter::default(), 0);
    // A read sets the vector's length to what is filled.
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let (count, slice) = from.read(buffer.slice_mut(held..)).await;
        buffer = slice.into_inner();
        let Ok(count @ 1..) = count else { return };
        let filled = held + count;
        let whole = rewriter.rewrite(&mut buffer[..filled]);
        let (sent, slice) = to.write_all(buffer.slice(..whole)).await;
        buffer = slice.into_inner();
        if sent.is_err() {
            return;
        }
        buffer.copy_within(whole..filled, 0);
        held = filled - whole;
        buffer.truncate(held);
    }
}

pub(super) fn serve_tokio_uring(listener: TcpListener) -> Result<()> {
    use tokio_uring::buf::BoundedBuf;

    let mut builder = tokio_uring::builder();
    builder.entries(RING_ENTRIES);
    builder.start(async {
        let listener = tokio_uring::net::TcpListener::from_std(listener);
        let mut waiting = Waiting::new();
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            let (mut hello, mut held) = (vec![0; HELLO_BYTES], 0);
            while held < HELLO_BYTES {
                let (count, slice) = socket.read(hello.slice(held..)).await;
                held += count?;
                hello = slice.into_inner();
            }
            let mut first = [0; HELLO_BYTES];
            first.copy_from_slice(&hello);
            if let Some((one, other)) = waiting.join(first, socket) {
                let (one, other) = (Rc::new(one), Rc::new(other));
                tokio_uring::spawn(forward_tokio_uring(Rc::clone(&one), Rc::clone(&other)));
                tokio_uring::spawn(forward_tokio_uring(other, one));
            }
        }
    })
}

async fn forward_tokio_uring(
    from: Rc<tokio_uring::net::TcpStream>,
    to: Rc<tokio_uring::net::TcpStream>,
) {
    use tokio_uring::buf::BoundedBuf;

    let (mut rewriter, mut held) = (Rewriter::default(), 0);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let (count, slice) = from.read(buffer.slice(held..)).await;
        buffer = slice.into_inner();
        let Ok(count @ 1..) = count else { return };
        let filled = held + count;
        let whole = rewriter.rewrite(&mut buffer[..filled]);
        let (sent, slice) = to.write_all(buffer.slice(..whole)).await;
        buffer = slice.into_inner();
        if sent.is_err() {
            return;
        }
        buffer.copy_within(whole..filled, 0);
        held = filled - whole;
    }
}
