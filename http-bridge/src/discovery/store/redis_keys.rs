//! What a discovery keeps in Redis, and the commands on it.
//!
//! ```text
//!   <key, 66 hex digits>              text of the entry as it is served; Redis expires it
//!   servers · clients · visorClients  sets of such keys                   (as Go discoveries have them, discovery.md §4.3)
//!   dmsg:deadlines                    sorted set: key → Unix milliseconds at which its entry expires
//! ```
//!
//! So a Go discovery on the same Redis serves the same entries. Every command touches one key, as a Cluster demands,
//! and an entry's key spreads over its slots. Therefore an entry and its places in the sets do not change in
//! one step: the entry is written first, by compare-and-set, and what a crash in between leaves out of a
//! set is put right by the entry's next refresh. A member of a set whose entry is gone is left out of every answer that
//! reads the entries, and removed when its deadline has passed.

use std::{sync::LazyLock, time::Duration};

use futures_util::{TryFutureExt, future::try_join_all};
use redis::{
    AsyncCommands, Pipeline, RedisResult, Script,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig},
    cluster::ClusterClientBuilder,
    cluster_async::ClusterConnection,
};

use crate::discovery::ENTRY_BYTES_MAX;

pub(super) const SERVERS: &str = "servers";
pub(super) const CLIENTS: &str = "clients";
pub(super) const VISORS: &str = "visorClients";
const DEADLINES: &str = "dmsg:deadlines";

/// How long a command may take. A Redis on the same network answers within a millisecond; callers of a
/// discovery wait 5 s (`discovery.md §6`).
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);

/// Between two tries to reach a Redis that is down, at most.
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// Keys named by one command, so that a list of 100,000 holds up nobody else's commands.
const KEYS_PER_COMMAND: usize = 1000;

/// The last byte of a text that is read: one more than an entry may have, so that a longer text is known as such. A
/// discovery in Go takes entries of any length into the same Redis.
const LAST_BYTE: usize = ENTRY_BYTES_MAX;

/// Reads texts, each as far as [`LAST_BYTE`], the only argument; an absent one is empty.
static READ: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local texts = {}
        for i, key in ipairs(KEYS) do texts[i] = redis.call('GETRANGE', key, 0, ARGV[1]) end
        return texts",
    )
});

/// Replaces or deletes a text if it is still the one that was read: `KEYS[1]`; the text read (empty: none), the new
/// text (empty: delete), milliseconds until it expires (0: never), [`LAST_BYTE`].
static COMPARE_AND_SET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        if redis.call('GETRANGE', KEYS[1], 0, ARGV[4]) ~= ARGV[1] then return 0 end
        if ARGV[2] == '' then redis.call('DEL', KEYS[1])
        elseif ARGV[3] == '0' then redis.call('SET', KEYS[1], ARGV[2])
        else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
        return 1",
    )
});

/// A connection to one Redis or to a Cluster; both come back by themselves after a failure. Clones share it.
#[derive(Clone)]
pub(super) enum Redis {
    Single(ConnectionManager),
    Cluster(ClusterConnection),
}

/// In which sets an entry has its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) server: bool,
    pub(super) client: bool,
    pub(super) visor: bool,
}

impl Redis {
    /// Connects to a Redis, or to the Cluster that several addresses belong to.
    pub(super) async fn connect(urls: &[String]) -> RedisResult<Self> {
        if let [url] = urls {
            let config = ConnectionManagerConfig::new()
                .set_connection_timeout(Some(COMMAND_TIMEOUT))
                .set_response_timeout(Some(COMMAND_TIMEOUT))
                .set_max_delay(RECONNECT_MAX)
                .set_number_of_retries(1);
            let client = redis::Client::open(url.as_str())?;
            return Ok(Self::Single(ConnectionManager::new_with_config(client, config).await?));
        }
        let client = ClusterClientBuilder::new(urls.iter().map(String::as_str))
            .connection_timeout(COMMAND_TIMEOUT)
            .response_timeout(COMMAND_TIMEOUT)
            .retries(1)
            .build()?;
        Ok(Self::Cluster(client.get_async_connection().await?))
    }

