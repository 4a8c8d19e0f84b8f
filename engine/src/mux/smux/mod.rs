//! smux versions 1 and 2 (`wire.md §3.4`): which frame means what in which state.
//!
//! | frame | stream | action |
//! | --- | --- | --- |
//! | SYN | id 0, or of our parity | [`MuxError::StreamId`] |
//! | SYN | in use | ignored |
//! | SYN, no room | free | FIN in answer: there is no reset |
//! | SYN | free | `Opened` |
//! | PSH, empty | any | skipped |
//! | PSH | unknown, or finished by the peer | dropped |
//! | PSH beyond the window (version 2) | open | FIN in answer, `Reset`; payload dropped |
//! | PSH | open | `Data` |
//! | FIN | unknown, or finished by the peer | ignored |
//! | FIN | open | `Finished` |
//! | UPD (version 2) | unknown, or finished by us | ignored |
//! | UPD, more consumed than written | open | FIN in answer, `Reset` |
//! | UPD | open | `Credit` if our credit has grown |
//! | NOP | – | ignored |
//!
//! Errors end the session without an answer, as smux has none to give; so does an unknown version
//! or command, or a length that the command cannot have. A broken window is the matter of its
//! stream only.
//!
//! There is no half-close between Go peers: one that ends its direction forgets the stream. What
//! comes after is dropped there as it is here once both directions have ended.

mod header;
mod window;

#[cfg(test)]
mod tests;

pub(super) use self::header::Version;
use self::{
    header::{Command, HEADER_BYTES, Header, UPDATE_BYTES, Update},
    window::{RecvWindow, SendWindow},
};
use super::{
    Event, MuxConfig, MuxCounters, MuxError, MuxKind, Role, SMUX_FRAME_MAX_BYTES, StreamId,
    frame::{Body, HeaderBuffer, Payload},
    id_map::Hint,
    plain::PlainFrame,
    table::StreamTable,
};
use crate::pool::{SendQueue, Slice};

/// Used in version 2 only.
#[derive(Debug)]
pub(super) struct Windows {
    send: SendWindow,
    recv: RecvWindow,
}

impl Windows {
    fn new() -> Self {
        Self { send: SendWindow::new(), recv: RecvWindow::new() }
    }
}

/// One smux connection.
#[derive(Debug)]
pub(super) struct Smux {
    pub(super) streams: StreamTable<Windows>,
    pub(super) counters: MuxCounters,
    version: Version,
    header: HeaderBuffer<HEADER_BYTES>,
    /// The header was an update of this stream: its payload comes next.
    update_of: Option<StreamId>,
    pub(super) body: Body,
    failed: Option<MuxError>,
}

impl Smux {
    pub(super) fn new(version: Version, role: Role, config: MuxConfig) -> Self {
        let first_id = match role {
            Role::Client => 3,
            Role::Server => 2,
        };
        Self {
            streams: StreamTable::new(first_id, config.streams_max),
            counters: MuxCounters::default(),
            version,
            header: HeaderBuffer::new(),
            update_of: None,
            body: Body::dropping(StreamId(0), 0),
            failed: None,
        }
    }

    pub(super) fn kind(&self) -> MuxKind {
        match self.version {
            Version::V1 => MuxKind::SmuxV1,
            Version::V2 => MuxKind::SmuxV2,
        }
    }

