//! `dmsg conf` hands the deployment out over DMSG and HTTP, with the servers that the discovery lists, over restarts.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use dmsg_engine::{client::ServerRecord, identity::SecretKey};
use dmsg_http::{
    deployment::refresh::ServerCache,
    discovery::{Entry, UnixNanos},
    service::Endpoints,
};
use serde_json::{Value, json};

use crate::{
    program::{LocalNetwork, Running, assert_exit, dmsg, stderr, stdout},
    support::{Place, REFUSED, element, key},
};

/// GET over HTTP.
fn get(url: &str) -> (u16, String) {
    exchange("GET", url, "")
}

fn post(url: &str, body: &str) {
    let (status, answer) = exchange("POST", url, body);
    assert_eq!(status, 200, "{answer}");
}

fn exchange(method: &str, url: &str, body: &str) -> (u16, String) {
    use std::io::{Read, Write};
    let (authority, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = std::net::TcpStream::connect(authority).unwrap();
    let length = body.len();
    let request = format!(
        "{method} /{path} HTTP/1.1\r\nHost: {authority}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

pub(crate) fn json_of(url: &str) -> Value {
    let (status, body) = get(url);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// Asks until the answer is as wanted; the servers are learned behind our back.
fn wait_for(url: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let answer = json_of(url);
        if is_wanted(&answer) {
            return answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{answer}");
        std::thread::yield_now();
    }
}

fn start(place: &Place, document: &Path, extra: &[&str]) -> Running {
    let secret = place.path("conf.key");
    if !secret.exists() {
        let mut command = dmsg(&["key", "new", "--out"]);
        assert_exit(&command.arg(&secret).output().unwrap(), 0);
    }
    let (secret, document) = (secret.to_str().unwrap(), document.to_str().unwrap());
    let folder = place.path("state");
    let mut args = vec!["conf", "--listen", "127.0.0.1:0", "--log", "warn", "--dir"];
    args.extend([folder.to_str().unwrap(), "--secret-key-file", secret, "--deployment", document]);
    args.extend(extra);
    Running::start(&args)
}

#[test]
fn the_document_is_served_both_ways_with_the_servers_of_the_discovery() {
    let network = LocalNetwork::start(&[]);
    let place = Place::new();
    let (relay_key, relay_address) = network.relay.split_once('@').unwrap();
    let text = format!(
        r#"{{"prod":{{"dmsg_discovery":"{}","dmsg_discovery_dmsg":"{}","transport_discovery_dmsg":"{tpd}:80",
        "stun_servers":["h:1"],"later":[1],"dmsg_servers":[{}]}}}}"#,
        network.discovery,
        network.dmsg_discovery,
        element(relay_key, relay_address),
        tpd = key("tpd"),
    );
    let document = place.write("deployment.json", &text);
    let lists = place.write("lists.json", &format!(r#"{{"survey_whitelist":["{}"]}}"#, key("s")));
    let mut conf = start(&place, &document, &["--lists", lists.to_str().unwrap()]);
    let http = conf.line_with("http://");
    let over_dmsg = conf.line_with("dmsg://");
    // The deployment has two relays; the document lists one.
    let has_both = |answer: &Value| answer["dmsg_servers"].as_array().unwrap().len() == 2;
    let flat = wait_for(&format!("{http}/"), has_both);
    assert_eq!(flat["conf_dmsg"], over_dmsg.as_str());
    assert_eq!(flat["dmsg_discovery_dmsg"], network.dmsg_discovery.as_str());
    assert_eq!(flat["survey_whitelist"], json!([key("s")]));
    assert_eq!(flat["stun_servers"], json!(["h:1"]));
    assert_eq!(flat["later"], json!([1]), "an unknown member got lost");
    let short = json_of(&format!("{http}/dmsghttp"));
    assert_eq!(short["dmsg_servers"], flat["dmsg_servers"]);
    assert_eq!(short["transport_discovery"], format!("dmsg://{}:80", key("tpd")));
    assert!(short.get("conf").is_none() && short.get("stun_servers").is_none());
    let health = json_of(&format!("{http}/health"));
    assert_eq!(health["service_name"], "config-bootstrapper");
    assert_eq!(format!("dmsg://{}", health["dmsg_address"].as_str().unwrap()), over_dmsg);
    assert_eq!(get(&format!("{http}/absent")).0, 404);
    // The same over DMSG, found by the discovery.
    let output = network.curl(&["--fail", &format!("{over_dmsg}/")]);
    assert_exit(&output, 0);
    assert_eq!(serde_json::from_str::<Value>(&stdout(&output)).unwrap(), flat);
    // A visor's configuration comes from it over DMSG.
    let text = text.replace("{\"prod\":{", &format!("{{\"prod\":{{\"conf_dmsg\":\"{over_dmsg}\","));
    let at_hand = place.write("at-hand.json", &text.replace("tpd", "other"));
    let mut command = dmsg(&["config", "gen", "-o", "-", "--log", "trace", "--deployment"]);
    let output = command.arg(at_hand).output().unwrap();
    assert_exit(&output, 0);
    assert!(stderr(&output).contains("DMSG: the deployment comes from"), "{}", stderr(&output));
    let config: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(config["transport"]["discovery_dmsg"], format!("dmsg://{}:80", key("tpd")));
    assert_eq!(config["dmsg"]["servers"].as_array().unwrap().len(), 2);
    let (code, took, _) = conf.stop("-TERM");
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(5), "stopping took {took:?}");
    // The discovery is gone; the list of servers is not.
    drop(network);
    let mut conf = start(&place, &document, &[]);
    let http = conf.line_with("http://");
    let servers = |flat: &Value| -> BTreeSet<String> {
        flat["dmsg_servers"].as_array().unwrap().iter().map(ToString::to_string).collect()
    };
    assert_eq!(servers(&json_of(&format!("{http}/"))), servers(&flat));
    assert_eq!(conf.stop("-INT").0, Some(0));
}

#[test]
fn a_strangers_entry_that_is_no_server_spoils_nothing() {
    let network = LocalNetwork::start(&[]);
    let stranger = SecretKey::from_seed(b"stranger");
    let mut entry = Entry::server(stranger.public_key(), "x", 10);
    entry.timestamp = UnixNanos::system().0;
    entry.sign(&stranger);
    post(&format!("{}/dmsg-discovery/entry/", network.discovery), &entry.to_text());
    let listed = get(&format!("{}/dmsg-discovery/all_servers", network.discovery)).1;
    assert!(listed.contains(&stranger.public_key().to_string()), "{listed}");
    let place = Place::new();
    let (relay_key, relay_address) = network.relay.split_once('@').unwrap();
    let text = format!(
        r#"{{"prod":{{"dmsg_discovery":"{}","dmsg_discovery_dmsg":"{}","dmsg_servers":[{}]}}}}"#,
        network.discovery,
        network.dmsg_discovery,
        element(relay_key, relay_address),
    );
    let document = place.write("deployment.json", &text);
    let mut conf = start(&place, &document, &[]);
    let http = conf.line_with("http://");
    let over_dmsg = conf.line_with("dmsg://");
    // The discovery was asked: the second relay is there.
    let has_two = |answer: &Value| answer["dmsg_servers"].as_array().unwrap().len() == 2;
    wait_for(&format!("{http}/"), has_two);
    let at_hand =
        text.replace("{\"prod\":{", &format!("{{\"prod\":{{\"conf_dmsg\":\"{over_dmsg}\","));
    let at_hand = place.write("at-hand.json", &at_hand);
    let mut command = dmsg(&["config", "gen", "-o", "-", "--deployment"]);
    let output = command.arg(at_hand).output().unwrap();
    assert_exit(&output, 0);
    assert!(stderr(&output).contains("DMSG: the deployment comes from"), "{}", stderr(&output));
    assert_eq!(conf.stop("-TERM").0, Some(0));
}

#[test]
fn a_kept_list_of_dead_servers_does_not_replace_the_documents() {
    let network = LocalNetwork::start(&[]);
    let place = Place::new();
    let (relay_key, relay_address) = network.relay.split_once('@').unwrap();
    let document = place.write(
        "deployment.json",
        &format!(
            r#"{{"prod":{{"dmsg_discovery_dmsg":"{}","dmsg_servers":[{}]}}}}"#,
            network.dmsg_discovery,
            element(relay_key, relay_address)
        ),
    );
    let discovery = Endpoints { http: None, dmsg: Some(network.dmsg_discovery.parse().unwrap()) };
    let dead = |name: &str| ServerRecord {
        key: SecretKey::from_seed(name.as_bytes()).public_key(),
        address: REFUSED.to_owned(),
        available_sessions: 1,
    };
    let cache = ServerCache::new(&place.path("state"), &discovery).unwrap();
    cache.write(&[dead("moved relay")]).unwrap();
    // The relay is found, and so is the discovery behind it; its list replaces what was kept.
    let mut conf = start(&place, &document, &["--dmsg-only"]);
    let over_dmsg = conf.line_with("dmsg://");
    let begun = Instant::now();
    loop {
        let output = network.curl(&["--fail", &format!("{over_dmsg}/")]);
        assert_exit(&output, 0);
        let flat: Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert!(flat["dmsg_servers"].to_string().contains(relay_key), "{flat}");
        if flat["dmsg_servers"].as_array().unwrap().len() == 2 && cache.read().len() == 2 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{flat}");
    }
    assert!(cache.read().iter().all(|server| server.key != dead("moved relay").key));
    assert_eq!(conf.stop("-TERM").0, Some(0));
}

#[test]
fn without_http_nothing_listens() {
    let network = LocalNetwork::start(&[]);
    let place = Place::new();
    let (relay_key, relay_address) = network.relay.split_once('@').unwrap();
    let document = place.write(
        "deployment.json",
        &format!(
            r#"{{"prod":{{"dmsg_discovery_dmsg":"{}","dmsg_servers":[{}]}}}}"#,
            network.dmsg_discovery,
            element(relay_key, relay_address)
        ),
    );
    let mut conf = start(&place, &document, &["--dmsg-only"]);
    let over_dmsg = conf.line();
    assert!(over_dmsg.starts_with("dmsg://"), "{over_dmsg}");
    let direct =
        dmsg(&["curl", "--server", &network.relay, "--fail", &format!("{over_dmsg}/health")])
            .output()
            .unwrap();
    assert_exit(&direct, 0);
    assert!(stdout(&direct).contains("config-bootstrapper"));
    assert_eq!(conf.stop("-TERM").0, Some(0));
}

#[test]
fn what_is_wrong_is_said_before_anything_is_up() {
    let place = Place::new();
    let document = place.document("");
    let secret = place.path("k");
    assert_exit(&dmsg(&["key", "new", "--out"]).arg(&secret).output().unwrap(), 0);
    let secret = secret.to_str().unwrap();
    let lists = |text: &str| {
        let path = place.write("lists.json", text);
        let mut command = dmsg(&["conf", "--listen", "127.0.0.1:0", "--deployment"]);
        command.arg(&document).arg("--lists").arg(path).output().unwrap()
    };
    for (text, said) in [
        ("{\"conf\":\"http://x\"}", "$.conf: \"conf\" does not belong here"),
        ("{\"stun_servers\":[\"x\"]}", "$.stun_servers[0]"),
        ("{\"survey_whitelist\":[\"02\"]}", "$.survey_whitelist[0]"),
        ("[", "no JSON"),
    ] {
        let output = lists(text);
        assert_exit(&output, 2);
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
    }
    for (code, extra) in [
        (2, &["--dmsg-only"][..]),
        (2, &["--testenv"]),
        (26, &["--lists", "/absent"]),
        (1, &["--listen", "192.0.2.1:1"]),
        (2, &["--dmsg-only", "--secret-key-file", secret]),
    ] {
        let mut command = dmsg(&["conf", "--deployment"]);
        let output = command.arg(&document).args(extra).output().unwrap();
        assert_exit(&output, code);
        assert_eq!(stdout(&output), "", "{extra:?}");
    }
}

#[test]
fn changed_files_are_handed_out_and_broken_ones_change_nothing() {
    let network = LocalNetwork::start(&[]);
    let place = Place::new();
    let (relay_key, relay_address) = network.relay.split_once('@').unwrap();
    let text = |tpd: &str| {
        let relay = element(relay_key, relay_address);
        let tpd = key(tpd);
        format!(
            r#"{{"prod":{{"dmsg_discovery":"{}","transport_discovery_dmsg":"{tpd}:80","dmsg_servers":[{relay}]}}}}"#,
            network.discovery
        )
    };
    let document = place.write("deployment.json", &text("tpd1"));
    let lists = place.write("lists.json", &format!(r#"{{"survey_whitelist":["{}"]}}"#, key("s1")));
    let mut conf = start(&place, &document, &["--lists", lists.to_str().unwrap()]);
    let http = format!("{}/", conf.line_with("http://"));
    wait_for(&http, |answer| answer["survey_whitelist"] == json!([key("s1")]));
    place.write("lists.json", &format!(r#"{{"survey_whitelist":["{}"]}}"#, key("other")));
    let answer = wait_for(&http, |answer| answer["survey_whitelist"] == json!([key("other")]));
    assert_eq!(answer["transport_discovery_dmsg"], format!("dmsg://{}:80", key("tpd1")));
    // A file that is half written, and then whole.
    place.write("deployment.json", &text("tpd2")[..50]);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(2500) {
        let answer = json_of(&http);
        assert_eq!(answer["transport_discovery_dmsg"], format!("dmsg://{}:80", key("tpd1")));
        std::thread::yield_now();
    }
    place.write("deployment.json", &text("tpd2"));
    let tpd = format!("dmsg://{}:80", key("tpd2"));
    let answer = wait_for(&http, |answer| answer["transport_discovery_dmsg"] == tpd);
    // The servers are the discovery's, not the document's one.
    assert_eq!(answer["dmsg_servers"].as_array().unwrap().len(), 2, "{answer}");
    assert_eq!(conf.stop("-TERM").0, Some(0));
}
