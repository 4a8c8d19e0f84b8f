//! Read-modify-write of an own entry (`discovery.md §5`, `§7`).
//!
//! What is signed here is built from what a discovery served, so a lying one must not choose it: members
//! and timestamp are only taken over from an entry that carries our own signature (under any label that a
//! discovery may have written). From any other only the sequence is used, and only if it leaves room:
//! else one answer could make us sign the last sequence number and so lock our key out everywhere.

use std::time::Duration;

use dmsg_engine::identity::{PublicKey, SecretKey};
use tokio::time::{Instant, timeout_at};

use super::{ClientError, DiscoveryClient, FetchedEntry};
use crate::discovery::{Entry, EntryError, RawEntry};

/// Tries of one update; between them 100, 200, 400 and 800 ms pass.
pub const UPDATE_TRIES_MAX: u32 = 5;

const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// The largest sequence taken from an entry that does not carry our signature. One update every
/// millisecond reaches 2^40 after 34 years.
const UNVERIFIED_SEQUENCE_MAX: u64 = 1 << 40;

/// A wait that the discovery asks for with 429 or 503 is kept up to this, whoever calls meanwhile: for longer it would
/// have forgotten a server twice over.
const QUIET_MAX: Duration = Duration::from_secs(120);

/// What is known of the discovery's side of our writes.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// The last iteration that it took from us.
    last: Option<(PublicKey, u64)>,
    /// When it wants to hear from us again. It outlives the call that was told so: callers give up and come back.
    quiet_until: Option<Instant>,
}

impl Written {
    fn sequence_of(&self, key: PublicKey) -> Option<u64> {
        self.last.filter(|(of, _)| *of == key).map(|(_, sequence)| sequence)
    }

    fn told_to_wait(&mut self, error: &ClientError) {
        if let Some(wait) = error.retry_after() {
            self.quiet_until = Some(Instant::now() + wait.min(QUIET_MAX));
        }
    }

    /// Keeps quiet as long as it was told to; an error at once if that is beyond `deadline`.
    async fn keep_quiet(&self, deadline: Instant) -> Result<(), ClientError> {
        let Some(until) = self.quiet_until.filter(|until| *until > Instant::now()) else {
            return Ok(());
        };
        if until > deadline {
            let retry_after = until.saturating_duration_since(Instant::now());
            return Err(ClientError::RateLimited { retry_after });
        }
        tokio::time::sleep_until(until).await;
        Ok(())
    }
}

/// What to do with an own entry.
enum Verb {
    Post,
    Delete,
}

impl DiscoveryClient {
    /// Publishes a new iteration of the entry of `secret`'s key: `change` is applied to the stored entry,
    /// or to a blank one. Returns what was published. `change` may run several times.
    ///
    /// `labels`: server labels that we sign with, so that an own entry is known again when the
    /// discovery wrote its verdict over them; empty for clients.
    pub async fn update(
        &self,
        secret: &SecretKey,
        labels: &[&str],
        change: &(dyn Fn(&mut Entry) + Send + Sync),
    ) -> Result<Entry, ClientError> {
        let written = self.iterate(secret, labels, change, Verb::Post).await?;
        Ok(written.expect("a post always leads to an entry"))
    }

    /// Deletes the entry of `secret`'s key by a freshly signed iteration (`§7.1`). Nothing stored is success.
    pub async fn withdraw(
        &self,
        secret: &SecretKey,
        labels: &[&str],
        change: &(dyn Fn(&mut Entry) + Send + Sync),
    ) -> Result<(), ClientError> {
        self.iterate(secret, labels, change, Verb::Delete).await.map(drop)
    }