    /// The text of an entry.
    pub(super) async fn text(&self, key: &str) -> RedisResult<Option<Vec<u8>>> {
        let text: Vec<u8> = self.clone().getrange(key, 0, LAST_BYTE.cast_signed()).await?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// The texts of entries, in their order. A Cluster has its keys on several machines, so each is a command there.
    pub(super) async fn texts(&self, keys: &[String]) -> RedisResult<Vec<Option<Vec<u8>>>> {
        if matches!(self, Self::Cluster(_)) {
            return try_join_all(keys.iter().map(|key| self.text(key))).await;
        }
        let parts =
            keys.chunks(KEYS_PER_COMMAND).map(|part| {
                let mut redis = self.clone();
                async move {
                    READ.key(part).arg(LAST_BYTE).invoke_async::<Vec<Vec<u8>>>(&mut redis).await
                }
            });
        let texts = try_join_all(parts).await?.into_iter().flatten();
        Ok(texts.map(|text| Some(text).filter(|text| !text.is_empty())).collect())
    }

    /// Stores `new`, or deletes if it is empty, if the text is still `old`; whether it was.
    pub(super) async fn compare_and_set(
        &self,
        key: &str,
        old: &[u8],
        new: &[u8],
        ttl_ms: u64,
    ) -> RedisResult<bool> {
        let mut redis = self.clone();
        let mut call = COMPARE_AND_SET.key(key);
        call.arg(old).arg(new).arg(ttl_ms).arg(LAST_BYTE).invoke_async(&mut redis).await
    }

    /// Puts an entry into the sets where it belongs, and takes it out of the others.
    pub(super) async fn place(
        &self,
        key: &str,
        places: Places,
        deadline_ms: Option<i64>,
    ) -> RedisResult<()> {
        let sets = [(SERVERS, places.server), (CLIENTS, places.client), (VISORS, places.visor)];
        let sets = try_join_all(sets.map(|(set, belongs)| {
            let mut redis = self.clone();
            async move {
                let change = if belongs { "SADD" } else { "SREM" };
                redis::cmd(change).arg(set).arg(key).query_async::<i64>(&mut redis).await
            }
        }));
        let mut redis = self.clone();
        let deadline = async move {
            match deadline_ms {
                Some(at) => redis.zadd::<_, _, _, i64>(DEADLINES, key, at).await,
                None => redis.zrem::<_, _, i64>(DEADLINES, key).await,
            }
        };
        futures_util::try_join!(sets.map_ok(drop), deadline.map_ok(drop)).map(drop)
    }

    /// Sets when to look again whether an entry has expired.
    pub(super) async fn look_again(&self, key: &str, at_ms: i64) -> RedisResult<()> {
        self.clone().zadd::<_, _, _, i64>(DEADLINES, key, at_ms).await.map(drop)
    }

    /// The members of a set.
    pub(super) async fn members(&self, set: &str) -> RedisResult<Vec<String>> {
        self.clone().smembers(set).await
    }

    /// How many members a set has.
    pub(super) async fn count(&self, set: &str) -> RedisResult<usize> {
        self.clone().scard(set).await
    }

    /// Keys whose deadline has passed, at most [`KEYS_PER_COMMAND`].
    pub(super) async fn due(&self, now_ms: i64) -> RedisResult<Vec<String>> {
        let count = isize::try_from(KEYS_PER_COMMAND).expect("a thousand");
        self.clone().zrangebyscore_limit(DEADLINES, "-inf", now_ms, 0, count).await
    }
}

impl ConnectionLike for Redis {
    fn req_packed_command<'a>(
        &'a mut self,
        cmd: &'a redis::Cmd,
    ) -> redis::RedisFuture<'a, redis::Value> {
        match self {
            Self::Single(redis) => redis.req_packed_command(cmd),
            Self::Cluster(redis) => redis.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> redis::RedisFuture<'a, Vec<redis::Value>> {
        match self {
            Self::Single(redis) => redis.req_packed_commands(cmd, offset, count),
            Self::Cluster(redis) => redis.req_packed_commands(cmd, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(redis) => redis.get_db(),
            Self::Cluster(redis) => redis.get_db(),
        }
    }
}
