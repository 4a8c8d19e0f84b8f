#![allow(clippy::unwrap_used)]

use std::{fs, time::Duration};

use dmsg_engine::identity::SecretKey;

use super::{redb_store::CHANGES_MAX, *};
use crate::discovery::{Entry, RawEntry, Signed};

const NOW: UnixNanos = UnixNanos(1_700_000_000_000_000_000);

fn secret(name: &str) -> SecretKey {
    SecretKey::from_seed(name.as_bytes())
}

fn key(name: &str) -> PublicKey {
    secret(name).public_key()
}

fn client(name: &str, sequence: u64, delegated: &[&str], ttl_s: u64) -> Record {
    let mut entry = Entry::client(key(name), delegated.iter().map(|d| key(d)).collect());
    entry.sequence = sequence;
    entry.timestamp = NOW.0;
    signed(entry, name, ttl_s, ServerLabel::Community)
}

fn server(name: &str, label: ServerLabel) -> Record {
    let mut entry = Entry::server(key(name), "203.0.113.9:80", 5);
    entry.timestamp = NOW.0;
    signed(entry, name, 120, label)
}

fn signed(mut entry: Entry, name: &str, ttl_s: u64, label: ServerLabel) -> Record {
    entry.sign(&secret(name));
    let raw = RawEntry::of(entry);
    Record::new(&raw, Signed::Text, label, NOW.plus(Duration::from_secs(ttl_s))).unwrap()
}

fn later(seconds: u64) -> UnixNanos {
    NOW.plus(Duration::from_secs(seconds))
}

/// Runs the same test on both stores.
fn on_each(limits: StoreLimits, test: impl Fn(&dyn Store)) {
    test(&MemoryStore::new(limits));
    let folder = tempfile::tempdir().unwrap();
    test(&RedbStore::open(&folder.path().join("entries"), limits, NOW).unwrap());
}

fn entry_error<T: std::fmt::Debug>(result: Result<T, StoreError>) -> EntryError {
    result.unwrap_err().entry().unwrap()
}

#[test]
fn only_a_newer_iteration_replaces_an_entry() {
    on_each(StoreLimits::default(), |store| {
        assert_eq!(store.put(client("a", 5, &[], 60), NOW).unwrap(), Written::Created);
        for sequence in [0, 4, 5] {
            let result = store.put(client("a", sequence, &[], 60), NOW);
            assert_eq!(entry_error(result), EntryError::SequenceNotGreater);
        }
        let behind = Record { timestamp: NOW.0 - 1, ..client("a", 6, &[], 60) };
        assert_eq!(entry_error(store.put(behind, NOW)), EntryError::TimestampBehind);
        assert_eq!(store.put(client("a", 9, &[], 60), NOW).unwrap(), Written::Updated);
        // Once expired, an entry binds nobody.
        assert_eq!(store.put(client("a", 0, &[], 120), later(60)).unwrap(), Written::Created);
    });
}

#[test]
fn an_expired_entry_is_invisible_before_it_is_removed() {
    on_each(StoreLimits::default(), |store| {
        store.put(client("short", 0, &["s"], 10), NOW).unwrap();
        store.put(client("long", 0, &["s"], 20), NOW).unwrap();
        store.put(server("s", ServerLabel::Official), NOW).unwrap();
        assert!(store.find(&key("short"), later(9)).unwrap().is_some());
        assert!(store.find(&key("short"), later(10)).unwrap().is_none());
        assert_eq!(store.clients_of(&key("s"), later(10)).unwrap(), [key("long")]);
        assert_eq!(store.client_keys(ClientFilter::All, later(10)).unwrap(), [key("long")]);
        assert_eq!(store.counts().entries, 3);
        assert_eq!(store.expire(later(10)).unwrap(), 1);
        assert_eq!(store.expire(later(10)).unwrap(), 0);
        assert_eq!(store.counts().entries, 2);
        assert_eq!(store.expire(later(1000)).unwrap(), 2);
        assert_eq!(store.counts(), Counts::default());
        assert!(store.clients_by_server(NOW).unwrap().is_empty());
    });
}

