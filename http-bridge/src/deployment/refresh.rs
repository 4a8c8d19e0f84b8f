//! Keeping a deployment fresh while running, and over restarts (`deployment-config.md §5`).
//!
//! ```text
//!   <local_path>/deployment_services.json   what the deployment last set: the ground for telling an operator's change
//!   <local_path>/dmsg_servers.json          the relay servers as the discovery last listed them, with its name in each
//!
//!                   equal to the last?  yes ▶ gets the new value      key sets: at once
//!   current value ──┤                                                 addresses: after a restart
//!                   └ no: the operator's ▶ stays                      so does what the operator emptied
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

use super::{
    document::{DOCUMENT_BYTES_MAX, Services},
    field::{Field, ServiceUrl, Value},
    file::{self, Access},
    json::Json,
    server::DmsgServer,
};
use crate::{
    discovery::{DiscoveryClient, client::FetchedEntry},
    service::Endpoints,
};

/// From the start to the first refresh, beside one [`REFRESH_INTERVAL`].
pub const FIRST_DELAY: Duration = Duration::from_secs(2 * 60);

/// Between two refreshes.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Limit of one refresh.
pub const REFRESH_TIMEOUT: Duration = Duration::from_secs(30);

/// Between two looks at the discovery's list of servers.
pub const SERVERS_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// The wait after a first failure to learn them; doubles up to the usual interval.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// What became of a field that the new document says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It has the deployment's value now.
    Updated,
    /// The operator had changed it; it stays.
    Kept,
}

/// The current deployment with what is new, and what became of each field that differs. `last` are the forms in which the
/// deployment's last word may stand in `current`, the first one as it was written there; none if that is not known.
#[must_use]
pub fn merge(
    current: &Services,
    last: &[Services],
    new: &Services,
) -> (Services, Vec<(Field, Change)>) {
    let (mut merged, mut changes) = (current.clone(), Vec::new());
    for field in Field::ALL {
        let Some(wanted) = new.get(field) else { continue };
        let ours = said(current, field);
        if ours == Some(wanted) || (ours.is_none() && is_empty_list(wanted)) {
            continue;
        }
        let is_deployments = match (ours, last.first()) {
            (Some(ours), _) => last.iter().any(|last| last.get(field) == Some(ours)),
            // Never set; or emptied by the operator, who wants nobody there.
            (None, Some(last)) => said(last, field).is_none(),
            // Who knows? Keys give power over the visor, so those are nobody's until somebody says so.
            (None, None) => !field.is_key_set(),
        };
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

/// What a field holds, if that is more than an empty list.
fn said(services: &Services, field: Field) -> Option<&Value> {
    services.get(field).filter(|value| !is_empty_list(value))
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

/// The file that remembers the relay servers of one discovery. Another discovery's are not read: a deployment must not
/// touch the servers of another one (`§2`).
#[derive(Debug, Clone)]
pub struct ServerCache {
    path: PathBuf,
    /// The discovery's key, or its URL if it is reached over HTTP alone.
    discovery: String,
}

/// The member of each element that says whose list it was. Visors of others read the same file and do not mind it.
const LISTED_BY: &str = "discovery";

impl ServerCache {
    /// The file of this folder (`local_path`), for the servers of this discovery; `None` if there is none that would list
    /// any.
    #[must_use]
    pub fn new(folder: &Path, discovery: &Endpoints) -> Option<Self> {
        let discovery = match (&discovery.dmsg, &discovery.http) {
            (Some(url), _) => url.addr().key.to_string(),
            (None, Some(uri)) => ServiceUrl::Http(uri.clone()).to_string(),
            (None, None) => return None,
        };
        Some(Self { path: folder.join("dmsg_servers.json"), discovery })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The remembered servers.
    #[must_use]
    pub fn read(&self) -> Vec<ServerRecord> {
        let text = match file::read_text(&self.path, DOCUMENT_BYTES_MAX) {
            Ok(Some(text)) => text,
            Ok(None) => return Vec::new(),
            Err(error) => {
                tracing::warn!(file = %self.path.display(), %error, "not read; taken for absent");
                return Vec::new();
            }
        };
        let text = format!("{{\"dmsg_servers\":{text}}}");
        match Services::parse(&text) {
            Ok((services, _)) => {
                let is_ours =
                    |server: &&DmsgServer| server.note(LISTED_BY) == Some(&self.discovery);
                services.servers().iter().filter(is_ours).map(DmsgServer::record).collect()
            }
            Err(problems) => {
                let first = problems.iter().next().map(ToString::to_string).unwrap_or_default();
                tracing::warn!(file = %self.path.display(), "taken for absent: {first}");
                Vec::new()
            }
        }
    }

    /// Remembers what the discovery listed, and nothing else; an empty list changes nothing.
    pub fn write(&self, listed: &[ServerRecord]) -> io::Result<()> {
        let mut servers = DmsgServer::listable(listed);
        if servers.is_empty() {
            return Ok(());
        }
        servers.iter_mut().for_each(|server| server.set_note(LISTED_BY, &self.discovery));
        let text = Value::Servers(servers).to_json().to_pretty();
        file::replace(&self.path, text.as_bytes(), Access::Shared)
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
                Some(record) => record.address = server.address,
                None => records.push(server),
            }
        }
        records
    }
}

/// Asks a discovery for its servers, at once and then every [`SERVERS_INTERVAL`], and hands each list over; never ends.
/// While it fails, it is asked again after a second, then ever later.
pub async fn follow_servers<F>(discovery: DiscoveryClient, take: impl Fn(Vec<ServerRecord>) -> F)
where
    F: Future<Output = ()>,
{
    let mut retry = RETRY_FIRST;
    loop {
        let wait = match discovery.all_servers().await {
            Ok(entries) => {
                take(listed(&entries)).await;
                retry = RETRY_FIRST;
                SERVERS_INTERVAL
            }
            Err(error) => {
                tracing::info!(%error, "the servers were not refreshed; the last good list stays");
                let wait = retry;
                retry = (retry * 2).min(SERVERS_INTERVAL);
                wait
            }
        };
        tokio::time::sleep(jittered(wait)).await;
    }
}

/// The servers of a list, official ones first: where it is cut, the others go. The discovery's order means nothing, and
/// a change of it is no news.
fn listed(entries: &[FetchedEntry]) -> Vec<ServerRecord> {
    let mut servers: Vec<(bool, ServerRecord)> = entries
        .iter()
        .filter_map(|fetched| {
            let server = fetched.entry().server.as_ref()?;
            let (key, address) = (fetched.entry().key?, server.address.clone());
            let is_official = server.server_type == "official";
            Some((is_official, ServerRecord { key, address, available_sessions: 1 }))
        })
        .collect();
    servers.sort_by_key(|(is_official, server)| (!is_official, server.key));
    servers.into_iter().map(|(_, server)| server).collect()
}

/// Within a tenth of `period`, so that a fleet that starts together does not ask together.
#[must_use]
pub fn jittered(period: Duration) -> Duration {
    period.mul_f64(rand::rng().random_range(0.9..1.1))
}

#[cfg(test)]
mod tests;
