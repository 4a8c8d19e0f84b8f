//! The resolver's side: who is bound, and the one task that talks to all of them.
//!
//! Anybody can send datagrams with any address. So conversations that are not bound yet are few and short, and those that
//! are have proven their key from where they are.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use dmsg_engine::identity::PublicKey;
use tokio::{net::UdpSocket, sync::mpsc, time::MissedTickBehavior};

use super::{
    Binding, GET_NONCE, HANDSHAKE_TIMEOUT, HEARTBEAT, HEARTBEAT_WORD, Inbox, Nonce, NonceLine,
    Punch, TICK, UNBIND, Verdict, fresh_nonce, line,
    link::{Broken, Link},
    proven,
};
use crate::services::address_resolver::{ADDRESSES_MAX, Resolved};

/// Bound visors at most; about 2 KiB each: 100 MiB.
pub const SESSIONS_MAX: usize = 50_000;

/// Conversations that have not bound yet; at 10 s each, 100 new visors a second.
pub const UNBOUND_MAX: usize = 1000;

/// A visor that is silent for this long is gone: three heartbeats were lost.
const SILENT_MAX: Duration = HEARTBEAT.saturating_mul(3).saturating_add(Duration::from_secs(5));

/// Punches that wait to be sent; more are dropped, and asked for again by whoever dials again.
const OUTBOX_MAX: usize = 1024;

/// Bytes of a datagram.
const DATAGRAM_BYTES_MAX: usize = 2048;

/// The bytes that every KCP segment begins with.
const KCP_HEAD_BYTES: usize = 24;

/// A conversation: the address as datagrams come from it, and the number. Anybody can send a datagram with a bound visor's
/// address, and must not end what that one has begun; so another number there is another conversation.
type Peer = (SocketAddr, u32);

/// A message that goes to a visor.
type Outgoing = (Peer, Vec<u8>);

/// Who is bound, and a way to reach them. Cheap to clone.
#[derive(Clone)]
pub struct Sudph(Arc<Shared>);

struct Shared {
    bound: Mutex<HashMap<PublicKey, Bound>>,
    outbox: mpsc::Sender<Outgoing>,
    inbox: Mutex<Option<mpsc::Receiver<Outgoing>>>,
}

struct Bound {
    peer: Peer,
    binding: Binding,
}

impl Bound {
    /// Where others dial it: an IPv4 address as such, also where the resolver listens on IPv6.
    fn remote(&self) -> SocketAddr {
        let (at, _) = self.peer;
        SocketAddr::new(at.ip().to_canonical(), at.port())
    }
}

impl Default for Sudph {
    fn default() -> Self {
        let (outbox, inbox) = mpsc::channel(OUTBOX_MAX);
        let inbox = Mutex::new(Some(inbox));
        Self(Arc::new(Shared { bound: Mutex::default(), outbox, inbox }))
    }
}

impl Sudph {
    fn bound(&self) -> MutexGuard<'_, HashMap<PublicKey, Bound>> {
        self.0.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where `key` is, if it is bound; it is told of `caller` if that is bound too, so that both open their NATs.
    pub(in crate::services::address_resolver) fn resolve(
        &self,
        caller: PublicKey,
        key: PublicKey,
    ) -> Option<Resolved> {
        let bound = self.bound();
        let found = bound.get(&key)?;
        let (remote, from) = (found.remote(), bound.get(&caller).map(Bound::remote));
        if let Some(from) = from {
            let punch = Punch { key: caller.to_string(), address: from.to_string() };
            let _ = self.0.outbox.try_send((found.peer, line(&punch)));
        }
        Some(Resolved {
            remote_addr: remote.to_string(),
            port: found.binding.port.clone(),
            addresses: found.binding.addresses.clone(),
            is_local: from.is_some_and(|from| from.ip() == remote.ip()),
        })
    }

    /// Who can be resolved.
    #[must_use]
    pub fn keys(&self) -> Vec<PublicKey> {
        let mut keys: Vec<_> = self.bound().keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    pub(in crate::services::address_resolver) fn count(&self) -> usize {
        self.bound().len()
    }

    pub(in crate::services::address_resolver) fn unbind(&self, keys: &[PublicKey]) {
        let mut bound = self.bound();
        keys.iter().for_each(|key| drop(bound.remove(key)));
    }

    /// Talks to visors over this socket; never ends. The second call on one `Sudph` returns at once.
    pub async fn serve(self, socket: UdpSocket) {
        let inbox = self.0.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut inbox) = inbox else { return };
        let mut table = Table {
            registry: self,
            socket: Arc::new(socket),
            sessions: HashMap::new(),
            busy: HashSet::new(),
            unbound: 0,
        };
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut swept = Instant::now();
        loop {
            let socket = Arc::clone(&table.socket);
            tokio::select! {
                received = socket.recv_from(&mut datagram) => match received {
                    Ok((length, from)) => table.received(&datagram[..length], from),
                    // That of an earlier datagram which nobody took.
                    Err(error) => tracing::debug!(%error, "a datagram did not arrive"),
                },
                Some((to, message)) = inbox.recv() => table.send(to, &message),
                _ = ticks.tick() => {
                    table.tick();
                    if swept.elapsed() >= Duration::from_secs(1) {
                        swept = Instant::now();
                        table.sweep(swept);
                    }
                }
            }
        }
    }
}

