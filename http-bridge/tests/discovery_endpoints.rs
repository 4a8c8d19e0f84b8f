//! The endpoints that list, label, delete and report (`discovery.md §4`).
#![allow(clippy::unwrap_used)]

mod discovery_common;

use std::collections::HashMap;

use discovery_common::{Discovery, key, secret, signed, sorted_keys};
use dmsg_engine::identity::Signature;
use dmsg_http::discovery::{ClientPart, Entry, RateLimit, RawEntry, service::Passphrase};
use http::{Method, StatusCode};
use serde_json::Value;

const NO_SERVERS: &str = "no delegated dmsg servers available for remote";

#[tokio::test]
async fn an_empty_discovery_says_so() {
    let discovery = Discovery::start(|_| {}).await;
    discovery.get("/dmsg-discovery/available_servers").await.is(404, NO_SERVERS);
    discovery.get("/dmsg-discovery/all_servers").await.is(404, NO_SERVERS);
    let path = format!("/dmsg-discovery/entry/{}", key("c"));
    discovery.get(&path).await.is(404, "entry of public key is not found");
    for path in ["/dmsg-discovery/entries", "/dmsg-discovery/visorEntries"] {
        assert_eq!(discovery.get(path).await.body, "[]");
    }
    assert_eq!(discovery.get("/dmsg-discovery/servers/clients").await.body, "{}");
}

