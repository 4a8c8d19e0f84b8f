//! Who wins: the deployment or the operator; and what survives a restart.
#![allow(clippy::unwrap_used)]

use dmsg_engine::identity::SecretKey;

use super::*;
use crate::service::ServiceKind;

fn key(name: &str) -> String {
    SecretKey::from_seed(name.as_bytes()).public_key().to_string()
}

fn services(members: &str) -> Services {
    Services::parse(&format!(r#"{{"dmsg_discovery":"http://d",{members}}}"#)).unwrap().0
}

fn url(services: &Services, kind: ServiceKind) -> String {
    services.url(Field::Service(kind)).unwrap().to_string()
}

/// A discovery over DMSG.
fn discovery(name: &str) -> Endpoints {
    let url = format!("dmsg://{}:80", key(name)).parse().unwrap();
    Endpoints { http: None, dmsg: Some(url) }
}

fn record(name: &str, address: &str) -> ServerRecord {
    DmsgServer::new(key(name).parse().unwrap(), address).record()
}

const TPD: ServiceKind = ServiceKind::TransportDiscovery;
const AR: ServiceKind = ServiceKind::AddressResolver;

#[test]
fn the_deployments_values_follow_and_the_operators_stay() {
    let (a, b) = (key("a"), key("b"));
    let last = services(&format!(
        r#""transport_discovery":"http://t1","address_resolver":"http://a1","survey_whitelist":["{a}"]"#
    ));
    let current = services(&format!(
        r#""transport_discovery":"http://t1","address_resolver":"http://mine","survey_whitelist":["{a}"]"#
    ));
    let new = services(&format!(
        r#""transport_discovery":"http://t2","address_resolver":"http://a2","survey_whitelist":["{a}","{b}"],
        "stun_servers":["h:1"]"#
    ));
    let (merged, changes) = merge(&current, &[last], &new);
    assert_eq!(url(&merged, TPD), "http://t2");
    assert_eq!(url(&merged, AR), "http://mine");
    assert_eq!(merged.keys(Field::SurveyWhitelist).len(), 2);
    assert_eq!(merged.texts(Field::StunServers), ["h:1"]);
    let of = |field| changes.iter().find(|(f, _)| *f == field).map(|(_, change)| *change);
    assert_eq!(of(Field::Service(TPD)), Some(Change::Updated));
    assert_eq!(of(Field::Service(AR)), Some(Change::Kept));
    assert_eq!(of(Field::StunServers), Some(Change::Updated));
    assert_eq!(changes.len(), 4, "what is equal is no change: {changes:?}");
}

#[test]
fn what_a_document_leaves_out_erases_nothing() {
    let a = key("a");
    let full = services(&format!(
        r#""transport_discovery":"http://t","dmsg_servers":[{{"static":"{a}","server":{{"address":"h:1"}}}}]"#
    ));
    for poor in [services(r#""conf":"http://c""#), services(r#""dmsg_servers":[]"#)] {
        let (merged, _) = merge(&full, std::slice::from_ref(&full), &poor);
        assert_eq!(url(&merged, TPD), "http://t");
        assert_eq!(merged.servers(), full.servers());
    }
}

#[test]
fn the_cache_of_servers_is_laid_over_the_configured_ones_and_never_emptied() {
    let folder = tempfile::tempdir().unwrap();
    let cache = ServerCache::new(folder.path(), &discovery("d")).unwrap();
    assert!(cache.read().is_empty());
    cache.write(&[record("a", "new:1"), record("c", "c:1")]).unwrap();
    cache.write(&[]).unwrap();
    let merged = cache.over(vec![record("a", "old:1"), record("b", "b:1")]);
    assert_eq!(merged, [record("a", "new:1"), record("b", "b:1"), record("c", "c:1")]);
    std::fs::write(folder.path().join("dmsg_servers.json"), "[{]").unwrap();
    assert_eq!(cache.over(vec![record("b", "b:1")]), [record("b", "b:1")]);
}

#[test]
fn the_servers_of_another_discovery_are_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let cache = |discovery: &Endpoints| ServerCache::new(folder.path(), discovery).unwrap();
    let over_http = |url: &str| Endpoints { http: Some(url.parse().unwrap()), dmsg: None };
    let both = Endpoints { http: over_http("http://d").http, ..discovery("public") };
    for (writer, same, other) in [
        (discovery("public"), both.clone(), discovery("private")),
        (both.clone(), discovery("public"), over_http("http://d")),
        (over_http("http://d"), over_http("http://d/"), over_http("http://e")),
    ] {
        cache(&writer).write(&[record("a", "a:1")]).unwrap();
        assert_eq!(cache(&same).read(), [record("a", "a:1")]);
        assert!(cache(&other).read().is_empty(), "{other:?}");
        assert_eq!(cache(&other).over(vec![record("b", "b:1")]), [record("b", "b:1")]);
    }
    // A list that says of no discovery that it is its own, as visors of others write it.
    let foreign = format!(r#"[{{"static":"{}","server":{{"address":"a:1"}}}}]"#, key("a"));
    std::fs::write(folder.path().join("dmsg_servers.json"), foreign).unwrap();
    assert!(cache(&both).read().is_empty());
    assert!(ServerCache::new(folder.path(), &Endpoints::default()).is_none());
}

#[test]
fn what_is_no_address_is_not_kept_and_spoils_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cache = ServerCache::new(folder.path(), &discovery("d")).unwrap();
    let long = "h".repeat(8000) + ":1";
    cache.write(&[record("x", "x"), record("a", "a:1"), record("l", &long)]).unwrap();
    assert_eq!(cache.read(), [record("a", "a:1")]);
    cache.write(&[record("x", "x")]).unwrap();
    assert_eq!(cache.read(), [record("a", "a:1")], "nothing else was listed: the last list stays");
    let path = folder.path().join("dmsg_servers.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen('[', r#"[{"static":"02"},"#, 1)).unwrap();
    assert_eq!(cache.read(), [record("a", "a:1")]);
}

#[test]
fn official_servers_come_first_in_a_list_that_may_be_cut() {
    use crate::discovery::{Entry, RawEntry};
    let fetched = |name: &str, label: &str| {
        let mut entry = Entry::server(key(name).parse().unwrap(), format!("{name}:1"), 1);
        entry.server.as_mut().unwrap().server_type = label.to_owned();
        FetchedEntry { raw: RawEntry::of(entry), verified: false }
    };
    let names = ["a", "b", "c", "d"];
    let mut entries: Vec<FetchedEntry> = names.map(|name| fetched(name, "community")).into();
    entries.push(fetched("official", "official"));
    let listed = listed(&entries);
    assert_eq!(listed[0], record("official", "official:1"));
    assert_eq!(listed.len(), 5);
}

#[test]
fn spoilt_files_count_as_absent() {
    let folder = tempfile::tempdir().unwrap();
    let file = LastGood::in_folder(folder.path());
    assert_eq!(file.read(), None);
    std::fs::write(file.path(), vec![b' '; DOCUMENT_BYTES_MAX + 1]).unwrap();
    assert_eq!(file.read(), None);
    std::fs::write(file.path(), "{\"conf\":5}").unwrap();
    assert_eq!(file.read(), None);
}