enum Stage {
    Greeting,
    Proving(Nonce),
    Binding(PublicKey),
    Bound(PublicKey),
}

struct Session {
    link: Link,
    stage: Stage,
    inbox: Inbox,
    began: Instant,
    heard: Instant,
}

/// What becomes of a conversation.
enum Next {
    Stays,
    Ends(String),
}

struct Table {
    registry: Sudph,
    socket: Arc<UdpSocket>,
    sessions: HashMap<Peer, Session>,
    /// Those that wait for an acknowledgement.
    busy: HashSet<Peer>,
    unbound: usize,
}

impl Table {
    fn received(&mut self, datagram: &[u8], from: SocketAddr) {
        if datagram.len() < KCP_HEAD_BYTES {
            return;
        }
        let peer = (from, kcp::get_conv(datagram));
        if !self.sessions.contains_key(&peer) {
            // Only the beginning of a conversation begins one. A bound visor that starts again does so from its old port, and
            // what it had there ends by its silence.
            let is_full = self.unbound >= UNBOUND_MAX || self.sessions.len() >= SESSIONS_MAX;
            if kcp::get_sn(datagram) != 0 || is_full {
                return;
            }
            let now = Instant::now();
            let session = Session {
                link: Link::new(peer.1, Arc::clone(&self.socket), from),
                stage: Stage::Greeting,
                inbox: Inbox::default(),
                began: now,
                heard: now,
            };
            self.sessions.insert(peer, session);
            self.unbound += 1;
        }
        let Some(session) = self.sessions.get_mut(&peer) else { return };
        session.heard = Instant::now();
        let was_bound = matches!(session.stage, Stage::Bound(_));
        let next = match session.link.input(datagram) {
            Ok(bytes) => session.advance(&bytes, peer, &self.registry),
            Err(Broken(why)) => Next::Ends(why),
        };
        let is_bound = matches!(session.stage, Stage::Bound(_));
        if !was_bound && is_bound {
            self.unbound -= 1;
        }
        self.note_busy(peer);
        if let Next::Ends(why) = next {
            self.end(peer, &why);
        }
    }

    fn note_busy(&mut self, at: Peer) {
        match self.sessions.get(&at).is_some_and(|session| session.link.is_busy()) {
            true => self.busy.insert(at),
            false => self.busy.remove(&at),
        };
    }

    fn send(&mut self, to: Peer, message: &[u8]) {
        let Some(session) = self.sessions.get_mut(&to) else { return };
        let sent = session.link.send(message);
        self.note_busy(to);
        if let Err(Broken(why)) = sent {
            self.end(to, &why);
        }
    }

    fn tick(&mut self) {
        for at in self.busy.iter().copied().collect::<Vec<_>>() {
            let ticked = self.sessions.get_mut(&at).map_or(Ok(()), |session| session.link.tick());
            self.note_busy(at);
            if let Err(Broken(why)) = ticked {
                self.end(at, &why);
            }
        }
    }

    fn sweep(&mut self, now: Instant) {
        let over = |session: &Session| match session.stage {
            Stage::Bound(_) => now.duration_since(session.heard) > SILENT_MAX,
            _ => now.duration_since(session.began) > HANDSHAKE_TIMEOUT,
        };
        let over: Vec<_> =
            self.sessions.iter().filter(|(_, session)| over(session)).map(|(at, _)| *at).collect();
        for at in over {
            self.end(at, "it is silent");
        }
    }

    fn end(&mut self, at: Peer, why: &str) {
        let Some(session) = self.sessions.remove(&at) else { return };
        self.busy.remove(&at);
        let Stage::Bound(key) = session.stage else {
            self.unbound -= 1;
            tracing::debug!(at = %at.0, why, "a conversation ended before it was bound");
            return;
        };
        tracing::debug!(at = %at.0, %key, why, "a visor's conversation is over");
        let mut bound = self.registry.bound();
        // Unless it has bound anew meanwhile.
        if bound.get(&key).is_some_and(|bound| bound.peer == at) {
            bound.remove(&key);
        }
    }
}

