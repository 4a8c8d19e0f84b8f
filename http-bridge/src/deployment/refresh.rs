//! Keeping a deployment fresh while running, and over restarts (`deployment-config.md §5`).
//!
//! ```text
//!   <local_path>/deployment_services.json   what the deployment last set: the ground for telling an operator's change
//!   <local_path>/dmsg_servers.json          the relay servers as the discovery last listed them
//!
//!                   equal to the last?  yes ▶ gets the new value      key sets: at once
//!   current value ──┤                                                 addresses: after a restart
//!                   └ no: the operator's ▶ stays
//! ```
//!
//! What a document does not say erases nothing, and an empty list of servers does not either: a bootstrapper that
//! forgets must not take a visor off the net. Files that cannot be read count as absent, with a warning.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use dmsg_engine::client::ServerRecord;
use rand::RngExt;
use tokio::sync::watch;

use super::{
    document::{DOCUMENT_BYTES_MAX, Services},
    field::{DmsgServer, Field, Value},
    file::{self, Access},
    json::Json,
};

/// From the start to the first refresh, beside one [`REFRESH_INTERVAL`].
pub const FIRST_DELAY: Duration = Duration::from_secs(2 * 60);

/// Between two refreshes.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Limit of one refresh.
pub const REFRESH_TIMEOUT: Duration = Duration::from_secs(30);

/// Between two looks at the discovery's list of servers.
pub const SERVERS_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// Servers kept in the cache; a discovery stores as many.
const CACHED_SERVERS_MAX: usize = 2048;

/// What became of a field that the new document says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It has the deployment's value now.
    Updated,
    /// The operator had changed it; it stays.
    Kept,
}

/// The current deployment with what is new, and what became of each field that differs. `last` are the forms in which the
/// deployment's last word may stand in `current`.
#[must_use]
pub fn merge(
    current: &Services,
    last: &[Services],
    new: &Services,
) -> (Services, Vec<(Field, Change)>) {
    let (mut merged, mut changes) = (current.clone(), Vec::new());
    for field in Field::ALL {
        let Some(wanted) = new.get(field) else { continue };
        let ours = current.get(field).filter(|value| !is_empty_list(value));
        if ours == Some(wanted) || (ours.is_none() && is_empty_list(wanted)) {
            continue;
        }
        let is_deployments =
            ours.is_none_or(|ours| last.iter().any(|last| last.get(field) == Some(ours)));
        let erases_servers = field == Field::DmsgServers && is_empty_list(wanted);
        if is_deployments && !erases_servers {
            merged.set(field, wanted.clone());
            changes.push((field, Change::Updated));
        } else {
            changes.push((field, Change::Kept));
        }
    }
    (merged, changes)
}

fn is_empty_list(value: &Value) -> bool {
    match value {
        Value::Keys(keys) => keys.is_empty(),
        Value::Texts(texts) => texts.is_empty(),
        Value::Servers(servers) => servers.is_empty(),
        Value::Url(_) | Value::Text(_) => false,
    }
}

/// The file that remembers what the deployment last set.
#[derive(Debug, Clone)]
pub struct LastGood(PathBuf);

impl LastGood {
    /// The file of this folder (`local_path`).
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self(folder.join("deployment_services.json"))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What it holds; `None` if there is nothing, or nothing that can be read.
    #[must_use]
    pub fn read(&self) -> Option<Services> {
        let text = match file::read_text(&self.0, DOCUMENT_BYTES_MAX) {
            Ok(text) => text?,
            Err(error) => {
                tracing::warn!(file = %self.0.display(), %error, "not read; taken for absent");
                return None;
            }
        };
        match Services::parse(&text) {
            Ok((services, _)) => Some(services),
            Err(problems) => {
                let problems = problems.in_file(&self.0.display().to_string());
                tracing::warn!("taken for absent:\n{problems}");
                None
            }
        }
    }

    /// Remembers.
    pub fn write(&self, services: &Services) -> io::Result<()> {
        let text = Json::Object(services.to_object()).to_pretty();
        file::replace(&self.0, text.as_bytes(), Access::Shared)
    }
}

/// The file that remembers the relay servers.
#[derive(Debug, Clone)]
pub struct ServerCache(PathBuf);