#[test]
fn the_lists_follow_every_change_of_an_entry() {
    on_each(StoreLimits::default(), |store| {
        store.put(client("a", 0, &["s", "t", "s"], 60), NOW).unwrap();
        let joined = store.membership();
        store.put(client("a", 1, &["t"], 60), NOW).unwrap();
        assert_eq!(store.membership(), joined);
        assert!(store.clients_of(&key("s"), NOW).unwrap().is_empty());
        assert_eq!(store.clients_by_server(NOW).unwrap(), [(key("t"), vec![key("a")])]);
        assert!(store.client_keys(ClientFilter::Visors, NOW).unwrap().is_empty());

        let mut visor = Entry::client(key("a"), Vec::new());
        visor.client_type = "visor".into();
        visor.sequence = 2;
        visor.timestamp = NOW.0;
        store.put(signed(visor, "a", 60, ServerLabel::Community), NOW).unwrap();
        assert_ne!(store.membership(), joined);
        assert_eq!(store.client_keys(ClientFilter::Visors, NOW).unwrap(), [key("a")]);

        let refuse = |_: &Record| Err(EntryError::InvalidSignature);
        let refused = store.delete(&key("a"), &refuse, NOW);
        assert_eq!(entry_error(refused), EntryError::InvalidSignature);
        assert!(store.delete(&key("a"), &|_| Ok(()), NOW).unwrap());
        assert!(!store.delete(&key("a"), &|_| Ok(()), NOW).unwrap());
        assert_eq!(store.counts(), Counts::default());
    });
}

#[test]
fn a_full_store_takes_updates_but_no_new_keys() {
    let limits = StoreLimits { entries_max: 2, ..StoreLimits::default() };
    on_each(limits, |store| {
        store.put(client("a", 0, &[], 60), NOW).unwrap();
        store.put(client("b", 0, &[], 60), NOW).unwrap();
        let full = store.put(client("c", 0, &[], 60), NOW);
        assert!(matches!(full, Err(StoreError::Full("the number of entries"))));
        assert_eq!(store.put(client("a", 1, &[], 60), NOW).unwrap(), Written::Updated);
    });

    let text_bytes = client("a", 0, &[], 60).text_bytes();
    let limits = StoreLimits { text_bytes_max: text_bytes, ..StoreLimits::default() };
    on_each(limits, |store| {
        store.put(client("a", 0, &[], 60), NOW).unwrap();
        let full = store.put(client("b", 0, &[], 60), NOW);
        assert!(matches!(full, Err(StoreError::Full("the size of entries"))));
        assert_eq!(store.put(client("a", 1, &[], 60), NOW).unwrap(), Written::Updated);
    });

    let limits = StoreLimits { servers_max: 1, ..StoreLimits::default() };
    on_each(limits, |store| {
        store.put(server("a", ServerLabel::Community), NOW).unwrap();
        let full = store.put(server("b", ServerLabel::Community), NOW);
        assert!(matches!(full, Err(StoreError::Full("the number of servers"))));
        store.put(server("official", ServerLabel::Official), NOW).unwrap();
    });
}

#[test]
fn entries_labels_and_deadlines_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("entries");
    let records =
        [client("a", 7, &["s"], 60), client("gone", 0, &[], 5), server("s", ServerLabel::Official)];
    {
        let store = RedbStore::open(&path, StoreLimits::default(), NOW).unwrap();
        for record in &records {
            store.put(record.clone(), NOW).unwrap();
        }
        store.put(client("deleted", 0, &[], 60), NOW).unwrap();
        store.delete(&key("deleted"), &|_| Ok(()), NOW).unwrap();
    }
    let store = RedbStore::open(&path, StoreLimits::default(), later(30)).unwrap();
    assert_eq!(store.counts().entries, 2);
    assert_eq!(*store.find(&key("a"), later(59)).unwrap().unwrap(), records[0]);
    assert_eq!(*store.find(&key("s"), later(59)).unwrap().unwrap(), records[2]);
    assert!(store.find(&key("a"), later(60)).unwrap().is_none());
    assert!(store.find(&key("gone"), NOW).unwrap().is_none());
    assert!(store.find(&key("deleted"), NOW).unwrap().is_none());
    assert_eq!(store.clients_of(&key("s"), later(30)).unwrap(), [key("a")]);
}

