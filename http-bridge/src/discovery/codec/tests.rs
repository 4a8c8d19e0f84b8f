#![allow(clippy::unwrap_used)]

use dmsg_engine::identity::{SecretKey, Signature};
use proptest::prelude::*;

use super::*;

fn secret() -> SecretKey {
    SecretKey::from_seed(b"codec")
}

fn client() -> Entry {
    let delegated = vec![SecretKey::from_seed(b"relay").public_key()];
    let mut entry = Entry::client(secret().public_key(), delegated);
    entry.sequence = 3;
    entry.timestamp = 1_700_000_000_000_000_000;
    entry.sign(&secret());
    entry
}

fn parse(text: &str) -> Result<RawEntry, EntryError> {
    RawEntry::parse(text.as_bytes())
}

/// Signs `text`, an object without signature, as a newer signer would, and puts the signature at `at`.
fn signed_text(text: &str, at: usize) -> String {
    let signature = Signature::sign(&secret(), text.as_bytes());
    format!("{},\"signature\":\"{signature}\"{}", &text[..at], &text[at..])
}

#[test]
fn what_we_write_we_read_and_verify() {
    let entry = client();
    let raw = parse(&entry.to_text()).unwrap();
    assert_eq!(raw.entry(), &entry);
    assert_eq!(raw.text(), entry.to_text());
    assert_eq!(raw.verify(), Ok(Signed::Text));
    assert_eq!(RawEntry::of(entry).verify(), Ok(Signed::Text));
}

