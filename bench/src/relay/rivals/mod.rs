//! Ceilings and rivals: the same frames through programs that do less, or do it otherwise.
//!
//! Each is a thread that accepts connections, reads a hello of eight bytes (pair and role), and moves bytes between the two ends
//! of each pair. None has sessions, credit or budgets, and only one a choice of destination. The proxies move bytes without
//! looking at them; the relays find each frame's header and rewrite its stream id, as ours must.
//!
//! | rival | how | looks at frames |
//! | --- | --- | --- |
//! | `discard` | counts and drops: plain TCP, one hop | no |
//! | `echo` | sends back: plain TCP, one hop | no |
//! | `splice` | epoll and splice(2): the payload never enters user space | no |
//! | `read-write` | epoll, 64 KiB buffer per direction | no |
//! | `tokio-256k`, `tokio-64k` | tokio, one task per direction | yes |
//! | `tokio-regroup` | tokio, each source's frames copied into batches of eight receivers, as ours must | yes |
//! | `monoio`, `tokio-uring` | one task per direction, 64 KiB owned buffers | yes |

mod frames;
mod owned;
mod proxy;
mod regroup;
mod tokio_relay;

use std::net::TcpListener;

use dmsg_bench::{Result, party};

/// Which rival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Rival {
    /// Counts and drops.
    Discard,
    /// Sends back what it gets.
    Echo,
    /// A proxy with splice(2).
    Splice,
    /// A proxy with read and write.
    ReadWrite,
    /// A relay on tokio with buffers of 256 KiB.
    #[value(name = "tokio-256k")]
    Tokio256,
    /// A relay on tokio with buffers of 64 KiB.
    #[value(name = "tokio-64k")]
    Tokio64,
    /// A relay on tokio that regroups frames by receiver.
    TokioRegroup,
    /// A relay on monoio.
    Monoio,
    /// A relay on tokio-uring.
    TokioUring,
}

impl Rival {
    /// Those that forward, in the order of tables.
    pub(crate) const FORWARDING: [Self; 7] = [
        Self::Splice,
        Self::ReadWrite,
        Self::Tokio256,
        Self::Tokio64,
        Self::TokioRegroup,
        Self::Monoio,
        Self::TokioUring,
    ];

    /// Its name on the command line and in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Discard => "discard",
            Self::Echo => "echo",
            Self::Splice => "splice",
            Self::ReadWrite => "read-write",
            Self::Tokio256 => "tokio-256k",
            Self::Tokio64 => "tokio-64k",
            Self::TokioRegroup => "tokio-regroup",
            Self::Monoio => "monoio",
            Self::TokioUring => "tokio-uring",
        }
    }

    /// Whether it can run here.
    pub(crate) fn needs_io_uring(self) -> bool {
        matches!(self, Self::Monoio | Self::TokioUring)
    }
}

/// Bytes of a hello: pair, role (source or sink), and how many pairs there are; big-endian.
pub(crate) const HELLO_BYTES: usize = 8;

/// The hello of a connection that asks `discard` how many bytes it has dropped.
pub(crate) const COUNT_HELLO: [u8; HELLO_BYTES] = [255, 255, 255, 255, 2, 0, 0, 0];

/// What a connection says first.
pub(crate) fn hello(pair: usize, is_sink: bool, pairs: usize) -> [u8; HELLO_BYTES] {
    let mut out = [0; HELLO_BYTES];
    out[..4].copy_from_slice(&u32::try_from(pair).unwrap_or(u32::MAX).to_be_bytes());
    out[4] = u8::from(is_sink);
    out[5..7].copy_from_slice(&u16::try_from(pairs).unwrap_or(u16::MAX).to_be_bytes());
    out
}

fn wants_to_sink(hello: [u8; HELLO_BYTES]) -> bool {
    hello[4] == 1
}

fn pairs_of(hello: [u8; HELLO_BYTES]) -> usize {
    usize::from(u16::from_be_bytes([hello[5], hello[6]]))
}

fn pair_of(hello: [u8; HELLO_BYTES]) -> usize {
    u32::from_be_bytes([hello[0], hello[1], hello[2], hello[3]]) as usize
}

/// Connections that wait for the other end of their pair.
#[derive(Debug)]
struct Waiting<T>(std::collections::HashMap<usize, T>);

impl<T> Waiting<T> {
    fn new() -> Self {
        Self(std::collections::HashMap::new())
    }

    /// Both ends, if this one was the second.
    fn join(&mut self, hello: [u8; HELLO_BYTES], end: T) -> Option<(T, T)> {
        let pair = pair_of(hello);
        match self.0.remove(&pair) {
            Some(other) => Some((other, end)),
            None => {
                self.0.insert(pair, end);
                None
            }
        }
    }
}

/// Runs in a child process until the parent is gone.
pub(crate) fn serve(rival: Rival) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    party::exit_when_orphaned();
    party::ready(&address.to_string())?;
    match rival {
        Rival::Discard => proxy::serve_single(&listener, false),
        Rival::Echo => proxy::serve_single(&listener, true),
        Rival::Splice => proxy::serve::<proxy::Pipe>(&listener),
        Rival::ReadWrite => proxy::serve::<proxy::Buffer>(&listener),
        Rival::Tokio256 => tokio_relay::serve(listener, 256 * 1024),
        Rival::Tokio64 => tokio_relay::serve(listener, 64 * 1024),
        Rival::TokioRegroup => regroup::serve(listener),
        Rival::Monoio => owned::serve_monoio(listener),
        Rival::TokioUring => owned::serve_tokio_uring(listener),
    }
}