#[tokio::test]
async fn an_entry_is_served_byte_for_byte_with_members_we_do_not_know() {
    let discovery = Discovery::start(|_| {}).await;
    let text = discovery.client_entry("c", &["s"]).to_text();
    let text = text.replacen('{', r#"{"from_the_future":{"deep":[1, 2]},"#, 1);
    let signature = Signature::sign(&secret("c"), text.as_bytes());
    let text = format!("{},\"signature\":\"{signature}\"}}", &text[..text.len() - 1]);
    // The key in the path is ignored.
    let path = format!("/dmsg-discovery/entry/{}", key("whoever"));
    let posted = discovery.request(Method::POST, &path, text.clone()).await;
    posted.is(200, "wrote a new entry");
    let answer = discovery.get(&format!("/dmsg-discovery/entry/{}", key("c"))).await;
    assert_eq!(answer.body, text);
    assert_eq!(answer.headers["content-type"], "application/json");
}

#[tokio::test]
async fn lists_name_clients_visors_and_their_servers() {
    let discovery = Discovery::start(|_| {}).await;
    discovery.put(discovery.client_entry("a", &["s", "t"]), "a").await;
    assert_eq!(discovery.get("/dmsg-discovery/entries").await.keys(), sorted_keys(&["a"]));
    let visor = Entry { client_type: "visor".into(), ..discovery.client_entry("v", &["t"]) };
    discovery.put(visor, "v").await;
    discovery.put(discovery.server_entry("s", 3), "s").await;
    assert_eq!(discovery.get("/dmsg-discovery/entries").await.keys(), sorted_keys(&["a", "v"]));
    assert_eq!(discovery.get("/dmsg-discovery/visorEntries").await.keys(), sorted_keys(&["v"]));
    let of = |name| format!("/dmsg-discovery/server/{}/clients", key(name));
    assert_eq!(discovery.get(&of("t")).await.keys(), sorted_keys(&["a", "v"]));
    assert_eq!(discovery.get(&of("s")).await.keys(), sorted_keys(&["a"]));
    assert_eq!(discovery.get(&of("nobody")).await.body, "[]");

    let all = discovery.get("/dmsg-discovery/servers/clients").await;
    let mut all: HashMap<String, Vec<String>> = serde_json::from_slice(&all.body).unwrap();
    all.values_mut().for_each(|list| list.sort());
    assert_eq!(all.len(), 2);
    assert_eq!(all[&key("t").to_string()], sorted_keys(&["a", "v"]));
    // That list is up to 15 s old.
    discovery.put(discovery.client_entry("late", &["s"]), "late").await;
    let count = async || {
        let all = discovery.get("/dmsg-discovery/servers/clients").await;
        all.json()[key("s").to_string()].as_array().unwrap().len()
    };
    assert_eq!(count().await, 1);
    discovery.clock.advance(15);
    assert_eq!(count().await, 2);
}

/// A hundred thousand keys in one answer are 7 MB.
#[tokio::test]
async fn long_lists_come_in_pages_to_whoever_asks_for_them() {
    let discovery = Discovery::start(|_| ()).await;
    let names: Vec<String> = (0..7).map(|n| format!("client {n}")).collect();
    for name in &names {
        let mut entry = discovery.client_entry(name, &[]);
        entry.client_type = if name < &names[5] { "visor".into() } else { String::new() };
        discovery.put(entry, name).await;
    }
    for name in ["s1", "s2", "s3"] {
        discovery.put(discovery.server_entry(name, 5), name).await;
    }
    for (list, size, all) in [("entries", 7, 3), ("visorEntries", 5, 2), ("all_servers", 3, 1)] {
        let (mut query, mut seen, mut pages) = ("?limit=3".to_owned(), Vec::new(), 0);
        loop {
            let answer = discovery.get(&format!("/dmsg-discovery/{list}{query}")).await;
            assert_eq!(answer.status, StatusCode::OK);
            let members = answer.json().as_array().unwrap().clone();
            seen.extend(
                members.iter().map(|m| m["static"].as_str().or(m.as_str()).unwrap().to_owned()),
            );
            pages += 1;
            let Some(link) = answer.headers.get("link") else { break };
            let link = link.to_str().unwrap();
            query =
                link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned();
        }
        assert_eq!((seen.len(), pages), (size, all), "{list}");
        assert!(seen.is_sorted(), "{list}");
        let beyond = format!("/dmsg-discovery/{list}?after=03{}", "f".repeat(64));
        // No key of the curve is that large, so it is none.
        assert_eq!(discovery.get(&beyond).await.status, StatusCode::BAD_REQUEST);
        let beyond = format!("/dmsg-discovery/{list}?after={}", seen.last().unwrap());
        assert_eq!(discovery.get(&beyond).await.body, "[]");
        let bad = discovery.get(&format!("/dmsg-discovery/{list}?limit=0")).await;
        assert_eq!((bad.status, bad.json()["code"].as_u64()), (StatusCode::BAD_REQUEST, Some(400)));
    }
    let client = discovery.client();
    let first = client.client_keys_after(None, 4).await.unwrap();
    let second = client.client_keys_after(first.last().copied(), 4).await.unwrap();
    let mut all = client.client_keys().await.unwrap();
    all.sort_unstable();
    assert_eq!([first, second].concat(), all);
}

#[tokio::test]
async fn a_batch_answers_what_it_knows() {
    let discovery = Discovery::start(|_| {}).await;
    let text = discovery.put(discovery.client_entry("a", &["s"]), "a").await;
    let keys = serde_json::json!([
        key("a").to_string(),
        key("b").to_string(),
        "no key",
        "",
        key("a").to_string().to_uppercase()
    ]);
    let path = "/dmsg-discovery/entries/batch";
    let answer = discovery.request(Method::POST, path, keys.to_string()).await;
    assert_eq!(answer.body, format!("{{\"{}\":{text}}}", key("a")));
    assert_eq!(discovery.request(Method::POST, path, "null").await.body, "{}");
}

#[tokio::test]
async fn servers_come_by_capacity_and_full_ones_only_in_the_list_of_all() {
    let discovery = Discovery::start(|_| {}).await;
    for (name, room) in [("full", 0), ("some", 5), ("much", 50), ("over", -3)] {
        discovery.put(discovery.server_entry(name, room), name).await;
    }
    let keys = |answer: Value| -> Vec<String> {
        let list = answer.as_array().unwrap().iter();
        list.map(|entry| entry["static"].as_str().unwrap().to_owned()).collect()
    };
    let available = keys(discovery.get("/dmsg-discovery/available_servers").await.json());
    assert_eq!(available, [key("much").to_string(), key("some").to_string()]);
    let mut all = keys(discovery.get("/dmsg-discovery/all_servers").await.json());
    all.sort();
    assert_eq!(all, sorted_keys(&["full", "some", "much", "over"]));
}

#[tokio::test]
async fn servers_are_labelled_by_list_and_by_passphrase() {
    let discovery = Discovery::start(|config| {
        config.official_servers = vec![key("listed")];
        config.passphrase = Passphrase::new("sesame");
    })
    .await;
    let claims = [
        ("listed", "", "official"),
        ("knows", "sesame", "official"),
        ("guesses", "sesam", "community"),
        ("claims", "official", "community"),
        ("silent", "", "community"),
    ];
    for (name, claim, label) in claims {
        let mut entry = discovery.server_entry(name, 1);
        entry.server.as_mut().unwrap().server_type = claim.into();
        discovery.put(entry, name).await;
        let stored = discovery.stored(name).await.unwrap();
        assert_eq!(stored.entry().server.as_ref().unwrap().server_type, label, "{name}");
        assert!(!stored.text().contains("sesame"));
        assert_eq!(stored.verify().is_ok(), claim == label, "{name}");
    }
    // Without a passphrase, saying nothing makes nobody official.
    let discovery = Discovery::start(|config| config.passphrase = Passphrase::new("")).await;
    discovery.put(discovery.server_entry("silent", 1), "silent").await;
    let stored = discovery.stored("silent").await.unwrap();
    assert_eq!(stored.entry().server.as_ref().unwrap().server_type, "community");
}

#[tokio::test]
async fn over_clear_net_a_deletion_must_be_newer_unless_deletion_is_lax() {
    let discovery = Discovery::start(|config| config.lax_delete = true).await;
    let old = discovery.put(discovery.client_entry("c", &[]), "c").await;
    discovery.clock.advance(1);
    let next = Entry { sequence: 1, ..discovery.client_entry("c", &[]) };
    let stored = discovery.put(next, "c").await;
    let behind = "entry validation error: advertised entry timestamp is not greater than previous";
    discovery.delete(old).await.is(422, behind);
    discovery.delete(stored.replace(":1,", ":2,")).await.is(401, "invalid signature");
    discovery.delete(stored.clone()).await.is(200, "deleted entry");
    assert!(discovery.stored("c").await.is_none());
    discovery.delete(stored).await.is(200, "deleted entry");

    let strict = Discovery::start(|_| {}).await;
    let stored = strict.put(strict.client_entry("c", &[]), "c").await;
    strict.put(strict.server_entry("s", 1), "s").await;
    let served = strict.stored("s").await.unwrap().text().to_owned();
    for text in [stored, served] {
        strict.delete(text).await.is(422, behind);
    }
    assert!(strict.stored("c").await.is_some() && strict.stored("s").await.is_some());
    strict.clock.advance(1);
    strict.delete(signed(strict.client_entry("c", &[]), "c")).await.is(200, "deleted entry");
    assert!(strict.stored("c").await.is_none());
}

#[tokio::test]
async fn a_go_server_deletes_with_the_entry_as_it_was_served() {
    let mut strict = Discovery::start(|_| {}).await;
    strict.put(strict.server_entry("s", 1), "s").await;
    let served = strict.stored("s").await.unwrap().text().to_owned();
    let own = strict.listen_as(key("s")).await;
    let path = "/dmsg-discovery/entry";
    strict.request_at(&own, Method::DELETE, path, served, &[]).await.is(200, "deleted entry");
    assert!(strict.stored("s").await.is_none(), "over DMSG");

    let discovery = Discovery::start(|config| config.lax_delete = true).await;
    discovery.put(discovery.server_entry("s", 1), "s").await;
    let served = discovery.stored("s").await.unwrap();
    assert!(served.verify().is_err(), "the label replaced what was signed");
    let altered = served.text().replace("203.0.113.5", "203.0.113.6");
    discovery.delete(altered).await.is(401, "invalid signature");
    discovery.delete(served.text().to_owned()).await.is(200, "deleted entry");
    assert!(discovery.stored("s").await.is_none());
}

#[tokio::test]
async fn over_dmsg_only_the_owner_deletes() {
    let mut discovery = Discovery::start(|_| {}).await;
    let (own, other) =
        (discovery.listen_as(key("c")).await, discovery.listen_as(key("other")).await);
    let text = discovery.put(discovery.client_entry("c", &[]), "c").await;
    let path = "/dmsg-discovery/entry";
    let answer = discovery.request_at(&other, Method::DELETE, path, text.clone(), &[]).await;
    answer.is(401, "invalid signature");
    assert!(discovery.stored("c").await.is_some());
    let answer = discovery.request_at(&own, Method::DELETE, path, text, &[]).await;
    answer.is(200, "deleted entry");
}

#[tokio::test]
async fn a_deletion_is_checked_like_a_new_entry() {
    let discovery = Discovery::start(|_| {}).await;
    let entry = discovery.client_entry("c", &[]);
    let unsigned = entry.to_text();
    discovery.delete(unsigned).await.is(422, "entry validation error: entry has no signature");
    discovery.delete(signed(entry, "other")).await.is(401, "invalid signature");
    let old = signed(Entry { timestamp: 0, ..discovery.server_entry("s", 1) }, "s");
    let outdated = "entry validation error: advertised entry has outdated timestamp";
    discovery.delete(old).await.is(422, outdated);
}

#[tokio::test]
async fn a_monitor_deregisters_and_nobody_else_does() {
    let discovery = Discovery::start(|config| config.monitors = vec![key("monitor")]).await;
    discovery.put(discovery.client_entry("a", &[]), "a").await;
    discovery.put(discovery.client_entry("b", &[]), "b").await;
    let sign = |name| Signature::sign(&secret(name), key(name).to_string().as_bytes()).to_string();
    let call = async |name, signature: &str, body: &str| {
        let headers = [("NM-PK", key(name).to_string()), ("NM-Sign", signature.to_owned())];
        let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let path = "/dmsg-discovery/deregister";
        let base = &discovery.base;
        discovery.request_at(base, Method::DELETE, path, body.to_owned(), &headers).await
    };
    let keys = serde_json::json!([key("a").to_string(), key("unknown").to_string()]).to_string();
    for (name, signature, body, status) in [
        ("other", sign("other"), keys.as_str(), 403),
        ("monitor", sign("other"), &keys, 403),
        ("monitor", "zz".into(), &keys, 400),
        ("monitor", sign("monitor"), "no keys", 400),
    ] {
        let answer = call(name, &signature, body).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (status, 0));
    }
    call("monitor", &sign("monitor"), r#"["no key"]"#).await.is(400, "error bad input");
    let none = discovery.request(Method::DELETE, "/dmsg-discovery/deregister", keys.clone()).await;
    assert_eq!(none.status, StatusCode::FORBIDDEN);
    assert!(discovery.stored("a").await.is_some());

    let answer = call("monitor", &sign("monitor"), &keys).await;
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"null"[..]));
    assert!(discovery.stored("a").await.is_none());
    assert!(discovery.stored("b").await.is_some());
}

