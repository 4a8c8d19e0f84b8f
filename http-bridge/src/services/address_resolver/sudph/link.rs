//! One KCP conversation over a UDP socket that others use too.

use std::{
    io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use kcp::Kcp;
use tokio::net::UdpSocket;

use super::MESSAGE_BYTES_MAX;

/// Segments that wait to be acknowledged; a peer that lets more pile up is gone.
const UNSENT_MAX: usize = 32;

/// How often a segment is sent again. Whoever forges somebody's address makes us send this many datagrams of 150 bytes there.
const RESENDS_MAX: u32 = 5;

/// The conversation is over: the peer is gone, or does not speak KCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken(pub(super) String);

/// Where segments go.
struct Datagrams {
    socket: Arc<UdpSocket>,
    to: SocketAddr,
}

impl io::Write for Datagrams {
    /// What cannot be sent now is lost like any datagram, and sent again by KCP.
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        let _ = self.socket.try_send_to(datagram, self.to);
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) struct Link {
    kcp: Kcp<Datagrams>,
    started: Instant,
}

impl Link {
    pub(super) fn new(conversation: u32, socket: Arc<UdpSocket>, to: SocketAddr) -> Self {
        let mut kcp = Kcp::new(conversation, Datagrams { socket, to });
        kcp.set_maximum_resend_times(RESENDS_MAX);
        Self { kcp, started: Instant::now() }
    }

    /// Takes a datagram in and acknowledges it. Gives the bytes that are next in order.
    pub(super) fn input(&mut self, datagram: &[u8]) -> Result<Vec<u8>, Broken> {
        self.guarded(|kcp| {
            kcp.input(datagram)?;
            let mut bytes = Vec::new();
            while let Ok(size) = kcp.peeksize() {
                if size > MESSAGE_BYTES_MAX {
                    return Err(kcp::Error::UserBufTooSmall);
                }
                let begin = bytes.len();
                bytes.resize(begin + size, 0);
                kcp.recv(&mut bytes[begin..])?;
            }
            Ok(bytes)
        })
    }

    /// Sends a message.
    pub(super) fn send(&mut self, message: &[u8]) -> Result<(), Broken> {
        if self.kcp.wait_snd() >= UNSENT_MAX {
            return Err(Broken("it acknowledges nothing".to_owned()));
        }
        self.guarded(|kcp| kcp.send(message).map(drop))
    }

    /// Sends again what is due.
    pub(super) fn tick(&mut self) -> Result<(), Broken> {
        self.guarded(|_| Ok(()))?;
        match self.kcp.is_dead_link() {
            true => Err(Broken("it does not answer".to_owned())),
            false => Ok(()),
        }
    }

    /// Whether [`Link::tick`] has something to do.
    pub(super) fn is_busy(&self) -> bool {
        self.kcp.wait_snd() > 0
    }

    /// Does something and sends what follows from it. The library computes with numbers of the datagram, which overflow in a
    /// build that checks them: that is the peer's fault, and must not be ours.
    fn guarded<T>(
        &mut self,
        work: impl FnOnce(&mut Kcp<Datagrams>) -> Result<T, kcp::Error>,
    ) -> Result<T, Broken> {
        let now =
            u32::try_from(self.started.elapsed().as_millis() & u128::from(u32::MAX)).unwrap_or(0);
        let kcp = &mut self.kcp;
        let done = catch_unwind(AssertUnwindSafe(|| {
            kcp.update(now)?;
            let result = work(kcp)?;
            kcp.flush()?;
            Ok::<T, kcp::Error>(result)
        }));
        match done {
            Ok(result) => result.map_err(|error| Broken(error.to_string())),
            Err(_) => Err(Broken("its datagrams make no sense".to_owned())),
        }
    }
}
