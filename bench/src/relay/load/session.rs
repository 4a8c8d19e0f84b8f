//! Sessions and dials of the load, in blocking steps: everything that happens before measured bytes flow.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use dmsg_bench::Result;
use dmsg_engine::{
    identity::{PublicKey, SecretKey},
    noise::{ObjectOpener, Sealer},
    pool::Slice,
    session::{Established, SessionHandshake, Step, write_object},
    wire::{Dialect, SignedObject, StreamRequest, StreamResponse, WireAddr},
};

use super::{
    pattern::id_of,
    yamux::{self, HEADER_BYTES, Header, INITIAL_WINDOW_BYTES},
};

/// A server that does not answer a step of the set-up within this is broken.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a server that hangs up on a new session is given before the first frame: doubled with each try, up to the latter.
const QUIET_MIN: Duration = Duration::from_millis(5);
const QUIET_MAX: Duration = Duration::from_millis(320);

/// A session with a server, between dials.
pub(crate) struct Session {
    pub(crate) socket: TcpStream,
    secret: SecretKey,
    sealer: Sealer,
    opener: ObjectOpener,
    opened: usize,
    /// Credit left on each stream that we opened.
    pub(crate) credit: Vec<u64>,
    /// Bytes of objects that came on streams, by id.
    objects: HashMap<u32, Vec<u8>>,
}

