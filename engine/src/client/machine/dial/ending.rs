//! How dials end without a stream: tries that fail, cancelling, time-outs.

use tracing::debug;

use super::{Dial, DialId, Opening, Purpose, Wait, patience};
use crate::{
    client::{
        error::{DialError, TryCause},
        link::StreamKey,
        machine::{ClientMachine, Session, Timer, servers::random_u32},
    },
    identity::PublicKey,
    io::Io,
    wire::Addr,
};

impl ClientMachine {
    /// Files the current try as failed, and goes on with the next.
    pub(in crate::client::machine) fn fail_try(
        &mut self,
        io: &mut Io,
        id: DialId,
        cause: TryCause,
    ) {
        self.note_failure(io, id, &cause);
        self.file_try(id, cause);
        if !self.go_on_with_the_other(io, id) {
            self.advance_dial(io, id);
        }
    }

    /// The same for the request on stream `key`, which may be the one beside.
    pub(in crate::client::machine) fn fail_request(
        &mut self,
        io: &mut Io,
        id: DialId,
        key: StreamKey,
        cause: TryCause,
    ) {
        self.turn_to(id, key);
        self.fail_try(io, id, cause);
    }

    /// Has the peer left alone for a while, if it was its fault. If it was dialled by ticket, that may be what it did not like,
    /// since it has changed its program meanwhile: it is dialled once more by handshake, the next in turn.
    fn note_failure(&mut self, io: &mut Io, id: DialId, cause: &TryCause) {
        if let Some(dial) = self.dials.get_mut(&id)
            && let Wait::Response(outstanding) = &dial.wait
            && let Opening::Ticket(resumption) = &outstanding.opening
        {
            self.tickets.forget(&outstanding.to.key, resumption.id());
            dial.tried.remove(&outstanding.server);
            return;
        }
        if let Some(dial) = self.dials.get(&id)
            && let (Some(to), Some(server)) = (dial.peer(), dial.server())
            && patience::counts(cause)
        {
            let began = dial.try_started;
            self.patience.fail(to, server, began, io.now(), random_u32(io));
        }
    }

    pub(super) fn file_try(&mut self, id: DialId, cause: TryCause) {
        let Some(dial) = self.dials.get_mut(&id) else { return };
        if let Some(server) = dial.server() {
            debug!(server = %server.short(), %cause, "dial try failed");
            dial.tries.push((server, cause));
        }
        dial.wait = Wait::Nothing;
    }

    /// No candidate is left.
    pub(super) fn exhausted(&mut self, io: &mut Io, id: DialId) {
        let Some(dial) = self.dials.get_mut(&id) else { return };
        let tries = std::mem::take(&mut dial.tries);
        let elapsed = io.now().duration_since(dial.request.started);
        let refused = |cause: &TryCause| matches!(cause, TryCause::Refused | TryCause::Response(_));
        let error = match dial.peer() {
            Some(to) if tries.is_empty() => DialError::NoDelegatedServers(to.key),
            Some(peer) if tries.iter().any(|(_, cause)| refused(cause)) => {
                DialError::Refused { peer, elapsed, tries }
            }
            Some(to) => DialError::Unreachable { peer: to.key, elapsed, tries },
            None => {
                let server = tries.last().map_or(self.key, |(server, _)| *server);
                DialError::Unreachable { peer: server, elapsed, tries }
            }
        };
        self.fail_dial(io, id, error);
    }

    pub(in crate::client::machine) fn fail_dial(
        &mut self,
        io: &mut Io,
        id: DialId,
        error: DialError,
    ) {
        let Some(dial) = self.end_dial(io, id) else { return };
        match dial.request.purpose {
            Purpose::Stream { reply, .. } => {
                let outcome = Err(error);
                self.shared.board.note_dial(&outcome);
                drop(reply.send(outcome));
            }
            Purpose::Address { reply } => drop(reply.send(Err(error))),
        }
    }

