//! yamux (`wire.md §3.3`): which frame means what in which state.
//!
//! Frames of a stream, by what they meet. Checks run from top to bottom, and all of them before any
//! state changes; "†" ends the session with go-away 1.
//!
//! | frame | id | action |
//! | --- | --- | --- |
//! | SYN | 0, or of our parity | † [`MuxError::StreamId`] |
//! | SYN | in use | † [`MuxError::DuplicateSyn`] |
//! | SYN, data above the initial window | free | † [`MuxError::WindowExceeded`] |
//! | SYN, delta above the maximum | free | † [`MuxError::CreditOverflow`] |
//! | SYN+RST | free | opened and gone again: nothing is kept or told, payload dropped |
//! | SYN, no room | free | RST in answer, payload dropped, FIN forgotten |
//! | SYN | free | `Opened`, then as below; ACK beside it means nothing |
//! | any | unknown | ignored, payload dropped |
//! | RST | open | `Reset`, the stream is gone; payload dropped, other flags ignored |
//! | FIN | open, finished by the peer | † [`MuxError::SecondFin`] |
//! | data | open, finished by the peer | dropped: it promised to send none |
//! | data above the window | open | † [`MuxError::WindowExceeded`] |
//! | delta | open, finished by us | ignored: we send nothing more |
//! | delta above the maximum | open | † [`MuxError::CreditOverflow`] |
//! | ACK | open | `Acked` if the stream is ours and it is the first, else nothing |
//! | data, delta | open | `Data`, `Credit` |
//! | FIN | open | `Finished`, behind the data |
//!
//! Frames of the session: a ping with SYN is answered, else one with ACK is a `Pong`, else it is
//! ignored; go away 0 is `GoAway`, once, and any other code is [`MuxError::GoAway`]. Their stream
//! id is not looked at. An unknown version or type ends the session without an answer.

mod header;
mod window;

#[cfg(test)]
mod tests;

use self::{
    header::{Flags, HEADER_BYTES, Header, Type},
    window::{RecvWindow, SendWindow},
};
use super::{
    Event, INITIAL_WINDOW_BYTES, MuxConfig, MuxCounters, MuxError, Role, StreamId,
    frame::{Body, HeaderBuffer, Payload},
    id_map::Hint,
    plain::PlainFrame,
    table::{Stream, StreamTable},
};
use crate::pool::{SendQueue, Slice};

/// Go-away code: the peer broke a rule.
const PROTOCOL_ERROR: u32 = 1;

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

/// What the frame at hand still has to tell, beside its payload; in this order.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pending {
    opened: bool,
    acked: bool,
    credit: u32,
    /// Behind the payload.
    finished: bool,
}

/// One yamux connection.
#[derive(Debug)]
pub(super) struct Yamux {
    pub(super) streams: StreamTable<Windows>,
    pub(super) counters: MuxCounters,
    header: HeaderBuffer<HEADER_BYTES>,
    pending: Pending,
    pub(super) body: Body,
    failed: Option<MuxError>,
}

impl Yamux {
    pub(super) fn new(role: Role, config: MuxConfig) -> Self {
        let first_id = match role {
            Role::Client => 1,
            Role::Server => 2,
        };
        Self {
            streams: StreamTable::new(first_id, config.streams_max),
            counters: MuxCounters::default(),
            header: HeaderBuffer::new(),
            pending: Pending::default(),
            body: Body::dropping(StreamId(0), 0),
            failed: None,
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
            if let Some(event) = self.next_pending(input) {
                return Ok(Some(event));
            }
            if self.body.left > 0 {
                return Ok(None);
            }
            let Some(bytes) = self.header.take(input) else { return Ok(None) };
            let header = Header::decode(bytes).map_err(|error| self.fail(error))?;
            self.counters.frames += 1;
            if let Some(event) = self.frame(header, queue)? {
                return Ok(Some(event));
            }
        }
    }

    /// The next thing that the frame at hand has to tell.
    fn next_pending(&mut self, input: &mut Slice) -> Option<Event> {
        let (pending, id) = (&mut self.pending, self.body.id);
        if std::mem::take(&mut pending.opened) {
            return Some(Event::Opened(id));
        }
        if std::mem::take(&mut pending.acked) {
            return Some(Event::Acked(id));
        }
        if pending.credit > 0 {
            return Some(Event::Credit(id, std::mem::take(&mut pending.credit)));
        }
        if let Some(data) = self.body.next(input, &mut self.counters.dropped_bytes) {
            return Some(data);
        }
        if self.body.left == 0 && std::mem::take(&mut pending.finished) {
            self.streams.finish_remote(id);
            return Some(Event::Finished(id));
        }
        None
    }