#[tokio::test]
async fn health_tells_where_the_discovery_is_on_dmsg() {
    let discovery = Discovery::start(|config| config.dmsg_key = Some(key("disc"))).await;
    discovery.service.set_dmsg_servers(vec![key("s")]);
    let health = discovery.get("/health").await.json();
    assert_eq!(health["dmsg_address"], format!("{}:80", key("disc")));
    assert_eq!(health["dmsg_servers"], serde_json::json!([key("s").to_string()]));
    assert_eq!(health["started_at"], "2023-11-14T22:13:20Z");
    assert!(health["build_info"]["version"].is_string());
    let read = discovery.client().health().await.unwrap();
    assert_eq!(read.dmsg_servers, [key("s").to_string()]);
}

#[tokio::test]
async fn callers_over_dmsg_are_limited_each_by_itself_and_clear_net_is_not() {
    let mut discovery = Discovery::start(|config| {
        config.rate_limit = RateLimit { per_second: 1, burst: 3, ..RateLimit::default() };
    })
    .await;
    let (a, b) = (discovery.listen_as(key("a")).await, discovery.listen_as(key("b")).await);
    let ask = async |base: &str| discovery.request_at(base, Method::GET, "/health", "", &[]).await;
    for _ in 0..3 {
        assert_eq!(ask(&a).await.status, StatusCode::OK);
    }
    let refused = ask(&a).await;
    refused.is(429, "rate limit exceeded");
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(ask(&b).await.status, StatusCode::OK);
    for _ in 0..10 {
        assert_eq!(discovery.get("/health").await.status, StatusCode::OK);
    }
    let text = String::from_utf8(discovery.get("/metrics").await.body.to_vec()).unwrap();
    assert!(text.contains("dmsg_discovery_rate_limited_total 1\n"), "{text}");
}