impl Session {
    /// Reads what came and answers.
    fn advance(&mut self, bytes: &[u8], peer: Peer, registry: &Sudph) -> Next {
        if !self.inbox.push(bytes) {
            return Next::Ends("its messages have no end".to_owned());
        }
        loop {
            let step = match &self.stage {
                Stage::Greeting => self.greet(),
                Stage::Proving(nonce) => {
                    let nonce = *nonce;
                    self.prove(&nonce)
                }
                Stage::Binding(key) => {
                    let key = *key;
                    self.bind(key, peer, registry)
                }
                Stage::Bound(_) => self.listen(),
            };
            match step {
                Ok(true) => {}
                Ok(false) => return Next::Stays,
                Err(why) => return Next::Ends(why),
            }
        }
    }

    fn greet(&mut self) -> Result<bool, String> {
        if self.inbox.word(GET_NONCE) {
            let nonce = fresh_nonce();
            self.say(&line(&NonceLine { nonce }))?;
            self.stage = Stage::Proving(nonce);
            return Ok(true);
        }
        match GET_NONCE.starts_with(&self.inbox.0) {
            true => Ok(false),
            false => Err("it does not ask for a nonce".to_owned()),
        }
    }

    fn prove(&mut self, nonce: &Nonce) -> Result<bool, String> {
        let Some(text) = self.inbox.json() else { return Ok(false) };
        match text.and_then(|text| proven(&text, nonce)) {
            Ok(key) => {
                self.say(&line(&Verdict { ok: true, message: String::new() }))?;
                self.stage = Stage::Binding(key);
                Ok(true)
            }
            Err(why) => {
                let _ = self.say(&line(&Verdict { ok: false, message: why.clone() }));
                Err(why)
            }
        }
    }

    fn bind(&mut self, key: PublicKey, peer: Peer, registry: &Sudph) -> Result<bool, String> {
        let Some(text) = self.inbox.json() else { return Ok(false) };
        let mut binding: Binding =
            serde_json::from_slice(&text?).map_err(|error| error.to_string())?;
        if binding.port.parse::<u16>().map_or(true, |port| port == 0) {
            return Err("the port is no number from 1 to 65535".to_owned());
        }
        binding.addresses.retain(|text| text.parse::<std::net::IpAddr>().is_ok());
        binding.addresses.truncate(ADDRESSES_MAX);
        self.stage = Stage::Bound(key);
        tracing::debug!(%key, at = %peer.0, "a visor is bound");
        registry.bound().insert(key, Bound { peer, binding });
        Ok(true)
    }

    fn listen(&mut self) -> Result<bool, String> {
        if self.inbox.word(HEARTBEAT_WORD) {
            return Ok(true);
        }
        if self.inbox.word(UNBIND) {
            return Err("it says so".to_owned());
        }
        let is_part = [HEARTBEAT_WORD, UNBIND].iter().any(|word| word.starts_with(&self.inbox.0));
        if self.inbox.is_empty() || is_part {
            return Ok(false);
        }
        Err("it says what nobody understands".to_owned())
    }

    fn say(&mut self, message: &[u8]) -> Result<(), String> {
        self.link.send(message).map_err(|Broken(why)| why)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The first segment of a conversation, with one byte in it, from the address with this number.
    fn beginning(number: usize) -> ([u8; KCP_HEAD_BYTES + 1], SocketAddr) {
        const PUSH: u8 = 81;
        let mut segment = [0; KCP_HEAD_BYTES + 1];
        segment[0] = 7;
        segment[4] = PUSH;
        segment[6] = 128;
        segment[20] = 1;
        segment[KCP_HEAD_BYTES] = GET_NONCE[0];
        let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
        // The discard port of addresses of this machine.
        (segment, SocketAddr::from(([127, 77, high, low], 9)))
    }

    #[tokio::test]
    async fn conversations_that_never_bind_are_few_and_make_room_in_time() {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let (sessions, busy, unbound) = (HashMap::new(), HashSet::new(), 0);
        let mut table = Table { registry: Sudph::default(), socket, sessions, busy, unbound };
        for number in 0..=UNBOUND_MAX {
            let (segment, from) = beginning(number);
            table.received(&segment, from);
        }
        assert_eq!((table.sessions.len(), table.unbound), (UNBOUND_MAX, UNBOUND_MAX));
        let (segment, late) = beginning(UNBOUND_MAX);
        assert!(!table.sessions.keys().any(|(from, _)| *from == late), "one too many");
        // What is there goes on.
        let (_, first) = beginning(0);
        table.received(&segment, first);
        assert_eq!(table.sessions.len(), UNBOUND_MAX);

        table.sweep(Instant::now() + HANDSHAKE_TIMEOUT + Duration::from_secs(1));
        assert_eq!((table.sessions.len(), table.unbound, table.busy.len()), (0, 0, 0));
        table.received(&segment, late);
        assert_eq!((table.sessions.len(), table.unbound), (1, 1));
    }
}