    fn frame(&mut self, header: Header, queue: &mut SendQueue) -> Result<Option<Event>, MuxError> {
        match header.kind {
            Type::Data | Type::WindowUpdate => self.stream_frame(header, queue),
            Type::Ping => Ok(self.ping_frame(header, queue)),
            Type::GoAway => self.go_away_frame(header.length),
        }
    }

    fn ping_frame(&mut self, header: Header, queue: &mut SendQueue) -> Option<Event> {
        self.counters.pings_received += 1;
        if header.flags.has(Flags::SYN) {
            push(Type::Ping, Flags::ACK, StreamId(0), header.length, queue);
            return None;
        }
        header.flags.has(Flags::ACK).then_some(Event::Pong(header.length))
    }

    fn go_away_frame(&mut self, code: u32) -> Result<Option<Event>, MuxError> {
        if code != 0 {
            return Err(self.fail(MuxError::GoAway(code)));
        }
        let first = !std::mem::replace(&mut self.streams.refuses_ours, true);
        Ok(first.then_some(Event::GoAway))
    }

    /// A data frame or window update: see the table of this module.
    fn stream_frame(
        &mut self,
        header: Header,
        queue: &mut SendQueue,
    ) -> Result<Option<Event>, MuxError> {
        let id = StreamId(header.id);
        let is_data = header.kind == Type::Data;
        let (length, delta) = if is_data { (header.length, 0) } else { (0, header.length) };
        let [reset, finished] = [Flags::RST, Flags::FIN].map(|flag| header.flags.has(flag));
        self.counters.resets_received += u64::from(reset);
        self.counters.empty_data_frames +=
            u64::from(is_data && length == 0 && header.flags.is_empty());
        self.body = Body::dropping(id, length);

        if header.flags.has(Flags::SYN) {
            let windows = self.check_open(id, length, delta);
            let windows = windows.map_err(|error| self.protocol(error, queue))?;
            if !reset && self.admit(id, windows, queue) {
                self.body = Body::keeping(id, length);
                self.counters.data_frames += u64::from(length > 0);
                self.pending = Pending { opened: true, acked: false, credit: delta, finished };
            }
            return Ok(None);
        }
        let Some(stream) = self.streams.get_mut(id) else { return Ok(None) };
        if reset {
            self.streams.remove(id);
            return Ok(Some(Event::Reset(id)));
        }
        if stream.remote_open {
            self.body = Body::keeping(id, length);
        }
        let credit = check_open_stream(stream, header, length, delta);
        let credit = credit.map_err(|error| self.protocol(error, queue))?;
        self.counters.data_frames += u64::from(self.body.is_kept() && length > 0);
        let acked = header.flags.has(Flags::ACK) && self.streams.acknowledge(id);
        self.pending = Pending { opened: false, acked, credit, finished };
        Ok(None)
    }

    /// The windows that a new stream begins with, if the peer may open it with this frame.
    fn check_open(&self, id: StreamId, length: u32, delta: u32) -> Result<Windows, MuxError> {
        if !self.streams.is_theirs(id) {
            return Err(MuxError::StreamId(id.0));
        }
        if self.streams.get(id).is_some() {
            return Err(MuxError::DuplicateSyn(id.0));
        }
        let mut windows = Windows::new();
        if !windows.recv.receive(length) {
            let window = INITIAL_WINDOW_BYTES;
            return Err(MuxError::WindowExceeded { id: id.0, length, window });
        }
        if !windows.send.add(delta) {
            return Err(MuxError::CreditOverflow { id: id.0, delta });
        }
        Ok(windows)
    }

    /// Takes the stream in or refuses it.
    fn admit(&mut self, id: StreamId, windows: Windows, queue: &mut SendQueue) -> bool {
        let admitted = self.streams.admit(id, windows);
        if admitted {
            self.counters.opens_received += 1;
        } else {
            self.counters.resets_sent += 1;
            push(Type::WindowUpdate, Flags::RST, id, 0, queue);
        }
        admitted
    }

    /// Ends the session for a rule that the peer broke, and tells it so.
    fn protocol(&mut self, error: MuxError, queue: &mut SendQueue) -> MuxError {
        push(Type::GoAway, Flags::NONE, StreamId(0), PROTOCOL_ERROR, queue);
        self.fail(error)
    }

    fn fail(&mut self, error: MuxError) -> MuxError {
        self.failed = Some(error);
        error
    }

    pub(super) fn is_between_frames(&self) -> bool {
        self.body.left == 0 && self.header.is_empty() && self.has_told_all()
    }

    pub(super) fn plain_rest(&self) -> Option<PlainFrame> {
        let PlainFrame { id, len } = self.body.rest()?;
        self.has_told_all().then_some(PlainFrame { id, len })
    }

    fn has_told_all(&self) -> bool {
        self.failed.is_none() && self.pending == Pending::default()
    }

