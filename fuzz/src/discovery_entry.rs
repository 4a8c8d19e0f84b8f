//! Discovery entries (`discovery.md §1`–`§3`): any text; what parses must mean the same when written and read again.

use dmsg_engine::identity::SecretKey;
use dmsg_http::discovery::{RawEntry, UnixNanos, check_new};

/// One input: the body of a POST.
pub fn run(data: &[u8]) {
    let Ok(raw) = RawEntry::parse(data) else { return };
    let verified = raw.verify().is_ok();
    let _verdict = check_new(&raw, UnixNanos(1_700_000_000_000_000_000), false);
    let entry = raw.into_entry();
    let again = RawEntry::parse(entry.to_text().as_bytes()).expect("what we write can be read");
    assert_eq!(again.entry(), &entry, "an entry changed on its way");
    if verified {
        assert!(entry.key.is_some(), "nobody signed it");
    }
    let (mut entry, secret) = (entry, SecretKey::from_seed(b"fuzz"));
    entry.key = Some(secret.public_key());
    entry.sign(&secret);
    assert!(entry.verify().is_ok(), "our own signature does not stand");
}