#[test]
fn unknown_members_of_a_newer_signer_verify_and_stay_in_the_text() {
    let mut unsigned = client();
    unsigned.signature = String::new();
    let text = unsigned.to_text().replace(r#","client":"#, r#","novel":{"a":[1,2]},"client":"#);
    for at in [text.len() - 1, text.find(",\"novel\"").unwrap()] {
        let raw = parse(&signed_text(&text, at)).unwrap();
        assert_eq!(raw.verify(), Ok(Signed::Text));
        assert!(raw.signed_text(Signed::Text).contains("novel"));
    }
}

#[test]
fn a_signature_in_first_place_is_cut_out_too() {
    let mut unsigned = client();
    unsigned.signature = String::new();
    let body = unsigned.to_text().replacen('{', r#"{"novel":1,"#, 1);
    let signature = Signature::sign(&secret(), body.as_bytes());
    let text = body.replacen('{', &format!("{{\"signature\" : \"{signature}\","), 1);
    assert_eq!(parse(&text).unwrap().verify(), Ok(Signed::Text));
}

#[test]
fn a_respaced_text_verifies_by_its_members_and_is_served_without_additions() {
    let entry = client();
    let text = entry.to_text().replace(',', " ,\n ").replacen('{', "{ \"extra\": true, ", 1);
    let raw = parse(&text).unwrap();
    assert_eq!(raw.verify(), Ok(Signed::Members));
    assert_eq!(raw.signed_text(Signed::Members), entry.to_text());
    assert_eq!(raw.text(), text);
}

#[test]
fn names_match_in_any_case_and_hex_too() {
    let entry = client();
    let key = entry.key.unwrap().to_string();
    let text = entry
        .to_text()
        .replace("\"static\"", "\"STATIC\"")
        .replace("\"delegated_servers\"", "\"Delegated_Servers\"")
        .replace(&key, &key.to_uppercase());
    let raw = parse(&text).unwrap();
    assert_eq!(raw.entry(), &entry);
    assert_eq!(raw.verify(), Ok(Signed::Members));
}

#[test]
fn null_is_the_empty_value_and_zeros_are_the_null_key() {
    let text = r#"{"version":null,"sequence":null,"timestamp":null,"static":null,"client":null,
        "client_type":null,"server":null,"signature":null,"protocol":null}"#;
    assert_eq!(parse(text).unwrap().entry(), &Entry::default());
    for zeros in ["", "0", &"0".repeat(66), &"0".repeat(1000)] {
        let raw = parse(&format!("{{\"static\":\"{zeros}\"}}")).unwrap();
        assert_eq!(raw.entry().key, None);
    }
    let raw = parse(r#"{"client":{"delegated_servers":[null,"","00"]}}"#).unwrap();
    assert_eq!(raw.entry().client.as_ref().unwrap().delegated_servers, Some(Vec::new()));
    let raw = parse(r#"{"client":{}}"#).unwrap();
    assert_eq!(raw.entry().client, Some(ClientPart::default()));
}

#[test]
fn of_a_member_given_twice_the_last_counts_and_the_text_is_not_trusted() {
    let entry = client();
    let text = entry.to_text().replacen('{', r#"{"sequence":9,"#, 1);
    let raw = parse(&text).unwrap();
    assert_eq!(raw.entry().sequence, 3);
    assert_eq!(raw.verify(), Ok(Signed::Members));

    // Signed by its owner, yet readable in two ways: refused.
    let mut unsigned = entry;
    unsigned.signature = String::new();
    let text = unsigned.to_text().replacen('{', r#"{"Sequence":9,"#, 1);
    let raw = parse(&signed_text(&text, text.len() - 1)).unwrap();
    assert_eq!(raw.verify(), Err(EntryError::InvalidSignature));
}

#[test]
fn what_is_no_entry_is_refused() {
    let deep = format!("{{\"x\":{}1{}}}", "[".repeat(16), "]".repeat(16));
    let huge = format!("{{\"x\":\"{}\"}}", "a".repeat(ENTRY_BYTES_MAX));
    let cases: &[&str] = &[
        "",
        "null",
        "[]",
        "7",
        "\"{}\"",
        "{",
        "{}{}",
        "{} trailing",
        r#"{"sequence":1.0}"#,
        r#"{"sequence":"3"}"#,
        r#"{"sequence":-1}"#,
        r#"{"sequence":1e2}"#,
        r#"{"sequence":18446744073709551616}"#,
        r#"{"timestamp":9223372036854775808}"#,
        r#"{"timestamp":true}"#,
        r#"{"version":1}"#,
        r#"{"static":"02zz"}"#,
        r#"{"static":"02"}"#,
        r#"{"static":["02"]}"#,
        r#"{"client":[]}"#,
        r#"{"client":"x"}"#,
        r#"{"client":{"delegated_servers":{}}}"#,
        r#"{"client":{"delegated_servers":[7]}}"#,
        r#"{"client":{"delegated_servers":["04"]}}"#,
        r#"{"server":{"address":7}}"#,
        r#"{"server":{"availableSessions":1.5}}"#,
        r#"{"server":{"dht_bootstrap":"yes"}}"#,
        r#"{"x":01}"#,
        r#"{"version":"\ud800"}"#,
        "{\"version\":\"a\nb\"}",
        &deep,
        &huge,
    ];
    for case in cases {
        assert_eq!(parse(case).err(), Some(EntryError::Unexpected), "{:.80}", case);
    }
    assert!(RawEntry::parse(b"{\"version\":\"\xff\"}").is_err());
    // x not on the curve
    let off = format!("{{\"static\":\"02{}05\"}}", "0".repeat(62));
    assert!(parse(&off).is_err());
    // One level less is fine.
    assert!(parse(&format!("{{\"x\":{}1{}}}", "[".repeat(15), "]".repeat(15))).is_ok());
}

#[test]
fn a_label_replaces_or_joins_and_touches_nothing_else() {
    for (before, after) in [
        (
            r#"{"server":{"address":"a:1","availableSessions":3,"new":1} ,"x":2}"#,
            r#"{"server":{"address":"a:1","availableSessions":3,"serverType":"official","new":1} ,"x":2}"#,
        ),
        (
            r#"{"server":{"servertype" : "pass","address":"a:1"}}"#,
            r#"{"server":{"servertype" : "official","address":"a:1"}}"#,
        ),
        (
            r#"{"server":{"address":"a:1"}}"#,
            r#"{"server":{"address":"a:1","serverType":"official"}}"#,
        ),
    ] {
        assert_eq!(with_server_type(before, "official").as_deref(), Some(after));
    }
    assert_eq!(with_server_type(r#"{"server":{}}"#, "official"), None);
    assert_eq!(with_server_type(r#"{"client":{}}"#, "official"), None);
}

#[test]
fn each_tampered_member_breaks_the_signature() {
    let mut entry = client();
    entry.server = Some(ServerPart { address: "203.0.113.1:80".into(), ..ServerPart::default() });
    entry.sign(&secret());
    let changes: &[fn(&mut Entry)] = &[
        |e| e.version.push('x'),
        |e| e.sequence += 1,
        |e| e.timestamp += 1,
        |e| e.key = Some(SecretKey::from_seed(b"other").public_key()),
        |e| e.client = None,
        |e| e.client = Some(ClientPart { delegated_servers: Some(Vec::new()) }),
        |e| e.client = Some(ClientPart { delegated_servers: None }),
        |e| e.client_type.push('x'),
        |e| e.server = None,
        |e| e.server.as_mut().unwrap().address.push('1'),
        |e| e.server.as_mut().unwrap().address_v6.push('1'),
        |e| e.server.as_mut().unwrap().address_udp.push('1'),
        |e| e.server.as_mut().unwrap().address_udp_v6.push('1'),
        |e| e.server.as_mut().unwrap().address_ws.push('1'),
        |e| e.server.as_mut().unwrap().available_sessions += 1,
        |e| e.server.as_mut().unwrap().server_type.push('x'),
        |e| e.server.as_mut().unwrap().dht_bootstrap = true,
        |e| e.protocol.push('x'),
        |e| e.signature = "00".repeat(65),
        |e| e.signature.truncate(128),
        |e| e.signature = "zz".repeat(65),
    ];
    for (index, change) in changes.iter().enumerate() {
        let mut tampered = entry.clone();
        change(&mut tampered);
        let raw = parse(&tampered.to_text()).unwrap();
        assert_eq!(raw.verify(), Err(EntryError::InvalidSignature), "change {index}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = RawEntry::parse(&bytes);
    }

    #[test]
    fn no_damage_to_an_entry_makes_the_decoder_panic_or_verify_otherwise(
        at in 0usize..400, byte in any::<u8>(), cut_at in any::<bool>(),
    ) {
        let original = client();
        let mut bytes = original.to_text().into_bytes();
        let at = at % bytes.len();
        if cut_at { bytes.truncate(at) } else { bytes[at] = byte }
        if let Ok(raw) = RawEntry::parse(&bytes) && raw.verify().is_ok() {
            prop_assert_eq!(
                Entry { signature: String::new(), ..raw.into_entry() },
                Entry { signature: String::new(), ..original }
            );
        }
    }

    #[test]
    fn any_text_survives_the_round_trip(kind in ".*", address in ".*", sequence in any::<u64>(),
                                       timestamp in any::<i64>(), sessions in any::<i64>()) {
        let mut entry = Entry::server(secret().public_key(), address, sessions);
        entry.client_type = kind;
        entry.sequence = sequence;
        entry.timestamp = timestamp;
        entry.sign(&secret());
        let raw = parse(&entry.to_text()).unwrap();
        prop_assert_eq!(raw.entry(), &entry);
        prop_assert_eq!(raw.verify(), Ok(Signed::Text));
    }
}
