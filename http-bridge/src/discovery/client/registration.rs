//! Keeps a relay server's entry registered (`discovery.md §7.2`).
//!
//! ```text
//!   set_available_sessions ─▶ watch ─▶ task: publish ─ok─▶ wait 60 s, or 1 s after a change ─┐
//!                                       ▲    └─failed─▶ wait 1 s … 30 s, jittered ───────────┤
//!   close ─────────────────────────────────▶ withdraw, then end  ◀───────────────────────────┘
//! ```
//!
//! The relay only writes a number into a watch channel, so nothing here can hold it up.

use std::{sync::Arc, time::Duration};

use dmsg_engine::identity::SecretKey;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use super::{ClientError, DiscoveryClient};
use crate::discovery::{Entry, ServerPart};

const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A wait that the discovery asks for is kept up to this: for longer it would have forgotten us twice over.
const ASKED_MAX: Duration = Duration::from_secs(120);

/// What a server registers.
#[derive(Debug, Clone)]
pub struct RegistrationConfig {
    /// The server's identity.
    pub secret_key: SecretKey,
    /// `host:port` under which clients reach it.
    pub address: String,
    /// `serverType` to claim: a passphrase, or empty.
    pub server_type: String,
    /// How often to refresh; must stay below the 120 s for which a discovery keeps a server.
    pub interval: Duration,
    /// How long changes of the capacity are gathered.
    pub coalesce: Duration,
    /// How long [`ServerRegistration::close`] may take.
    pub close_timeout: Duration,
}

impl RegistrationConfig {
    /// Defaults: refresh each 60 s, changes gathered for 1 s, 5 s to withdraw.
    #[must_use]
    pub fn new(secret_key: SecretKey, address: impl Into<String>) -> Self {
        Self {
            secret_key,
            address: address.into(),
            server_type: String::new(),
            interval: Duration::from_secs(60),
            coalesce: Duration::from_secs(1),
            close_timeout: Duration::from_secs(5),
        }
    }
}

/// How the registration stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistrationStatus {
    /// No publish has ended yet.
    #[default]
    Starting,
    /// The discovery took our entry with this capacity.
    Registered {
        /// Sessions advertised.
        available_sessions: u32,
    },
    /// The last try failed; another follows.
    Failing {
        /// Why.
        error: ClientError,
        /// Tries since the last success.
        failures: u32,
    },
}

/// A running registration with one discovery. Dropping it stops the refreshes, and the entry expires;
/// [`ServerRegistration::close`] deletes it at once.
pub struct ServerRegistration {
    capacity: watch::Sender<u32>,
    status: watch::Receiver<RegistrationStatus>,
    close: Option<oneshot::Sender<()>>,
    close_timeout: Duration,
    task: JoinHandle<()>,
}

impl ServerRegistration {
    /// Starts on the current tokio runtime; the first publish follows at once.
    #[must_use]
    pub fn start(
        client: Arc<DiscoveryClient>,
        config: RegistrationConfig,
        available_sessions: u32,
    ) -> Self {
        let (capacity, capacity_seen) = watch::channel(available_sessions);
        let (status_set, status) = watch::channel(RegistrationStatus::default());
        let (close, closed) = oneshot::channel();
        let close_timeout = config.close_timeout;
        let keeper = Keeper { client, config, capacity: capacity_seen, status: status_set };
        let task = tokio::spawn(keeper.run(closed));
        Self { capacity, status, close: Some(close), close_timeout, task }
    }

    /// Tells how many sessions the server can still take. Never waits.
    pub fn set_available_sessions(&self, available_sessions: u32) {
        self.capacity.send_if_modified(|now| {
            std::mem::replace(now, available_sessions) != available_sessions
        });
    }

    /// How the registration stands, now and from now on.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<RegistrationStatus> {
        self.status.clone()
    }

    /// Deletes the entry and ends, within the configured time.
    pub async fn close(mut self) {
        drop(self.close.take());
        if timeout(self.close_timeout, &mut self.task).await.is_err() {
            tracing::warn!(
                "discovery did not confirm that our entry is withdrawn; it expires in 120 s"
            );
        }
    }
}

impl Drop for ServerRegistration {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Keeper {
    client: Arc<DiscoveryClient>,
    config: RegistrationConfig,
    capacity: watch::Receiver<u32>,
    status: watch::Sender<RegistrationStatus>,
}

impl Keeper {
    async fn run(mut self, mut closed: oneshot::Receiver<()>) {
        tokio::select! {
            () = self.keep() => {}
            _ = &mut closed => {}
        }
        let labels = [self.config.server_type.as_str()];
        let capacity = *self.capacity.borrow();
        let withdrawn =
            self.client.withdraw(&self.config.secret_key, &labels, &self.change(capacity)).await;
        if let Err(error) = withdrawn {
            tracing::warn!(%error, "our entry was not withdrawn from discovery");
        }
    }

    /// Publishes for ever.
    async fn keep(&mut self) {
        let mut failures = 0;
        loop {
            let capacity = *self.capacity.borrow_and_update();
            let labels = [self.config.server_type.as_str()];
            let change = self.change(capacity);
            let published =
                self.client.update(&self.config.secret_key, &labels, &change).await.map(drop);
            drop(change);
            match published {
                Ok(()) => {
                    failures = 0;
                    self.status.send_replace(RegistrationStatus::Registered {
                        available_sessions: capacity,
                    });
                    self.wait_for_refresh(capacity).await;
                }
                Err(error) => {
                    failures += 1;
                    let wait = wait_after(failures, &error);
                    tracing::warn!(%error, failures, ?wait, "registering with discovery failed");
                    self.status.send_replace(RegistrationStatus::Failing { error, failures });
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Until the interval is over, or the capacity has another value than the `acknowledged` one once changes were
    /// gathered. One that came back to it meanwhile is not worth a request.
    async fn wait_for_refresh(&mut self, acknowledged: u32) {
        let refresh_at = Instant::now() + self.config.interval;
        loop {
            tokio::select! {
                () = sleep_until(refresh_at) => return,
                changed = self.capacity.changed() => match changed {
                    Ok(()) => tokio::time::sleep(self.config.coalesce).await,
                    // Nobody can change it any more; the owner is closing.
                    Err(_) => return sleep_until(refresh_at).await,
                },
            }
            if *self.capacity.borrow_and_update() != acknowledged {
                return;
            }
        }
    }

    fn change(&self, available_sessions: u32) -> impl Fn(&mut Entry) + Send + Sync + use<> {
        let (address, server_type) = (self.config.address.clone(), self.config.server_type.clone());
        move |entry| {
            entry.server = Some(ServerPart {
                address: address.clone(),
                available_sessions: i64::from(available_sessions),
                server_type: server_type.clone(),
                ..ServerPart::default()
            });
        }
    }
}

/// Doubles from 1 s to 30 s; the half of it is random, so that servers do not come back in step.
fn wait_after(failures: u32, error: &ClientError) -> Duration {
    let doubled = BACKOFF_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(5));
    let wait = doubled.min(BACKOFF_MAX).mul_f64(rand::random_range(0.5..=1.0));
    let asked = error.retry_after().unwrap_or_default();
    wait.max(asked.min(ASKED_MAX))
}