    pub(super) fn next_event(
        &mut self,
        input: &mut Slice,
        queue: &mut SendQueue,
    ) -> Result<Option<Event>, MuxError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        loop {
            if let Some(data) = self.body.next(input, &mut self.counters.dropped_bytes) {
                return Ok(Some(data));
            }
            if self.body.left > 0 {
                return Ok(None);
            }
            let Some(bytes) = self.header.take(input) else { return Ok(None) };
            let event = match self.update_of.take() {
                Some(id) => self.update_frame(id, Update::decode(bytes), queue),
                None => self.frame(bytes, queue).map_err(|error| *self.failed.insert(error))?,
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// A header, and with it all of a frame but payload: see the table of this module.
    fn frame(
        &mut self,
        bytes: [u8; HEADER_BYTES],
        queue: &mut SendQueue,
    ) -> Result<Option<Event>, MuxError> {
        let header = Header::decode(self.version, bytes)?;
        let id = StreamId(header.id);
        self.counters.frames += 1;
        match header.command {
            Command::Syn => self.syn_frame(id, queue),
            Command::Fin => Ok(self.streams.finish_remote(id).then_some(Event::Finished(id))),
            Command::Push => Ok(self.push_frame(id, header.length, queue)),
            Command::Nop => {
                self.counters.pings_received += 1;
                Ok(None)
            }
            Command::Update => {
                self.update_of = Some(id);
                Ok(None)
            }
        }
    }

    fn syn_frame(
        &mut self,
        id: StreamId,
        queue: &mut SendQueue,
    ) -> Result<Option<Event>, MuxError> {
        if !self.streams.is_theirs(id) {
            return Err(MuxError::StreamId(id.0));
        }
        if self.streams.get(id).is_some() {
            return Ok(None);
        }
        if self.streams.admit(id, Windows::new()) {
            self.counters.opens_received += 1;
            return Ok(Some(Event::Opened(id)));
        }
        self.counters.resets_sent += 1;
        self.push(Command::Fin, id, 0, queue);
        Ok(None)
    }

    fn push_frame(&mut self, id: StreamId, length: u16, queue: &mut SendQueue) -> Option<Event> {
        self.counters.empty_data_frames += u64::from(length == 0);
        self.body = Body::dropping(id, u32::from(length));
        let stream = self.streams.get_mut(id).filter(|stream| stream.remote_open)?;
        if self.version == Version::V2 && !stream.windows.recv.receive(u32::from(length)) {
            self.reset(id, queue);
            return Some(Event::Reset(id));
        }
        self.counters.data_frames += u64::from(length > 0);
        self.body = Body::keeping(id, u32::from(length));
        None
    }

    fn update_frame(
        &mut self,
        id: StreamId,
        update: Update,
        queue: &mut SendQueue,
    ) -> Option<Event> {
        let stream = self.streams.get_mut(id).filter(|stream| stream.local_open)?;
        match stream.windows.send.update(update) {
            Ok(grown) => grown.map(|bytes| Event::Credit(id, bytes)),
            Err(window::Inconsistent) => {
                self.reset(id, queue);
                Some(Event::Reset(id))
            }
        }
    }

    pub(super) fn is_between_frames(&self) -> bool {
        let no_frame = self.body.left == 0 && self.header.is_empty() && self.update_of.is_none();
        no_frame && self.failed.is_none()
    }

    pub(super) fn plain_rest(&self) -> Option<PlainFrame> {
        self.body.rest().filter(|_| self.failed.is_none())
    }

    pub(super) fn receive_window(&mut self, id: StreamId, hint: &mut Hint) -> u32 {
        let open = self.streams.find(id, hint).filter(|stream| stream.remote_open);
        open.map_or(0, |stream| match self.version {
            Version::V1 => u32::MAX,
            Version::V2 => stream.windows.recv.left(),
        })
    }

    pub(super) fn find_credit(&mut self, id: StreamId, hint: &mut Hint) -> u32 {
        let open = self.streams.find(id, hint).filter(|stream| stream.local_open);
        open.map_or(0, |stream| match self.version {
            Version::V1 => u32::MAX,
            Version::V2 => stream.windows.send.credit(),
        })
    }

    pub(super) fn take_plain(&mut self, id: StreamId, bytes: u32, hint: &mut Hint) {
        if self.version == Version::V2
            && let Some(stream) = self.streams.find(id, hint)
        {
            let taken = stream.windows.recv.receive(bytes);
            debug_assert!(taken, "the caller keeps to the window");
        }
    }

    pub(super) fn spend(&mut self, id: StreamId, bytes: u32, hint: &mut Hint) {
        if self.version == Version::V2
            && let Some(stream) = self.streams.find(id, hint)
        {
            let spent = stream.windows.send.take(bytes as usize);
            debug_assert_eq!(spent, bytes, "the caller keeps to the credit");
        }
    }

    pub(super) fn open(&mut self, queue: &mut SendQueue) -> Option<StreamId> {
        let id = self.streams.open(Windows::new(), false)?;
        self.push(Command::Syn, id, 0, queue);
        Some(id)
    }

    /// Nothing is sent: smux does not acknowledge.
    pub(super) fn accept(&mut self, id: StreamId, _queue: &mut SendQueue) {
        self.streams.accept(id);
    }

    pub(super) fn send_credit(&self, id: StreamId) -> u32 {
        let open = self.streams.get(id).filter(|stream| stream.local_open);
        open.map_or(0, |stream| match self.version {
            Version::V1 => u32::MAX,
            Version::V2 => stream.windows.send.credit(),
        })
    }

    pub(super) fn send<P: Payload>(&mut self, id: StreamId, mut payload: P, queue: &mut SendQueue) {
        let Some(stream) = self.streams.get_mut(id).filter(|stream| stream.local_open) else {
            return;
        };
        let mut left = payload.len();
        if self.version == Version::V2 {
            left = stream.windows.send.take(left) as usize;
            debug_assert_eq!(left, payload.len(), "sent beyond the credit of {id:?}");
        }
        while left > 0 {
            let length = left.min(SMUX_FRAME_MAX_BYTES);
            let on_wire = u16::try_from(length).expect("SMUX_FRAME_MAX_BYTES fits");
            self.push(Command::Push, id, on_wire, queue);
            payload.push_front(length, queue);
            left -= length;
        }
    }

    pub(super) fn grant(&mut self, id: StreamId, bytes: u32, eager: bool, queue: &mut SendQueue) {
        if self.version == Version::V1 {
            return;
        }
        let open = self.streams.get_mut(id).filter(|stream| stream.remote_open);
        if let Some(update) = open.and_then(|stream| stream.windows.recv.grant(bytes, eager)) {
            self.push(Command::Update, id, UPDATE_BYTES, queue);
            queue.push_bytes(&update.encode());
        }
    }

    pub(super) fn finish(&mut self, id: StreamId, queue: &mut SendQueue) {
        if self.streams.finish_local(id) {
            self.push(Command::Fin, id, 0, queue);
        }
    }

    pub(super) fn reset(&mut self, id: StreamId, queue: &mut SendQueue) {
        let Some(stream) = self.streams.remove(id) else { return };
        self.counters.resets_sent += 1;
        if self.body.id == id {
            self.body.cancel();
        }
        if stream.local_open {
            self.push(Command::Fin, id, 0, queue);
        }
    }

    pub(super) fn ping(&mut self, _value: u32, queue: &mut SendQueue) {
        self.push(Command::Nop, StreamId(0), 0, queue);
    }

    /// Nothing is sent: smux has no go-away.
    pub(super) fn go_away(&mut self, _queue: &mut SendQueue) {
        self.streams.refuses_theirs = true;
    }

    fn push(&self, command: Command, id: StreamId, length: u16, queue: &mut SendQueue) {
        queue.push_bytes(&Header { command, length, id: id.0 }.encode(self.version));
    }
}
