//! The calls that only read, and the plain posts.

use std::collections::HashMap;

use bytes::Bytes;
use dmsg_engine::identity::PublicKey;
use http::Method;

use super::{ClientError, DiscoveryClient, FetchedEntry, Health, answer};
use crate::discovery::{ENTRY_BYTES_MAX, EntryError, PAGE_MAX, RawEntry};

/// Bytes of an answer that carries one entry or one message.
const SMALL_BYTES_MAX: usize = ENTRY_BYTES_MAX + 1024;

/// Bytes of an answer that lists entries: 2,048 servers of 8 KiB, and as much for a more generous discovery.
const ENTRIES_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes of an answer that lists keys: 200,000 clients with two servers each are 27 MiB.
const KEYS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Keys of one batch request; at a usual 600 bytes an entry the answer is 300 KiB.
const BATCH_KEYS_MAX: usize = 512;

impl DiscoveryClient {
    /// The entry of `key`. A client's entry is verified; [`EntryError::NotFound`] when there is none.
    pub async fn entry(&self, key: PublicKey) -> Result<FetchedEntry, ClientError> {
        let path = format!("/dmsg-discovery/entry/{key}");
        FetchedEntry::judge(&self.get(&path, SMALL_BYTES_MAX).await?, Some(key), &path)
    }

    /// The entries of many keys, asked for in batches; unknown keys and bad entries are left out.
    /// Only discoveries of 2026 and later know the call.
    pub async fn entries_of(
        &self,
        keys: &[PublicKey],
    ) -> Result<HashMap<PublicKey, FetchedEntry>, ClientError> {
        let path = "/dmsg-discovery/entries/batch";
        let mut found = HashMap::new();
        for batch in keys.chunks(BATCH_KEYS_MAX) {
            let texts: Vec<_> = batch.iter().map(ToString::to_string).collect();
            let body = serde_json::to_vec(&texts).expect("strings are JSON").into();
            let answer = self.call(Method::POST, path, body, ENTRIES_BYTES_MAX).await?;
            let entries = answer::entries_by_key(&answer, path)?;
            found.extend(entries.into_iter().filter(|(key, _)| batch.contains(key)));
        }
        Ok(found)
    }

    /// Servers with free capacity, most first; none is [`EntryError::NoServers`].
    pub async fn available_servers(&self) -> Result<Vec<FetchedEntry>, ClientError> {
        self.server_list("/dmsg-discovery/available_servers").await
    }

    /// Every server; none is [`EntryError::NoServers`].
    pub async fn all_servers(&self) -> Result<Vec<FetchedEntry>, ClientError> {
        self.server_list("/dmsg-discovery/all_servers").await
    }

    async fn server_list(&self, path: &str) -> Result<Vec<FetchedEntry>, ClientError> {
        let mut entries = answer::entries(&self.get(path, ENTRIES_BYTES_MAX).await?, path)?;
        entries.retain(|fetched| fetched.entry().server.is_some());
        Ok(entries)
    }

    /// Keys of all clients.
    pub async fn client_keys(&self) -> Result<Vec<PublicKey>, ClientError> {
        self.key_list("/dmsg-discovery/entries").await
    }

    /// Keys of clients above `after`, ascending, at most `limit` and at most [`PAGE_MAX`]: a page of the list. Fewer are
    /// the last page. A discovery that knows no pages answers with the whole list each time, of which the page is cut.
    pub async fn client_keys_after(
        &self,
        after: Option<PublicKey>,
        limit: usize,
    ) -> Result<Vec<PublicKey>, ClientError> {
        let limit = limit.clamp(1, PAGE_MAX);
        let from = after.map(|after| format!("&after={after}")).unwrap_or_default();
        let path = format!("/dmsg-discovery/entries?limit={limit}{from}");
        let mut keys = self.key_list(&path).await?;
        keys.retain(|key| after.is_none_or(|after| *key > after));
        keys.sort_unstable();
        keys.truncate(limit);
        Ok(keys)
    }

    /// Keys of all visors.
    pub async fn visor_keys(&self) -> Result<Vec<PublicKey>, ClientError> {
        self.key_list("/dmsg-discovery/visorEntries").await
    }

    /// Keys of the clients that delegate to `server`.
    pub async fn clients_of(&self, server: PublicKey) -> Result<Vec<PublicKey>, ClientError> {
        self.key_list(&format!("/dmsg-discovery/server/{server}/clients")).await
    }

    async fn key_list(&self, path: &str) -> Result<Vec<PublicKey>, ClientError> {
        answer::keys(&self.get(path, KEYS_BYTES_MAX).await?, path)
    }

    /// Keys of all clients, by the servers they delegate to.
    pub async fn clients_by_server(
        &self,
    ) -> Result<HashMap<PublicKey, Vec<PublicKey>>, ClientError> {
        let path = "/dmsg-discovery/servers/clients";
        answer::keys_by_server(&self.get(path, KEYS_BYTES_MAX).await?, path)
    }

    /// The discovery's health page.
    pub async fn health(&self) -> Result<Health, ClientError> {
        answer::read(&self.get("/health", SMALL_BYTES_MAX).await?, "/health")
    }

    /// Posts a signed entry as it is; [`DiscoveryClient::update`] is the usual way.
    pub async fn post(&self, entry: &RawEntry) -> Result<(), ClientError> {
        let body = Bytes::from(entry.text().to_owned());
        self.call(Method::POST, "/dmsg-discovery/entry/", body, SMALL_BYTES_MAX).await.map(drop)
    }

    /// Deletes by a signed entry as it is; [`DiscoveryClient::withdraw`] is the usual way.
    pub async fn delete(&self, entry: &RawEntry) -> Result<(), ClientError> {
        let body = Bytes::from(entry.text().to_owned());
        self.call(Method::DELETE, "/dmsg-discovery/entry", body, SMALL_BYTES_MAX).await.map(drop)
    }

    async fn get(&self, path: &str, body_max_bytes: usize) -> Result<Bytes, ClientError> {
        self.call(Method::GET, path, Bytes::new(), body_max_bytes).await
    }
}

impl ClientError {
    /// Whether the discovery says that nothing is stored under the key.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        *self == Self::Refused(EntryError::NotFound)
    }
}
