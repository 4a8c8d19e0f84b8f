//! A relay on tokio that regroups frames by receiver, as a DMSG server must: stream `k` of source `i` goes to sink `i + k`.
//!
//! ```text
//!   reader of a source: frames ──copy──▶ batch of a sink ──▶ writer of the sink: one write per batch
//! ```
//!
//! The comparison for a relay whose sources speak to many: a proxy sends what it has received in one call. Readers that are ready
//! run before the writers that they wake, so a batch has the frames of several sources. No sessions, credit or budgets.

use std::{cell::RefCell, collections::HashMap, net::TcpListener, rc::Rc};

use dmsg_bench::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    task::{LocalSet, spawn_local},
};

use super::{HELLO_BYTES, pair_of, pairs_of, wants_to_sink};
use crate::relay::load::{
    pattern::stream_of,
    yamux::{HEADER_BYTES, Header},
};

/// What one read takes at most.
const BUFFER_BYTES: usize = 256 * 1024;

/// A reader waits while a batch that it fills is longer.
const BATCH_BYTES_MAX: usize = 256 * 1024;

#[derive(Default)]
struct Receiver {
    batch: RefCell<Vec<u8>>,
    filled: Notify,
    emptied: Notify,
}

/// The sinks that have come, by number.
#[derive(Default)]
struct Sinks {
    all: RefCell<HashMap<usize, Rc<Receiver>>>,
    came: Notify,
}

impl Sinks {
    /// Those of source `at` by its streams, once all have come.
    fn of(&self, at: usize, pairs: usize) -> Option<Vec<Rc<Receiver>>> {
        let all = self.all.borrow();
        (0..pairs).map(|stream| all.get(&((at + stream) % pairs)).cloned()).collect()
    }
}

pub(super) fn serve(listener: TcpListener) -> Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let sinks = Rc::<Sinks>::default();
        loop {
            let (mut socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            let mut hello = [0; HELLO_BYTES];
            socket.read_exact(&mut hello).await?;
            if wants_to_sink(hello) {
                let receiver = Rc::<Receiver>::default();
                sinks.all.borrow_mut().insert(pair_of(hello), Rc::clone(&receiver));
                sinks.came.notify_waiters();
                spawn_local(write(socket, receiver));
            } else {
                let (at, pairs) = (pair_of(hello), pairs_of(hello).max(1));
                spawn_local(read(socket, at, pairs, Rc::clone(&sinks)));
            }
        }
    })
}

/// Reads a source until it is gone.
async fn read(mut socket: TcpStream, at: usize, pairs: usize, sinks: Rc<Sinks>) {
    let (mut buffer, mut filled) = (vec![0; BUFFER_BYTES], 0);
    let mut receivers: Vec<Rc<Receiver>> = Vec::new();
    let mut touched = vec![false; pairs];
    while let Ok(count) = socket.read(&mut buffer[filled..]).await {
        if count == 0 {
            return;
        }
        while receivers.is_empty() {
            let came = sinks.came.notified();
            match sinks.of(at, pairs) {
                Some(all) => receivers = all,
                None => came.await,
            }
        }
        filled += count;
        let whole = regroup(&mut buffer[..filled], &receivers, &mut touched);
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
        for (receiver, touched) in receivers.iter().zip(&mut touched) {
            if std::mem::take(touched) {
                receiver.filled.notify_one();
                while receiver.batch.borrow().len() > BATCH_BYTES_MAX {
                    receiver.emptied.notified().await;
                }
            }
        }
    }
}

/// Copies each whole frame into its receiver's batch, with another stream id; returns how many bytes these were.
fn regroup(bytes: &mut [u8], receivers: &[Rc<Receiver>], touched: &mut [bool]) -> usize {
    let mut at = 0;
    while let Some(header) = bytes[at..].first_chunk_mut::<HEADER_BYTES>() {
        let Header { id, .. } = Header::decode(header);
        let end = at + HEADER_BYTES + Header::decode(header).body_bytes();
        header[4..8].copy_from_slice(&id.wrapping_add(1).to_be_bytes());
        let Some(frame) = bytes.get(at..end) else {
            // It is rewritten when the rest is there.
            bytes[at + 4..at + 8].copy_from_slice(&id.to_be_bytes());
            break;
        };
        let to = stream_of(id) % receivers.len();
        receivers[to].batch.borrow_mut().extend_from_slice(frame);
        touched[to] = true;
        at = end;
    }
    at
}

/// Writes what is for a sink until it is gone.
async fn write(mut socket: TcpStream, receiver: Rc<Receiver>) {
    let mut batch = Vec::new();
    loop {
        receiver.filled.notified().await;
        std::mem::swap(&mut batch, &mut *receiver.batch.borrow_mut());
        receiver.emptied.notify_waiters();
        if socket.write_all(&batch).await.is_err() {
            return;
        }
        batch.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::load::pattern::id_of;

    #[test]
    fn frames_go_to_the_receiver_of_their_stream() {
        let mut bytes = Vec::new();
        for stream in [0, 1, 0, 3] {
            bytes.extend_from_slice(&Header::data(id_of(stream), 5).encode());
            bytes.extend_from_slice(b"hello");
        }
        let frame_bytes = bytes.len() / 4;
        bytes.truncate(4 * frame_bytes - 1);
        let receivers: Vec<Rc<Receiver>> = (0..2).map(|_| Rc::default()).collect();
        let before = bytes[3 * frame_bytes..].to_vec();
        let whole = regroup(&mut bytes, &receivers, &mut [false; 2]);
        assert_eq!(whole, 3 * frame_bytes, "the last is not whole");
        assert_eq!(bytes[whole..], before, "and untouched");
        assert_eq!(receivers[0].batch.borrow().len(), 2 * frame_bytes);
        assert_eq!(receivers[1].batch.borrow().len(), frame_bytes);
    }
}
