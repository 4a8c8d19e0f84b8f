//! Every row of the table of checks (`discovery.md §3`), over HTTP: exact text and status, in order.
#![allow(clippy::unwrap_used)]

mod discovery_common;

use discovery_common::{Discovery, key, signed};
use dmsg_http::discovery::{ClientPart, Entry};

const SECOND: i64 = 1_000_000_000;

#[tokio::test]
async fn each_row_has_its_text_and_status() {
    let discovery = Discovery::start(|_| {}).await;
    let client = || discovery.client_entry("c", &["s"]);
    let server = || discovery.server_entry("s", 9);
    let with_address = |address: &str| {
        let mut entry = server();
        entry.server.as_mut().unwrap().address = address.into();
        entry
    };
    let at = |offset: i64| Entry { timestamp: discovery.clock.now() + offset, ..server() };
    let many = vec![key("s"); 513];
    let rows: Vec<(&str, String, u16, &str)> = vec![
        ("no JSON", "no entry".into(), 500, "something unexpected happened"),
        (
            "loopback address",
            signed(with_address("127.0.0.1:80"), "s"),
            422,
            "entry validation error: advertising localhost listening address is not allowed in production mode",
        ),
        (
            "empty host",
            signed(with_address(":80"), "s"),
            422,
            "entry validation error: advertising localhost listening address is not allowed in production mode",
        ),
        (
            "no version",
            signed(Entry { version: String::new(), ..client() }, "c"),
            422,
            "entry validation error: entry has no version",
        ),
        ("no signature", client().to_text(), 422, "entry validation error: entry has no signature"),
        (
            "null key",
            signed(Entry { key: None, ..client() }, "c"),
            422,
            "entry validation error: entry Keys is nil",
        ),
        (
            "neither part",
            signed(Entry { client: None, ..client() }, "c"),
            422,
            "entry validation error: entry has neither client or server field",
        ),
        (
            "empty address",
            signed(with_address(""), "s"),
            422,
            "entry validation error: server address cannot be empty",
        ),
        (
            "too old",
            signed(at(-60 * SECOND - 1), "s"),
            422,
            "entry validation error: advertised entry has outdated timestamp",
        ),
        (
            "too new",
            signed(at(5 * SECOND + 1), "s"),
            422,
            "entry validation error: advertised entry has outdated timestamp",
        ),
        (
            "too many servers",
            signed(
                Entry { client: Some(ClientPart { delegated_servers: Some(many) }), ..client() },
                "c",
            ),
            422,
            "entry validation error: entry has more than 512 delegated servers",
        ),
        (
            "long server entry",
            signed(with_address(&"a".repeat(8192)), "s"),
            422,
            "entry validation error: entry of a server is longer than 8 KiB",
        ),
        ("another's signature", signed(client(), "other"), 401, "invalid signature"),
        (
            "no hex in the signature",
            Entry { signature: "zz".into(), ..client() }.to_text(),
            401,
            "invalid signature",
        ),
    ];
    for (name, body, status, message) in &rows {
        println!("{name}");
        discovery.post(body.clone()).await.is(*status, message);
    }
    assert!(discovery.stored("c").await.is_none() && discovery.stored("s").await.is_none());
}

#[tokio::test]
async fn the_bounds_of_the_timestamp_are_inside_and_clients_are_exempt() {
    let discovery = Discovery::start(|_| {}).await;
    let now = discovery.clock.now();
    for (name, offset) in [("old", -60 * SECOND), ("new", 5 * SECOND)] {
        let entry = Entry { timestamp: now + offset, ..discovery.server_entry(name, 1) };
        discovery.post(signed(entry, name)).await.is(200, "wrote a new entry");
    }
    for (name, timestamp) in [("a", 0), ("b", i64::MAX), ("c", i64::MIN)] {
        let entry = Entry { timestamp, ..discovery.client_entry(name, &[]) };
        discovery.post(signed(entry, name)).await.is(200, "wrote a new entry");
    }
    // A dual entry is a client's in this respect.
    let mut dual = discovery.server_entry("dual", 1);
    dual.client = Some(ClientPart::default());
    dual.timestamp = 0;
    discovery.post(signed(dual, "dual")).await.is(200, "wrote a new entry");
}

#[tokio::test]
async fn a_new_iteration_needs_a_greater_sequence_and_no_earlier_time() {
    let discovery = Discovery::start(|_| {}).await;
    let iteration = |sequence, offset: i64| {
        let timestamp = discovery.clock.now() + offset;
        signed(Entry { sequence, timestamp, ..discovery.client_entry("c", &[]) }, "c")
    };
    discovery.post(iteration(41, 0)).await.is(200, "wrote a new entry");
    for sequence in [0, 40, 41] {
        discovery.post(iteration(sequence, 1)).await.is(
            422,
            "entry validation error: sequence field of new entry is not sequence of old entry + 1",
        );
    }
    discovery
        .post(iteration(42, -1))
        .await
        .is(422, "entry validation error: advertised entry timestamp is not greater than previous");
    discovery.post(iteration(42, 0)).await.is(200, "wrote new entry iteration");
    discovery.post(iteration(1000, 0)).await.is(200, "wrote new entry iteration");
    discovery.post(iteration(u64::MAX, 0)).await.is(200, "wrote new entry iteration");
    assert_eq!(discovery.stored("c").await.unwrap().entry().sequence, u64::MAX);
}

#[tokio::test]
async fn the_first_broken_rule_is_the_one_reported() {
    let discovery = Discovery::start(|_| {}).await;
    // Breaks every rule at once; mending them one after another shows each in turn.
    let mut entry = discovery.server_entry("s", 1);
    entry.timestamp = 0;
    entry.version = String::new();
    entry.key = None;
    entry.server.as_mut().unwrap().address = "[::1]:1".into();
    let post =
        async |entry: &Entry| discovery.post(entry.to_text()).await.json()["message"].clone();
    let ends = async |entry: &Entry, with: &str| {
        let message = post(entry).await;
        assert!(message.as_str().unwrap().ends_with(with), "{message} is not about {with}");
    };
    ends(&entry, "not allowed in production mode").await;
    entry.server.as_mut().unwrap().address = String::new();
    ends(&entry, "no version").await;
    entry.version = "0.0.1".into();
    ends(&entry, "no signature").await;
    entry.signature = "00".into();
    ends(&entry, "Keys is nil").await;
    entry.key = Some(key("s"));
    let server = entry.server.take();
    ends(&entry, "neither client or server field").await;
    entry.server = server;
    ends(&entry, "address cannot be empty").await;
    entry.server.as_mut().unwrap().address = "203.0.113.1:1".into();
    ends(&entry, "outdated timestamp").await;
    entry.timestamp = discovery.clock.now();
    ends(&entry, "invalid signature").await;
    discovery.post(signed(entry, "s")).await.is(200, "wrote a new entry");
}

#[tokio::test]
async fn test_mode_lets_a_server_advertise_loopback() {
    let discovery = Discovery::start(|config| config.test_mode = true).await;
    let mut entry = discovery.server_entry("s", 1);
    entry.server.as_mut().unwrap().address = "127.0.0.1:8080".into();
    discovery.post(signed(entry, "s")).await.is(200, "wrote a new entry");
}