    pub(in crate::client::machine) fn cancel_dial(&mut self, io: &mut Io, id: DialId) {
        drop(self.end_dial(io, id));
    }

    /// Takes a dial out, with its stream and its port.
    fn end_dial(&mut self, io: &mut Io, id: DialId) -> Option<Dial> {
        let dial = self.take_dial(id)?;
        dial.request.lease.release();
        if let Some(beside) = &dial.beside {
            self.reset_on_wire(io, beside.outstanding.key);
        }
        match &dial.wait {
            Wait::Response(outstanding) => self.reset_on_wire(io, outstanding.key),
            Wait::Session(server) if self.waiting_for(*server).is_empty() => {
                if let Some(server) = self.servers.get_mut(server) {
                    server.wanted = false;
                }
            }
            Wait::Session(_) | Wait::Patience | Wait::Nothing => {}
        }
        if let Wait::Session(server) = dial.wait {
            self.give_up_turn(id, &dial.to(server), server);
        }
        Some(dial)
    }

    pub(super) fn give_up_turn(&mut self, id: DialId, to: &Addr, server: PublicKey) {
        if let Some(conn) = self.servers.get(&server).and_then(|server| server.session)
            && let Some(up) = self.sessions.get_mut(&conn).and_then(Session::up_mut)
        {
            up.turns.leave(to, id);
        }
    }

    pub(super) fn take_dial(&mut self, id: DialId) -> Option<Dial> {
        self.timers.cancel(Timer::Dial(id));
        self.timers.cancel(Timer::Try(id));
        self.timers.cancel(Timer::Hedge(id));
        self.dials.remove(&id)
    }

    pub(in crate::client::machine) fn dial_due(&mut self, io: &mut Io, id: DialId) {
        if self.dials.get(&id).is_some_and(|dial| dial.beside.is_some()) {
            self.time_out_request(io, id);
        }
        let Some(dial) = self.dials.get(&id) else { return };
        let (phase, after) = (self.phase(dial), io.now().duration_since(dial.try_started));
        self.note_failure(io, id, &TryCause::TimedOut { phase, after });
        let Some(dial) = self.dials.get_mut(&id) else { return };
        let error = DialError::TimedOut {
            peer: dial.peer().map(|peer| peer.key),
            phase,
            server: dial.server(),
            elapsed: io.now().duration_since(dial.request.started),
            tries: std::mem::take(&mut dial.tries),
        };
        self.fail_dial(io, id, error);
    }

    pub(in crate::client::machine) fn try_due(&mut self, io: &mut Io, id: DialId) {
        let Some(dial) = self.dials.get(&id) else { return };
        match dial.wait {
            Wait::Patience => {}
            // The one beside has waited for longer.
            Wait::Response(_) => while self.time_out_request(io, id) {},
            Wait::Session(server) => {
                let (phase, to) = (self.phase(dial), dial.to(server));
                let after = io.now().duration_since(dial.try_started);
                self.give_up_turn(id, &to, server);
                return self.fail_try(io, id, TryCause::TimedOut { phase, after });
            }
            Wait::Nothing => {}
        }
        self.advance_dial(io, id);
    }

    /// Gives the request at hand up and goes on with the one beside; false if there was none.
    fn time_out_request(&mut self, io: &mut Io, id: DialId) -> bool {
        let Some(dial) = self.dials.get(&id) else { return false };
        let Wait::Response(outstanding) = &dial.wait else { return false };
        let (key, asked_at, phase) = (outstanding.key, dial.try_started, self.phase(dial));
        let cause = TryCause::TimedOut { phase, after: io.now().duration_since(asked_at) };
        self.reset_on_wire(io, key);
        self.suspect(io, key.0, asked_at);
        self.note_failure(io, id, &cause);
        self.file_try(id, cause);
        self.dials.get_mut(&id).is_some_and(Dial::go_on_with_the_other)
    }
}