#[test]
fn registrants_at_once_share_the_disk_and_lose_nothing() {
    const REGISTRANTS: usize = 8;
    const EACH: usize = 50;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("entries");
    let store = RedbStore::open(&path, StoreLimits::default(), NOW).unwrap();
    std::thread::scope(|scope| {
        for registrant in 0..REGISTRANTS {
            let store = &store;
            scope.spawn(move || {
                for count in 0..EACH {
                    store.put(client(&format!("{registrant} {count}"), 0, &[], 60), NOW).unwrap();
                    store.flush().unwrap();
                }
            });
        }
    });
    // What a crash leaves: the file as it is, without the store's own last words.
    let copy = folder.path().join("copy");
    fs::copy(&path, &copy).unwrap();
    let found = RedbStore::open(&copy, StoreLimits::default(), NOW).unwrap();
    assert_eq!(found.counts().entries, REGISTRANTS * EACH);
}

#[test]
fn a_disk_that_stands_still_is_not_waited_for_without_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("entries");
    let store = RedbStore::open(&path, StoreLimits::default(), NOW).unwrap();
    let record = client("a", 0, &[], 60);
    // Nobody flushes. The key alone tells these records apart, as the store looks into no text.
    let keys = (0..=CHANGES_MAX).map(|count| key(&count.to_string()));
    let results: Vec<_> =
        keys.map(|key| store.put(Record { key, ..record.clone() }, NOW)).collect();
    assert!(results[..CHANGES_MAX].iter().all(Result::is_ok));
    assert!(matches!(results[CHANGES_MAX], Err(StoreError::Behind)));
    assert_eq!(store.expire(later(61)).unwrap(), 0, "no room to note it");
    store.flush().unwrap();
    assert_eq!(store.expire(later(61)).unwrap(), CHANGES_MAX);
}

#[test]
fn a_store_in_use_and_a_damaged_one_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("entries");
    let open = || RedbStore::open(&path, StoreLimits::default(), NOW);
    let first = open().unwrap();
    assert!(matches!(open().err(), Some(StoreError::Locked(p)) if p == path));
    drop(first);

    let whole = fs::read(&path).unwrap();
    fs::write(&path, b"this is no database").unwrap();
    assert!(matches!(open().err(), Some(StoreError::Corrupt { .. })));
    fs::write(&path, vec![0xA5; whole.len()]).unwrap();
    assert!(matches!(open().err(), Some(StoreError::Corrupt { .. })));

    let missing = folder.path().join("no such folder").join("entries");
    let error = RedbStore::open(&missing, StoreLimits::default(), NOW).err().unwrap();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
}

#[test]
fn a_record_that_does_not_parse_is_dropped_when_it_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("entries");
    {
        let store = RedbStore::open(&path, StoreLimits::default(), NOW).unwrap();
        let good = client("a", 7, &["s"], 60);
        let altered = Record { submitted: good.submitted.slice(1..), ..good };
        store.put(altered, NOW).unwrap();
        store.put(client("b", 0, &[], 60), NOW).unwrap();
    }
    let store = RedbStore::open(&path, StoreLimits::default(), NOW).unwrap();
    assert!(store.find(&key("a"), NOW).unwrap().is_none());
    assert_eq!(store.counts().entries, 1);
}

#[test]
fn a_file_damaged_anywhere_opens_or_fails_with_a_typed_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("entries");
    {
        let store = RedbStore::open(&path, StoreLimits::default(), NOW).unwrap();
        for name in ["a", "b", "c", "d"] {
            store.put(client(name, 0, &["s"], 60), NOW).unwrap();
        }
    }
    let whole = fs::read(&path).unwrap();
    let used: Vec<_> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    let used: Vec<_> = used.iter().step_by(used.len() / 24).collect();
    let mut refused = 0;
    for at in used {
        let mut damaged = whole.clone();
        damaged[*at] ^= 0x5A;
        fs::write(&path, damaged).unwrap();
        match RedbStore::open(&path, StoreLimits::default(), NOW) {
            Ok(store) => assert!(store.counts().entries <= 4),
            Err(StoreError::Corrupt { .. } | StoreError::Io { .. }) => refused += 1,
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
    assert!(refused > 0);
    for length in [1, 100, 4096, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = RedbStore::open(&path, StoreLimits::default(), NOW).err();
        let typed = matches!(error, Some(StoreError::Corrupt { .. } | StoreError::Io { .. }));
        assert!(typed, "{length} bytes left: {error:?}");
    }
}