    async fn iterate(
        &self,
        secret: &SecretKey,
        labels: &[&str],
        change: &(dyn Fn(&mut Entry) + Send + Sync),
        verb: Verb,
    ) -> Result<Option<Entry>, ClientError> {
        let limit = self.options.update_timeout;
        let deadline = Instant::now() + limit;
        let mut written =
            timeout_at(deadline, self.writer.lock()).await.map_err(|_| ClientError::Busy(limit))?;
        let key = secret.public_key();
        let tries = async {
            let mut backoff = BACKOFF_FIRST;
            for tries_left in (0..UPDATE_TRIES_MAX).rev() {
                written.keep_quiet(deadline).await?;
                let result = self.try_once(secret, labels, change, &verb, &written).await;
                if let Err(error) = &result {
                    written.told_to_wait(error);
                }
                let wait = match result {
                    Ok(entry) => {
                        let sequence = entry.as_ref().map(|entry| (key, entry.sequence));
                        *written = Written { last: sequence.or(written.last), quiet_until: None };
                        return Ok(entry);
                    }
                    Err(error) if tries_left == 0 => return Err(exhausted(error)),
                    Err(ClientError::Refused(
                        EntryError::SequenceNotGreater | EntryError::TimestampBehind,
                    )) => backoff,
                    Err(ClientError::RateLimited { .. } | ClientError::Unavailable { .. }) => {
                        backoff
                    }
                    Err(error) => return Err(error),
                };
                tokio::time::sleep(wait).await;
                backoff *= 2;
            }
            unreachable!("the last try returns")
        };
        timeout_at(deadline, tries).await.unwrap_or(Err(ClientError::Deadline(limit)))
    }

    async fn try_once(
        &self,
        secret: &SecretKey,
        labels: &[&str],
        change: &(dyn Fn(&mut Entry) + Send + Sync),
        verb: &Verb,
        written: &Written,
    ) -> Result<Option<Entry>, ClientError> {
        let key = secret.public_key();
        let stored = match self.entry(key).await {
            Ok(stored) => Some(stored),
            Err(error) if error.is_not_found() => None,
            // Ours in name only: publish over it, as if nothing were known.
            Err(ClientError::Unverified(_)) if matches!(verb, Verb::Post) => None,
            Err(error) => return Err(error),
        };
        if matches!(verb, Verb::Delete) && stored.is_none() {
            return Ok(None);
        }
        let mut next = self.next_iteration(key, stored, labels, written.sequence_of(key))?;
        change(&mut next);
        next.sign(secret);
        let raw = RawEntry::of(next);
        match verb {
            Verb::Post => self.post(&raw).await?,
            Verb::Delete => self.delete(&raw).await?,
        }
        Ok(Some(raw.into_entry()))
    }

    /// The entry to change: the stored one if it is ours, with a newer sequence and timestamp.
    fn next_iteration(
        &self,
        key: PublicKey,
        stored: Option<FetchedEntry>,
        labels: &[&str],
        last_sequence: Option<u64>,
    ) -> Result<Entry, ClientError> {
        let now = self.now().0;
        let (mut entry, stored_sequence) = match stored {
            None => (Entry::blank(key), None),
            Some(s) if s.verified || s.entry().verifies_under_a_label(labels) => {
                let sequence = s.entry().sequence;
                (s.raw.into_entry(), Some(sequence))
            }
            Some(s) => (Entry::blank(key), Some(s.entry().sequence.min(UNVERIFIED_SEQUENCE_MAX))),
        };
        // Newer than the stored one even if our clock is behind: a deletion must be.
        entry.timestamp = now.max(entry.timestamp.saturating_add(1));
        entry.sequence = match stored_sequence.max(last_sequence) {
            None => 0,
            Some(sequence) => sequence.checked_add(1).ok_or(ClientError::SequenceExhausted)?,
        };
        Ok(entry)
    }
}

/// The last try's error, in the words of the whole update.
fn exhausted(error: ClientError) -> ClientError {
    match error {
        ClientError::Refused(EntryError::SequenceNotGreater | EntryError::TimestampBehind) => {
            ClientError::Conflict(UPDATE_TRIES_MAX)
        }
        other => other,
    }
}