impl Session {
    /// Connects to `server` and does the handshake.
    pub(crate) fn connect(
        address: SocketAddr,
        server: PublicKey,
        secret: SecretKey,
    ) -> Result<Self> {
        let mut socket = TcpStream::connect(address)
            .map_err(|error| format!("cannot connect to the server at {address}: {error}"))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(STEP_TIMEOUT))?;
        let mut message = Vec::new();
        let ephemeral = SecretKey::generate()?;
        let mut handshake = SessionHandshake::initiator(&secret, server, ephemeral, &mut message);
        let mut buffer = [0; 4096];
        let established = loop {
            socket.write_all(&message)?;
            message.clear();
            let count = socket.read(&mut buffer)?;
            if count == 0 {
                return Err("the server closed the connection in the handshake".into());
            }
            let input = Slice::copy_from(&buffer[..count]);
            if let Step::Done(established) = handshake.receive(input, &mut message)? {
                socket.write_all(&message)?;
                break *established;
            }
        };
        let Established { sealer, opener, .. } = established;
        let (credit, objects) = (Vec::new(), HashMap::new());
        Ok(Self { socket, secret, sealer, opener, opened: 0, credit, objects })
    }

    /// Connects, and waits until the server has the session: until it answers a ping. A dial to one whose last handshake message
    /// it has not read yet is refused, and its other threads, or a slower server, may well read the dial first.
    ///
    /// Some servers hang up when anything lies right behind that message (`wire.md §2.4`): they are given more and more time.
    pub(crate) fn connect_and_wait(
        address: SocketAddr,
        server: PublicKey,
        secret: SecretKey,
    ) -> Result<Self> {
        let mut quiet = Duration::ZERO;
        loop {
            let mut session = Self::connect(address, server, secret.clone())?;
            thread::sleep(quiet);
            match session.wait_for_pong() {
                Ok(()) => return Ok(session),
                Err(error) if quiet >= QUIET_MAX || error.kind() == ErrorKind::WouldBlock => {
                    return Err(format!("a new session is of no use: {error}").into());
                }
                Err(_) => quiet = (2 * quiet).max(QUIET_MIN),
            }
        }
    }

    fn wait_for_pong(&mut self) -> std::io::Result<()> {
        self.socket.write_all(&Header::ping(1).encode())?;
        loop {
            let mut header = [0; HEADER_BYTES];
            self.socket.read_exact(&mut header)?;
            let header = Header::decode(&header);
            if header.kind == yamux::PING && header.flags & yamux::ACK != 0 {
                return Ok(());
            }
            if header.kind == yamux::PING {
                self.socket.write_all(&Header::pong(header.length).encode())?;
            }
        }
    }

    pub(crate) fn key(&self) -> PublicKey {
        self.secret.public_key()
    }

    /// As long as a KK message, and what a server takes for one: it begins with a key.
    fn handshake_message(&self) -> Vec<u8> {
        [&self.key().as_bytes()[..], &[9; 16]].concat()
    }

    /// A well-formed, signed request from us to `to`.
    pub(crate) fn request(&self, to: PublicKey) -> Result<SignedObject> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let request = StreamRequest {
            timestamp: i64::try_from(now.as_nanos())?,
            src: WireAddr { key: Some(self.key()), port: 49_153 },
            dst: WireAddr { key: Some(to), port: 80 },
            noise_msg: self.handshake_message(),
            ..StreamRequest::default()
        };
        Ok(SignedObject::sign(&self.secret, &request.encode(Dialect::G24)))
    }

    /// Our signed consent to `request`.
    pub(crate) fn response(&self, request: &SignedObject) -> SignedObject {
        let response = StreamResponse {
            req_hash: request.hash(),
            accepted: true,
            noise_msg: self.handshake_message(),
            ..StreamResponse::default()
        };
        SignedObject::sign(&self.secret, &response.encode(Dialect::G24))
    }

    /// Opens the next stream and sends `request` on it, in one write.
    pub(crate) fn open(&mut self, request: &SignedObject) -> Result<u32> {
        let id = id_of(self.opened);
        self.opened += 1;
        let mut object = Vec::new();
        write_object(&mut self.sealer, request.as_bytes(), &mut object)?;
        self.credit.push(INITIAL_WINDOW_BYTES - object.len() as u64);
        let frames = [
            &Header::update(id, yamux::SYN, 0).encode()[..],
            &Header::data(id, object.len()).encode(),
            &object,
        ];
        self.socket.write_all(&frames.concat())?;
        Ok(id)
    }

    /// Consents on a stream that was opened to us.
    pub(crate) fn accept(&mut self, id: u32, response: &SignedObject) -> Result<()> {
        let mut object = Vec::new();
        write_object(&mut self.sealer, response.as_bytes(), &mut object)?;
        let frames = [
            &Header::update(id, yamux::ACK, 0).encode()[..],
            &Header::data(id, object.len()).encode(),
            &object,
        ];
        Ok(self.socket.write_all(&frames.concat())?)
    }

    /// Ends a stream at once.
    pub(crate) fn reset(&mut self, id: u32) -> Result<()> {
        Ok(self.socket.write_all(&Header::update(id, yamux::RST, 0).encode())?)
    }

    /// Waits for the next object: on the stream `awaited`, or on one that is opened to us. Ends of other streams are nothing to
    /// wonder about.
    pub(crate) fn next_object(&mut self, awaited: Option<u32>) -> Result<(u32, SignedObject)> {
        loop {
            let mut header = [0; HEADER_BYTES];
            self.socket.read_exact(&mut header)?;
            let header = Header::decode(&header);
            let mut body = vec![0; header.body_bytes()];
            self.socket.read_exact(&mut body)?;
            if header.flags & (yamux::RST | yamux::FIN) != 0 {
                if awaited == Some(header.id) {
                    return Err(format!("the server ended stream {} in the dial", header.id).into());
                }
                continue;
            }
            if header.kind == yamux::PING && header.flags & yamux::SYN != 0 {
                self.socket.write_all(&Header::pong(header.length).encode())?;
            }
            if header.kind == yamux::WINDOW_UPDATE && header.id % 2 == 1 {
                let stream = super::pattern::stream_of(header.id);
                if let Some(credit) = self.credit.get_mut(stream) {
                    *credit += u64::from(header.length);
                }
            }
            let bytes = self.objects.entry(header.id).or_default();
            bytes.extend_from_slice(&body);
            let Some(sealed) = complete_object(bytes) else { continue };
            let plain = self.opener.open(sealed)?;
            self.objects.remove(&header.id);
            return Ok((header.id, SignedObject::from_bytes(plain)?));
        }
    }
}

fn complete_object(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

/// A relayed stream from `a` to `b`; returns its ids at both.
pub(crate) fn dial(a: &mut Session, b: &mut Session) -> Result<(u32, u32)> {
    let request = a.request(b.key())?;
    let at_a = a.open(&request)?;
    let (at_b, seen) = b.next_object(None)?;
    if seen != request {
        return Err("the server changed the request".into());
    }
    let response = b.response(&request);
    b.accept(at_b, &response)?;
    let (answered, seen) = a.next_object(Some(at_a))?;
    if (answered, &seen) != (at_a, &response) {
        return Err("the server changed the response".into());
    }
    Ok((at_a, at_b))
}
