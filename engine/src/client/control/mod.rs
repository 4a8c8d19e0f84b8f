//! The control thread: everything of a client that is slow, rare, and not a state machine.
//!
//! A small tokio runtime on a thread of its own polls the [`Directory`], resolves host names, keeps
//! the list of servers fresh ([`servers`]), looks peers up ([`resolve`]), publishes the entry
//! ([`publish`]), tells the status ([`status`]), and closes the client. No lock is held over an
//! await, and nothing here is waited for by the engine.

mod names;
mod publish;
mod resolve;
mod servers;
mod status;

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc::UnboundedReceiver, oneshot, watch},
    time::timeout,
};
use tracing::warn;

pub(super) use self::resolve::EntryCache;
use self::resolve::Resolver;
use super::{
    ClientStatus, DialError, Directory, EngineLink,
    machine::{Command, ServerTarget, Shared},
    registry::KeyGuard,
};
use crate::{
    identity::PublicKey,
    pool::{StreamPermit, StreamPool},
};

/// How long the withdrawal of the entry may take when the client closes.
const WITHDRAW_TIMEOUT: Duration = Duration::from_millis(1200);

/// How long the engine may take to end after that. Together with the withdrawal below the 2 s that
/// `close` promises.
const STOP_TIMEOUT: Duration = Duration::from_millis(600);

/// How often one who waits for a place looks whether an abandoned stream has come of age.
const PLACES_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What the handles ask for.
pub(super) enum Request {
    /// The delegated servers of a peer. There are no more of these waiting than streams may exist.
    Resolve {
        peer: PublicKey,
        started: Instant,
        deadline: Instant,
        reply: oneshot::Sender<Result<Arc<[ServerTarget]>, DialError>>,
    },
    /// Waits for a place among the streams until `deadline`, then gives it or `None`. There are no
    /// more of these than `stream_waiters_max`.
    Place {
        turn: oneshot::Receiver<StreamPermit>,
        deadline: Instant,
        reply: oneshot::Sender<Option<StreamPermit>>,
    },
    Close,
}

/// What the control thread starts with.
pub(super) struct Control {
    pub(super) directory: Arc<dyn Directory>,
    pub(super) update_interval: Duration,
    pub(super) link: Arc<EngineLink>,
    pub(super) shared: Arc<Shared>,
    pub(super) cache: Arc<EntryCache>,
    pub(super) requests: UnboundedReceiver<Request>,
    pub(super) status: watch::Sender<ClientStatus>,
}

impl Control {
    /// Starts the thread. It ends after the engine's, and only then is the key free for another
    /// client. An engine that does not end within [`STOP_TIMEOUT`] (its thread may not have had the processor) is left behind
    /// with a warning, and ends as soon as it can.
    pub(super) fn spawn(self, engine: JoinHandle<io::Result<()>>, key: KeyGuard) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let link = Arc::clone(&self.link);
        let started = runtime.and_then(|runtime| {
            thread::Builder::new().name("dmsg-control".to_owned()).spawn(move || {
                let status = self.status.clone();
                let stopped = runtime.block_on(self.run());
                // A host name that is still being looked up must not hold up the end.
                runtime.shutdown_background();
                if stopped {
                    report(engine.join());
                } else {
                    warn!("the engine did not stop in time and is left behind");
                }
                drop(key);
                status.send_replace(ClientStatus::Closed);
            })
        });
        if started.is_err() {
            link.post_release(Command::Close);
        }
        started.map(drop)
    }

    /// Serves until the client is closed or forgotten. True if the engine has stopped.
    async fn run(mut self) -> bool {
        let mut stopped = self.shared.board.stopped.subscribe();
        let notes = status::Notes::default();
        let tasks = [
            tokio::spawn(servers::keep_fresh(
                Arc::clone(&self.directory),
                Arc::clone(&self.link),
                self.shared.board.sessions.subscribe(),
                notes.clone(),
                self.update_interval,
            )),
            tokio::spawn(publish::keep_published(
                Arc::clone(&self.directory),
                self.shared.board.sessions.subscribe(),
                notes.clone(),
            )),
            tokio::spawn(status::keep_current(
                Arc::clone(&self.shared),
                notes.clone(),
                self.status.clone(),
            )),
        ];
        let mut resolver = Resolver::new(Arc::clone(&self.directory), Arc::clone(&self.cache));
        loop {
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(Request::Resolve { peer, started, deadline, reply }) => {
                        resolver.ask(peer, started, deadline, reply);
                    }
                    Some(Request::Place { turn, deadline, reply }) => {
                        let places = self.shared.permits.clone();
                        tokio::spawn(wait_for_place(places, turn, deadline, reply));
                    }
                    Some(Request::Close) | None => break,
                },
                () = resolver.advance() => {}
                _ = stopped.wait_for(|stopped| *stopped) => break,
            }
        }
        tasks[..2].iter().for_each(tokio::task::JoinHandle::abort);
        if notes.was_published() {
            self.withdraw(&mut resolver).await;
        }
        tasks[2].abort();
        self.link.post_release(Command::Close);
        timeout(STOP_TIMEOUT, stopped.wait_for(|stopped| *stopped)).await.is_ok()
    }

    /// Withdraws the entry. The directory may work through this very client, so look-ups are served
    /// meanwhile.
    async fn withdraw(&mut self, resolver: &mut Resolver) {
        let directory = Arc::clone(&self.directory);
        let withdrawal = timeout(WITHDRAW_TIMEOUT, directory.withdraw());
        tokio::pin!(withdrawal);
        loop {
            tokio::select! {
                outcome = &mut withdrawal => {
                    match outcome {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => warn!(%error, "the entry was not withdrawn"),
                        Err(_) => warn!("the entry was not withdrawn in time"),
                    }
                    return;
                }
                Some(request) = self.requests.recv() => {
                    if let Request::Resolve { peer, started, deadline, reply } = request {
                        resolver.ask(peer, started, deadline, reply);
                    }
                }
                () = resolver.advance() => {}
            }
        }
    }
}

/// Waits for a turn on behalf of a dial, which may run without timers.
async fn wait_for_place(
    places: StreamPool,
    mut turn: oneshot::Receiver<StreamPermit>,
    deadline: Instant,
    mut reply: oneshot::Sender<Option<StreamPermit>>,
) {
    let mut look = tokio::time::interval(PLACES_LOOK_INTERVAL);
    let deadline = tokio::time::sleep_until(deadline.into());
    tokio::pin!(deadline);
    let place = loop {
        tokio::select! {
            place = &mut turn => break place.ok(),
            () = reply.closed() => return,
            () = &mut deadline => break None,
            _ = look.tick() => places.pump(),
        }
    };
    drop(reply.send(place));
}

fn report(engine: thread::Result<io::Result<()>>) {
    match engine {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "the engine's driver failed"),
        Err(_) => warn!("the engine's thread panicked"),
    }
}
