//! The visor's side: binding, staying bound, and opening the NAT for whoever wants to dial.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use dmsg_engine::identity::SecretKey;
use rand::RngExt;
use tokio::{
    net::UdpSocket,
    time::{Instant, MissedTickBehavior, interval, interval_at, timeout},
};

use super::{
    Binding, GET_NONCE, HANDSHAKE_TIMEOUT, HEARTBEAT, HEARTBEAT_WORD, Inbox, NonceLine, PUNCH,
    Punch, SUDPH_PORT, TICK, UNBIND, Verdict, line,
    link::{Broken, Link},
    prove,
};

/// Why we are not bound (any more).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SudphError {
    /// Nobody answers.
    #[error(
        "the address resolver at {0} does not answer over UDP: it is down, or UDP is filtered on the way"
    )]
    Silent(SocketAddr),
    /// It does not believe us.
    #[error("the address resolver refuses us: {0}")]
    Refused(String),
    /// It does not speak the protocol, or is gone.
    #[error("the conversation with the address resolver broke off: {0}")]
    Broken(String),
    /// The socket does not work.
    #[error("the UDP socket: {0}")]
    Socket(String),
}

impl From<Broken> for SudphError {
    fn from(Broken(why): Broken) -> Self {
        Self::Broken(why)
    }
}

/// `host:port` of the UDP side that belongs to a resolver's HTTP address (`services.md §6.2`).
#[must_use]
pub fn udp_server(base: &http::Uri) -> Option<String> {
    let host = base.host().filter(|host| !host.is_empty())?;
    Some(format!("{host}:{}", base.port_u16().unwrap_or(SUDPH_PORT)))
}

/// A binding that holds as long as somebody calls [`SudphLink::next`].
pub struct SudphLink {
    socket: Arc<UdpSocket>,
    resolver: SocketAddr,
    link: Link,
    inbox: Inbox,
    datagram: Vec<u8>,
    beats: tokio::time::Interval,
    ticks: tokio::time::Interval,
}

impl SudphLink {
    /// Binds `secret`'s key at a resolver. `socket` is the one that the visor will be dialled at; while this runs, it takes the
    /// socket's datagrams, and those of others than the resolver are lost.
    pub async fn bind(
        socket: Arc<UdpSocket>,
        resolver: SocketAddr,
        secret: &SecretKey,
        binding: &Binding,
    ) -> Result<Self, SudphError> {
        let conversation = rand::rng().random_range(1..=u32::MAX);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut bound = Self {
            link: Link::new(conversation, Arc::clone(&socket), resolver),
            socket,
            resolver,
            inbox: Inbox::default(),
            datagram: vec![0; 2048],
            beats: interval_at(Instant::now() + HEARTBEAT, HEARTBEAT),
            ticks,
        };
        let shaken = timeout(HANDSHAKE_TIMEOUT, bound.shake_hands(secret, binding)).await;
        shaken.map_err(|_| SudphError::Silent(resolver))??;
        bound.beats.reset();
        Ok(bound)
    }

    async fn shake_hands(
        &mut self,
        secret: &SecretKey,
        binding: &Binding,
    ) -> Result<(), SudphError> {
        self.link.send(GET_NONCE)?;
        let line_with_nonce = self.message().await?;
        let NonceLine { nonce } = read(&line_with_nonce)?;
        self.link.send(&prove(secret, nonce))?;
        let verdict: Verdict = read(&self.message().await?)?;
        if !verdict.ok {
            return Err(SudphError::Refused(verdict.message));
        }
        self.link.send(&line(binding))?;
        // Bound is who was heard: what is not acknowledged was not.
        while self.link.is_busy() {
            self.turn().await?;
        }
        Ok(())
    }

    /// Waits for somebody who wants to dial us, opens the way for them, and says who it is. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Punch, SudphError> {
        let punch: Punch = read(&self.message().await?)?;
        if let Ok(address) = punch.address.parse::<SocketAddr>() {
            let _ = self.socket.send_to(PUNCH, address).await;
        }
        Ok(punch)
    }

    /// Unbinds; waits for a moment until the resolver has heard it.
    pub async fn close(mut self) {
        let unbind = async {
            self.link.send(UNBIND)?;
            while self.link.is_busy() {
                self.turn().await?;
            }
            Ok::<_, SudphError>(())
        };
        let _ = timeout(Duration::from_secs(1), unbind).await;
    }

    /// The next JSON message.
    async fn message(&mut self) -> Result<Vec<u8>, SudphError> {
        loop {
            match self.inbox.json() {
                Some(Ok(text)) => return Ok(text),
                Some(Err(why)) => return Err(SudphError::Broken(why)),
                None => self.turn().await?,
            }
        }
    }

    /// Whatever comes first: a datagram, a heartbeat's time, or something to be sent again.
    async fn turn(&mut self) -> Result<(), SudphError> {
        tokio::select! {
            received = self.socket.recv_from(&mut self.datagram) => {
                let (length, from) = received.map_err(|error| SudphError::Socket(error.to_string()))?;
                if from == self.resolver {
                    let bytes = self.link.input(&self.datagram[..length])?;
                    if !self.inbox.push(&bytes) {
                        return Err(SudphError::Broken("its messages have no end".to_owned()));
                    }
                }
            }
            _ = self.beats.tick() => self.link.send(HEARTBEAT_WORD)?,
            _ = self.ticks.tick() => self.link.tick().map_err(|_| SudphError::Silent(self.resolver))?,
        }
        Ok(())
    }
}

fn read<T: serde::de::DeserializeOwned>(text: &[u8]) -> Result<T, SudphError> {
    serde_json::from_slice(text).map_err(|error| SudphError::Broken(error.to_string()))
}