    pub(super) fn receive_window(&mut self, id: StreamId, hint: &mut Hint) -> u32 {
        let open = self.streams.find(id, hint).filter(|stream| stream.remote_open);
        open.map_or(0, |stream| stream.windows.recv.left())
    }

    pub(super) fn find_credit(&mut self, id: StreamId, hint: &mut Hint) -> u32 {
        let open = self.streams.find(id, hint).filter(|stream| stream.local_open);
        open.map_or(0, |stream| stream.windows.send.credit())
    }

    pub(super) fn take_plain(&mut self, id: StreamId, bytes: u32, hint: &mut Hint) {
        let taken = self.streams.find(id, hint).map(|stream| stream.windows.recv.receive(bytes));
        debug_assert_eq!(taken, Some(true), "the caller keeps to the window");
    }

    pub(super) fn spend(&mut self, id: StreamId, bytes: u32, hint: &mut Hint) {
        let spent = self.streams.find(id, hint).map(|s| s.windows.send.take(bytes as usize));
        debug_assert_eq!(spent, Some(bytes), "the caller keeps to the credit");
    }

    pub(super) fn open(&mut self, queue: &mut SendQueue) -> Option<StreamId> {
        let id = self.streams.open(Windows::new(), true)?;
        push(Type::WindowUpdate, Flags::SYN, id, 0, queue);
        Some(id)
    }

    pub(super) fn accept(&mut self, id: StreamId, queue: &mut SendQueue) {
        if self.streams.accept(id) {
            push(Type::WindowUpdate, Flags::ACK, id, 0, queue);
        }
    }

    pub(super) fn send_credit(&self, id: StreamId) -> u32 {
        let open = self.streams.get(id).filter(|stream| stream.local_open);
        open.map_or(0, |stream| stream.windows.send.credit())
    }

    pub(super) fn send<P: Payload>(&mut self, id: StreamId, mut payload: P, queue: &mut SendQueue) {
        let Some(stream) = self.streams.get_mut(id).filter(|stream| stream.local_open) else {
            return;
        };
        let length = stream.windows.send.take(payload.len());
        debug_assert_eq!(length as usize, payload.len(), "sent beyond the credit of {id:?}");
        if length > 0 {
            push(Type::Data, Flags::NONE, id, length, queue);
            payload.push_front(length as usize, queue);
        }
    }

    pub(super) fn grant(&mut self, id: StreamId, bytes: u32, eager: bool, queue: &mut SendQueue) {
        let open = self.streams.get_mut(id).filter(|stream| stream.remote_open);
        if let Some(delta) = open.and_then(|stream| stream.windows.recv.grant(bytes, eager)) {
            push(Type::WindowUpdate, Flags::NONE, id, delta, queue);
        }
    }

    pub(super) fn finish(&mut self, id: StreamId, queue: &mut SendQueue) {
        if self.streams.finish_local(id) {
            push(Type::WindowUpdate, Flags::FIN, id, 0, queue);
        }
    }

    pub(super) fn reset(&mut self, id: StreamId, queue: &mut SendQueue) {
        if self.streams.remove(id).is_some() {
            self.forget_pending(id);
            self.counters.resets_sent += 1;
            push(Type::WindowUpdate, Flags::RST, id, 0, queue);
        }
    }

    /// The stream is gone: its frame at hand has nothing more to tell.
    fn forget_pending(&mut self, id: StreamId) {
        if self.body.id == id {
            self.pending = Pending::default();
            self.body.cancel();
        }
    }

    pub(super) fn ping(&mut self, value: u32, queue: &mut SendQueue) {
        push(Type::Ping, Flags::SYN, StreamId(0), value, queue);
    }

    pub(super) fn go_away(&mut self, queue: &mut SendQueue) {
        if !std::mem::replace(&mut self.streams.refuses_theirs, true) {
            push(Type::GoAway, Flags::NONE, StreamId(0), 0, queue);
        }
    }
}

/// Checks a frame without SYN or RST against an open stream and accounts it; returns the credit
/// that the caller must hear of.
fn check_open_stream(
    stream: &mut Stream<Windows>,
    header: Header,
    length: u32,
    delta: u32,
) -> Result<u32, MuxError> {
    let id = header.id;
    if stream.remote_open {
        let window = stream.windows.recv.left();
        if !stream.windows.recv.receive(length) {
            return Err(MuxError::WindowExceeded { id, length, window });
        }
    } else if header.flags.has(Flags::FIN) {
        return Err(MuxError::SecondFin(id));
    }
    if !stream.local_open {
        return Ok(0);
    }
    if !stream.windows.send.add(delta) {
        return Err(MuxError::CreditOverflow { id, delta });
    }
    Ok(delta)
}

fn push(kind: Type, flags: Flags, id: StreamId, length: u32, queue: &mut SendQueue) {
    queue.push_bytes(&Header { kind, flags, id: id.0, length }.encode());
}