#[tokio::test]
async fn metrics_count_by_kind_and_outcome() {
    let discovery = Discovery::start(|_| {}).await;
    let text = discovery.put(discovery.client_entry("a", &[]), "a").await;
    discovery.put(discovery.server_entry("s", 1), "s").await;
    let mut dual = discovery.server_entry("d", 1);
    dual.client = Some(ClientPart::default());
    discovery.put(dual, "d").await;
    discovery.post(text).await;
    discovery.post("?").await;
    discovery.stored("a").await;
    discovery.stored("nobody").await;
    discovery.delete(signed(discovery.client_entry("a", &[]), "other")).await;
    let answer = discovery.get("/metrics").await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    for line in [
        r#"dmsg_discovery_registrations_total{kind="client",outcome="created"} 1"#,
        r#"dmsg_discovery_registrations_total{kind="server",outcome="created"} 1"#,
        r#"dmsg_discovery_registrations_total{kind="both",outcome="created"} 1"#,
        r#"dmsg_discovery_registrations_total{kind="client",outcome="sequence_not_greater"} 1"#,
        r#"dmsg_discovery_registrations_total{kind="unknown",outcome="unexpected"} 1"#,
        r#"dmsg_discovery_lookups_total{outcome="found"} 1"#,
        r#"dmsg_discovery_lookups_total{outcome="not_found"} 1"#,
        r#"dmsg_discovery_deletions_total{outcome="invalid_signature"} 1"#,
        r#"dmsg_discovery_entries{kind="client"} 2"#,
        r#"dmsg_discovery_entries{kind="server"} 2"#,
        r#"dmsg_discovery_entries{kind="all"} 3"#,
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    for name in ["a", "s", "d"] {
        assert!(!text.contains(&key(name).to_string()), "a key became a label");
    }
}

#[tokio::test]
async fn a_tampered_member_is_refused_whichever_it_is() {
    let discovery = Discovery::start(|_| {}).await;
    let mut entry = discovery.server_entry("s", 1);
    entry.client = Some(ClientPart { delegated_servers: Some(vec![key("t")]) });
    entry.client_type = "visor".into();
    entry.protocol = "smux".into();
    let text = signed(entry, "s");
    let raw = RawEntry::parse(text.as_bytes()).unwrap();
    let signature = &raw.entry().signature;
    for (from, to) in [
        ("\"0.0.1\"".into(), "\"0.0.2\"".into()),
        ("\"sequence\":0".into(), "\"sequence\":1".into()),
        ("\"timestamp\":17".into(), "\"timestamp\":16".into()),
        (key("s").to_string(), key("x").to_string()),
        (key("t").to_string(), key("x").to_string()),
        ("visor".into(), "visitor".into()),
        ("203.0.113.5".into(), "203.0.113.6".into()),
        ("\"availableSessions\":1".into(), "\"availableSessions\":2".into()),
        ("smux".into(), "yamux".into()),
        (signature[..8].to_owned(), "00000000".into()),
    ] {
        assert!(text.contains(&from), "{from}");
        discovery.post(text.replacen(&from, &to, 1)).await.is(401, "invalid signature");
    }
    discovery.post(text).await.is(200, "wrote a new entry");
}
