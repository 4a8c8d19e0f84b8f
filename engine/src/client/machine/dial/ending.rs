//! How dials end without a stream: tries that fail, cancelling, time-outs.

use tracing::debug;

use super::{Dial, DialId, Purpose, Wait, patience};
use crate::{
    client::{
        error::{DialError, TryCause},
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
        self.advance_dial(io, id);
    }

    /// Has the peer left alone for a while, if it was its fault.
    fn note_failure(&mut self, io: &mut Io, id: DialId, cause: &TryCause) {
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
        let refused = |cause: &TryCause| matches!(cause, TryCause::Refused | TryCause::Response(_));
        let error = match dial.peer() {
            Some(to) if tries.is_empty() => DialError::NoDelegatedServers(to.key),
            Some(peer) if tries.iter().any(|(_, cause)| refused(cause)) => {
                DialError::Refused { peer, tries }
            }
            Some(to) => DialError::Unreachable { peer: to.key, tries },
            None => {
                let server = tries.last().map_or(self.key, |(server, _)| *server);
                DialError::Unreachable { peer: server, tries }
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

    fn give_up_turn(&mut self, id: DialId, to: &Addr, server: PublicKey) {
        if let Some(conn) = self.servers.get(&server).and_then(|server| server.session)
            && let Some(up) = self.sessions.get_mut(&conn).and_then(Session::up_mut)
        {
            up.turns.leave(to, id);
        }
    }

    pub(super) fn take_dial(&mut self, id: DialId) -> Option<Dial> {
        self.timers.cancel(Timer::Dial(id));
        self.timers.cancel(Timer::Try(id));
        self.dials.remove(&id)
    }

    pub(in crate::client::machine) fn dial_due(&mut self, io: &mut Io, id: DialId) {
        let Some(dial) = self.dials.get(&id) else { return };
        let (phase, after) = (self.phase(dial), io.now().duration_since(dial.try_started));
        self.note_failure(io, id, &TryCause::TimedOut { phase, after });
        let Some(dial) = self.dials.get_mut(&id) else { return };
        let error = DialError::TimedOut {
            phase,
            server: dial.server(),
            elapsed: io.now().duration_since(dial.request.started),
            tries: std::mem::take(&mut dial.tries),
        };
        self.fail_dial(io, id, error);
    }

    pub(in crate::client::machine) fn try_due(&mut self, io: &mut Io, id: DialId) {
        let Some(dial) = self.dials.get(&id) else { return };
        if let Wait::Patience = dial.wait {
            return self.advance_dial(io, id);
        }
        let phase = self.phase(dial);
        if let Wait::Session(server) = dial.wait {
            let to = dial.to(server);
            self.give_up_turn(id, &to, server);
        }
        let Some(dial) = self.dials.get(&id) else { return };
        let cause = TryCause::TimedOut { phase, after: io.now().duration_since(dial.try_started) };
        if let Wait::Response(outstanding) = &dial.wait {
            let key = outstanding.key;
            self.reset_on_wire(io, key);
        }
        self.fail_try(io, id, cause);
    }
}