impl ServerCache {
    /// The file of this folder (`local_path`).
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self(folder.join("dmsg_servers.json"))
    }

    /// The remembered servers.
    #[must_use]
    pub fn read(&self) -> Vec<DmsgServer> {
        let text = match file::read_text(&self.0, DOCUMENT_BYTES_MAX) {
            Ok(Some(text)) => text,
            Ok(None) => return Vec::new(),
            Err(error) => {
                tracing::warn!(file = %self.0.display(), %error, "not read; taken for absent");
                return Vec::new();
            }
        };
        let text = format!("{{\"dmsg_servers\":{text}}}");
        match Services::parse(&text) {
            Ok((services, _)) => services.servers().to_vec(),
            Err(problems) => {
                let first = problems.iter().next().map(ToString::to_string).unwrap_or_default();
                tracing::warn!(file = %self.0.display(), "taken for absent: {first}");
                Vec::new()
            }
        }
    }

    /// Remembers these; an empty list changes nothing.
    pub fn write(&self, servers: &[ServerRecord]) -> io::Result<()> {
        if servers.is_empty() {
            return Ok(());
        }
        let server = |record: &ServerRecord| DmsgServer::new(record.key, record.address.clone());
        let servers = servers.iter().take(CACHED_SERVERS_MAX).map(server).collect();
        let text = Value::Servers(servers).to_json().to_pretty();
        file::replace(&self.0, text.as_bytes(), Access::Shared)
    }

    /// The configured servers with the remembered ones over them: configured addresses may be months old.
    #[must_use]
    pub fn over(&self, configured: Vec<ServerRecord>) -> Vec<ServerRecord> {
        let mut records = configured;
        let mut places: HashMap<_, _> =
            records.iter().enumerate().map(|(place, record)| (record.key, place)).collect();
        for server in self.read() {
            let place = *places.entry(server.key).or_insert(records.len());
            match records.get_mut(place) {
                Some(record) => record.address.clone_from(&server.address),
                None => records.push(server.record()),
            }
        }
        records
    }
}

/// The deployment as it is in use, and as it will be after a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    /// What counts now: the key sets are fresh, the addresses those of the start.
    pub in_use: Services,
    /// What counts after a restart.
    pub after_restart: Services,
}

/// Keeps a deployment fresh; [`Refresher::run`] does the work.
pub struct Refresher {
    current: watch::Sender<Current>,
    last: Services,
    file: Option<LastGood>,
}

impl Refresher {
    /// Begins with `current`. `file` remembers what was last applied; without one, that is `published`, the deployment that
    /// the program came with.
    #[must_use]
    pub fn new(current: Services, published: Services, file: Option<LastGood>) -> Self {
        let last = file.as_ref().and_then(LastGood::read).unwrap_or(published);
        let current = Current { in_use: current.clone(), after_restart: current };
        Self { current: watch::Sender::new(current), last, file }
    }

    /// The deployment; changes after each refresh that brought something new.
    #[must_use]
    pub fn current(&self) -> watch::Receiver<Current> {
        self.current.subscribe()
    }

    /// Takes a freshly fetched document over.
    pub fn apply(&mut self, fetched: &Services) -> Vec<(Field, Change)> {
        let before = self.current.borrow().after_restart.clone();
        let (merged, changes) = merge(&before, std::slice::from_ref(&self.last), fetched);
        for (field, change) in &changes {
            match change {
                Change::Updated if field.is_key_set() => tracing::info!(%field, "updated"),
                Change::Updated => tracing::info!(%field, "updated; counts after a restart"),
                Change::Kept => tracing::debug!(%field, "changed by the operator; kept"),
            }
        }
        // A field that this document does not say keeps its last word, or a later one would count as the operator's.
        let mut last = self.last.clone();
        for field in Field::ALL {
            if let Some(value) = fetched.get(field) {
                last.set(field, value.clone());
            }
        }
        if last != self.last {
            if let Some(file) = &self.file
                && let Err(error) = file.write(&last)
            {
                tracing::warn!(file = %file.path().display(), %error, "not written");
            }
            self.last = last;
        }
        if changes.iter().any(|(_, change)| *change == Change::Updated) {
            self.current.send_modify(|current| {
                for (field, change) in &changes {
                    if let (Change::Updated, true, Some(value)) =
                        (change, field.is_key_set(), merged.get(*field))
                    {
                        current.in_use.set(*field, value.clone());
                    }
                }
                current.after_restart = merged;
            });
        }
        changes
    }

    /// Fetches and applies, over and over; never ends. A failure is a line in the log, and the next try comes in time.
    pub async fn run<F, E>(mut self, fetch: impl Fn() -> F)
    where
        F: Future<Output = Result<Services, E>>,
        E: std::fmt::Display,
    {
        tokio::time::sleep(FIRST_DELAY).await;
        loop {
            tokio::time::sleep(jittered(REFRESH_INTERVAL)).await;
            match tokio::time::timeout(REFRESH_TIMEOUT, fetch()).await {
                Ok(Ok(fetched)) => drop(self.apply(&fetched)),
                Ok(Err(error)) => tracing::info!(%error, "the deployment was not refreshed"),
                Err(_) => tracing::info!("the deployment was not refreshed within 30 s"),
            }
        }
    }
}

/// Within a tenth of `period`, so that a fleet that starts together does not ask together.
#[must_use]
pub fn jittered(period: Duration) -> Duration {
    period.mul_f64(rand::rng().random_range(0.9..1.1))
}

#[cfg(test)]
mod tests;
