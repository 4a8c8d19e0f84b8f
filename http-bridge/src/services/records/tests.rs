//! Deadlines, bounds, indexes, and what is left after an end.
#![allow(clippy::unwrap_used)]

use dmsg_engine::identity::SecretKey;
use serde::Deserialize;

use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    by: crate::services::KeyText,
    text: String,
}

impl Record for Note {
    fn owners(&self) -> Vec<PublicKey> {
        vec![self.by.0]
    }
}

fn key(name: &str) -> PublicKey {
    SecretKey::from_seed(name.as_bytes()).public_key()
}

fn put(name: &str, text: &str, deadline: i64) -> Edit<Note> {
    let value = Note { by: crate::services::KeyText(key(name)), text: text.into() };
    Edit::Put { key: name.into(), value, deadline: UnixNanos(deadline) }
}

async fn edit(records: &Records<Note>, edits: Vec<Edit<Note>>) -> Result<(), RecordsError> {
    records.edit(|_| Ok(((), edits))).await
}

fn texts(records: &Records<Note>, now: i64) -> Vec<String> {
    let mut texts: Vec<_> =
        records.read().all(UnixNanos(now)).map(|note| note.text.clone()).collect();
    texts.sort();
    texts
}

fn open(database: &Database, max: usize, now: i64) -> Records<Note> {
    Records::open(database, "notes", max, UnixNanos(now)).unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_an_end_unless_it_expired() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.redb");
    {
        let database = Database::open(&path).unwrap();
        let records = open(&database, 10, 0);
        edit(&records, vec![put("a", "1", 100), put("b", "2", 5), put("c", "3", 100)])
            .await
            .unwrap();
        edit(&records, vec![put("a", "4", 100), Edit::Remove { key: "c".into() }]).await.unwrap();
        // A second process must not write the same file.
        assert!(matches!(Database::open(&path), Err(RecordsError::Disk { .. })));
    }
    let database = Database::open(&path).unwrap();
    assert_eq!(texts(&open(&database, 10, 7), 7), ["4"]);
}

#[tokio::test]
async fn expired_records_are_invisible_at_once_and_removed_in_order() {
    let records = open(&Database::memory(), 10, 0);
    edit(&records, vec![put("a", "1", 10), put("b", "2", 20)]).await.unwrap();
    assert_eq!(texts(&records, 10), ["2"]);
    assert_eq!(records.read().get("a", UnixNanos(10)), None);
    assert!(records.read().of(&key("a"), UnixNanos(10)).is_empty());
    assert_eq!((records.count(), records.expire(UnixNanos(10)), records.count()), (2, 1, 1));
    // A refresh moves the deadline.
    edit(&records, vec![put("b", "2", 40)]).await.unwrap();
    assert_eq!((records.expire(UnixNanos(20)), records.count()), (0, 1));
}

#[tokio::test]
async fn a_full_table_refuses_new_keys_and_takes_known_ones() {
    let records = open(&Database::memory(), 2, 0);
    edit(&records, vec![put("a", "1", 10), put("b", "2", 10)]).await.unwrap();
    assert_eq!(edit(&records, vec![put("c", "3", 10)]).await, Err(RecordsError::Full("notes")));
    edit(&records, vec![put("a", "4", 10)]).await.unwrap();
    assert_eq!(texts(&records, 0), ["2", "4"]);
}

#[tokio::test]
async fn owners_find_theirs_and_nothing_is_left_of_the_removed() {
    let records = open(&Database::memory(), 10, 0);
    edit(&records, vec![put("a", "1", 10)]).await.unwrap();
    assert_eq!(records.read().of(&key("a"), UnixNanos(0)).len(), 1);
    edit(&records, vec![Edit::Remove { key: "a".into() }]).await.unwrap();
    let shelf = records.read();
    assert!(shelf.by_owner.is_empty() && shelf.by_deadline.is_empty() && shelf.records.is_empty());
}

#[test]
fn a_file_that_is_none_of_ours_is_an_error_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.redb");
    std::fs::write(&path, "no database at all, but long enough to be looked at".repeat(100))
        .unwrap();
    let error = Database::open(&path).err().unwrap().to_string();
    assert!(error.contains("text.redb"), "{error}");
}

#[tokio::test]
async fn many_edits_at_once_share_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(&folder.path().join("records.redb")).unwrap();
    let records = open(&database, 1000, 0);
    let edits = (0..500).map(|n| edit(&records, vec![put(&n.to_string(), "x", 10)])).map(Box::pin);
    let results = futures_util::future::join_all(edits).await;
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(records.count(), 500);
}
