//! The document: what is read, what is refused, and that nothing gets lost.
#![allow(clippy::unwrap_used)]

use std::io::Write;

use dmsg_engine::identity::SecretKey;

use super::*;
use crate::{discovery::Entry, service::ServiceKind};

/// The key of the seed article's uptime tracker: no point of the curve (`deployment-config.md §1.2`).
const OFF_CURVE: &str = "0238c0f0e55f1de6f85b0d4c6fc24a5fe9ed3b8f86e0a5f4bc1e7b7a5f4d97e0a5";

fn key(name: &str) -> String {
    SecretKey::from_seed(name.as_bytes()).public_key().to_string()
}

/// A value that a field of this form takes, and some that it does not.
fn examples(form: Form) -> (String, Vec<String>) {
    let (a, b) = (key("a"), key("b"));
    let off_curve = format!("02{}", "ff".repeat(32));
    let bad_keys = ["", "02", &a[..65], &format!("{a}0"), &"0".repeat(66), &off_curve, "key"]
        .map(str::to_owned);
    let quoted = |text: &str| format!("{text:?}");
    let dmsg_bad = bad_keys.iter().skip(1).map(|k| format!("dmsg://{k}:80"));
    let dmsg_bad: Vec<String> = dmsg_bad
        .chain([
            format!("dmsg://{a}:70000"),
            format!("dmsg://{a}:80/path"),
            format!("dmsg://{a}:80:81"),
            format!("dmsg://u@{a}:80"),
            format!("ftp://{a}"),
            "ws://host".into(),
        ])
        .map(|text| quoted(&text))
        .collect();
    let http_bad: Vec<String> =
        ["http://", "http://h:0", "http://h:99999", "http://u:p@h", "http://h?q"]
            .iter()
            .map(|text| quoted(text))
            .chain([quoted(&format!("http://{a}")), quoted(&format!("http://{a}:80")), "5".into()])
            .collect();
    let list_bad = |texts: &[String]| -> Vec<String> {
        let mut bad: Vec<String> = texts.iter().map(|text| format!("[{text:?}]")).collect();
        bad.extend(["\"x\"", "5", "{}", "[5]", "[null]", "[[]]"].map(str::to_owned));
        bad
    };
    match form {
        Form::Url => (quoted("http://host:8080"), [dmsg_bad, http_bad].concat()),
        Form::WebUrl => {
            let bad = [http_bad, vec![quoted(&format!("dmsg://{a}:80")), quoted("host")]].concat();
            (quoted("https://host"), bad)
        }
        Form::DmsgUrl => {
            let bad = [dmsg_bad, vec![quoted("http://host"), "{}".into(), "[]".into()]].concat();
            (quoted(&format!("dmsg://{a}:80")), bad)
        }
        Form::Keys => (format!("[{a:?},{b:?}]"), list_bad(&bad_keys)),
        Form::HostPorts => {
            let bad = ["", "host", "host:", ":80", "host:0", "host:x", "a b:80", "h:70000", "h:+1"];
            ("[\"192.0.2.1:3478\",\"[::1]:1\"]".into(), list_bad(&bad.map(str::to_owned)))
        }
        Form::Ip => {
            let bad = ["1.1.1.1:53", "one", "1.1.1", "::1]"].map(quoted).to_vec();
            (quoted("1.1.1.1"), [bad, vec!["1".into(), "[]".into()]].concat())
        }
        Form::Domain => {
            let bad = ["a b", "a/b", "..", "a..b", "http://a", "é"].map(quoted).to_vec();
            (quoted(".example.net"), [bad, vec!["true".into()]].concat())
        }
        Form::Servers => {
            let server = |key: &str, address: &str| {
                format!(r#"[{{"static":{key:?},"server":{{"address":{address:?}}}}}]"#)
            };
            let mut bad: Vec<String> =
                bad_keys.iter().map(|key| server(key, "192.0.2.1:8081")).collect();
            bad.extend(["", "host", "host:0", "dmsg://x:1"].map(|address| server(&a, address)));
            bad.extend([
                "{}".into(),
                "[{}]".into(),
                "[1]".into(),
                format!(r#"[{{"static":{a:?}}}]"#),
                format!(r#"[{{"static":{a:?},"server":{{}}}}]"#),
                format!(r#"[{{"static":{a:?},"server":5}}]"#),
                r#"[{"server":{"address":"h:1"}}]"#.into(),
            ]);
            (server(&a, "192.0.2.1:8081"), bad)
        }
    }
}

fn with(field: Field, value: &str) -> String {
    format!("{{\"prod\":{{\n  {:?}: {value}\n}},\"test\":{{}}}}", field.name())
}

#[test]
fn the_public_document_parses_and_comes_back_the_same() {
    let text = include_str!("embedded.json");
    let (document, warnings) = Document::parse(text).unwrap();
    assert!(warnings.is_empty(), "{warnings}");
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(value(&document.to_json().to_string()), value(text));
    assert_eq!(value(&document.to_json().to_pretty()), value(text));
    for services in [&document.prod, &document.test] {
        assert!(services.is_usable_over_dmsg());
        assert!(services.findings("$").is_empty());
        assert_eq!(services.server_records().len(), 9);
        assert_eq!(services.service_keys().len(), 7);
        for kind in ServiceKind::ALL {
            let endpoints = services.endpoints(kind);
            assert!(endpoints.http.is_some() && endpoints.dmsg.is_some(), "{kind}");
        }
    }
    let discovery = document.prod.discovery_dmsg().unwrap();
    assert!(discovery.host().starts_with("022e607e") && discovery.host().ends_with(":80"));
}

#[test]
fn the_key_of_the_article_is_refused_with_its_name_and_place() {
    let text =
        with(Field::ServiceDmsg(ServiceKind::UptimeTracker), &format!("\"dmsg://{OFF_CURVE}:80\""));
    let problems = Document::parse(&text).unwrap_err();
    let shown = problems.to_string();
    assert!(shown.starts_with("2:26: $.prod.uptime_tracker_dmsg: "), "{shown}");
    assert!(shown.contains("not a point of secp256k1") && shown.contains(OFF_CURVE), "{shown}");
}

#[test]
fn every_field_takes_its_value_and_refuses_each_wrong_one() {
    for field in Field::ALL {
        let (good, bad) = examples(field.form());
        let (document, warnings) = Document::parse(&with(field, &good)).unwrap();
        assert!(warnings.is_empty() && document.prod.get(field).is_some(), "{field}: {warnings}");
        let again = Document::parse(&document.to_json().to_string()).unwrap().0;
        assert_eq!(again, document, "{field} changed on its way");
        assert!(bad.len() > 4, "{field} has hardly any wrong value");
        for value in bad {
            let problems = Document::parse(&with(field, &value)).unwrap_err();
            let problem = problems.iter().find(|p| p.severity == Severity::Error).unwrap();
            let path = format!("$.prod.{}", field.name());
            assert!(problem.path.starts_with(&path), "{value}: {problem}");
            assert_eq!(problem.place.unwrap().line, 2, "{value}: {problem}");
            assert!(!problem.what.is_empty() && !problem.advice.is_empty());
        }
        let twice = format!("{good},\n {:?}: {good}", field.name());
        let problems = Document::parse(&with(field, &twice)).unwrap_err();
        assert!(problems.to_string().starts_with("3:2: "), "{problems}");
    }
}

#[test]
fn nothing_and_null_mean_absent() {
    for field in Field::ALL {
        let is_text = !matches!(field.form(), Form::Keys | Form::HostPorts | Form::Servers);
        for value in ["null", "\"\"", "\" \""].into_iter().take(if is_text { 3 } else { 1 }) {
            let (document, warnings) = Document::parse(&with(field, value)).unwrap();
            assert!(warnings.is_empty() && document.prod.is_empty(), "{field}: {value}");
        }
    }
}

#[test]
fn all_problems_are_told_at_once_and_a_flood_of_them_is_cut() {
    let text = r#"{"prod":{"conf":5,"dns_server":"x","route_setup_nodes":["y"]},"test":[]}"#;
    let problems = Document::parse(text).unwrap_err();
    assert_eq!(problems.iter().count(), 4, "{problems}");
    let many = format!(r#"{{"prod":{{"survey_whitelist":[{}0]}}}}"#, "0,".repeat(150_000));
    let started = std::time::Instant::now();
    let problems = Document::parse(&many).unwrap_err();
    assert_eq!((problems.iter().count(), problems.left_out()), (100, 149_901));
    assert!(started.elapsed().as_secs() < 20, "a square of the length");
}

#[test]
fn an_error_is_told_however_many_warnings_there_are() {
    let strange: String = (0..150).map(|i| format!("\"u{i}\":1,")).collect();
    let problems =
        Document::parse(&format!(r#"{{"prod":{{{strange}"dmsg_discovery":5}}}}"#)).unwrap_err();
    assert_eq!((problems.iter().count(), problems.left_out()), (100, 51));
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error);
    assert_eq!(errors.map(|e| e.path.as_str()).collect::<Vec<_>>(), ["$.prod.dmsg_discovery"]);
}

#[test]
fn an_answer_full_of_members_is_refused_at_once() {
    let strange: String = (0..100_000).map(|i| format!("\"u{i}\":1,")).collect();
    let started = std::time::Instant::now();
    let problems = Services::parse(&format!(r#"{{{strange}"dmsg_discovery":"http://d"}}"#));
    assert!(problems.unwrap_err().to_string().contains("100001 members in one object"));
    assert!(started.elapsed().as_secs() < 5, "a square of the length");
}

#[test]
fn unknown_members_are_kept_where_they_were_and_listed() {
    let a = key("a");
    let text = format!(
        r#"{{"version":7,"prod":{{"later":{{"z":[1e400]}},"dmsg_servers":[{{"static":{a:?},
        "server":{{"address":"h:1","address_ws":"wss://w/dmsg","serverType":"official","odd":1}},"protocol":"smux","new":[]}}]}}}}"#
    );
    let (document, warnings) = Document::parse(&text).unwrap();
    let paths: Vec<&str> = warnings.iter().map(|w| w.path.as_str()).collect();
    let server = "$.prod.dmsg_servers[0]";
    let expected =
        ["$.version", "$.prod.later", &format!("{server}.server.odd"), &format!("{server}.new")];
    assert_eq!(paths, expected);
    let value = |text: &str| {
        serde_json::from_str::<serde_json::Value>(&text.replace("1e400", "1")).unwrap()
    };
    let mut written = value(&document.to_json().to_string());
    written.as_object_mut().unwrap().remove("test");
    assert_eq!(written, value(&text));
    assert_eq!(document.prod.servers()[0].address_ws(), Some("wss://w/dmsg"));
    assert_eq!(document.prod.unknown().collect::<Vec<_>>(), ["later"]);
}

#[test]
fn a_name_in_other_letters_is_read_differently_by_others_and_refused() {
    let text = r#"{"dmsg_discovery":"http://a","DMSG_Discovery":"http://b","Conf":"http://c"}"#;
    let problems = Document::parse(&format!(r#"{{"prod":{text}}}"#)).unwrap_err().to_string();
    for said in ["$.prod.DMSG_Discovery: ", "is dmsg_discovery to programs in Go", "$.prod.Conf: "]
    {
        assert!(problems.contains(said), "{problems}");
    }
    // The network is not corrected by anybody; there it is one more member that is not known.
    let (services, warnings) = Services::parse(text).unwrap();
    assert_eq!(services.unknown().count(), 2, "{warnings}");
    assert_eq!(
        services.url(Field::Service(ServiceKind::DmsgDiscovery)).unwrap().to_string(),
        "http://a"
    );
}

#[test]
fn an_address_that_is_a_scheme_alone_has_no_host() {
    for url in ["http://", "https:///"] {
        let problems = Document::parse(&format!(r#"{{"prod":{{"conf":"{url}"}}}}"#)).unwrap_err();
        assert!(problems.to_string().contains("it has no host"), "{problems}");
    }
}

#[test]
fn addresses_without_a_scheme_and_dmsg_in_the_first_member_are_read() {
    let (a, b) = (key("a"), key("b"));
    let upper = a.to_uppercase();
    let text = format!(
        r#"{{"dmsg_discovery":"{a}:80","transport_discovery":"dmsg://{upper}/","conf_dmsg":"{b}",
        "address_resolver":"https://ar.example/","route_finder":"http://rf:80/base/"}}"#
    );
    let (services, _) = Services::parse(&text).unwrap();
    let dmsg = |kind| services.endpoints(kind).dmsg.unwrap().to_string();
    assert_eq!(dmsg(ServiceKind::DmsgDiscovery), format!("dmsg://{a}:80/"));
    assert_eq!(dmsg(ServiceKind::TransportDiscovery), format!("dmsg://{a}:80/"));
    assert_eq!(dmsg(ServiceKind::ConfigBootstrapper), format!("dmsg://{b}:80/"));
    let url = |kind| services.url(Field::Service(kind)).unwrap().to_string();
    assert_eq!(url(ServiceKind::AddressResolver), "https://ar.example");
    assert_eq!(url(ServiceKind::RouteFinder), "http://rf:80/base");
}

#[test]
fn two_dmsg_addresses_of_one_service_must_agree() {
    let (a, b) = (key("a"), key("b"));
    let text = |one: &str| {
        format!(r#"{{"conf":"dmsg://{one}:80","conf_dmsg":"dmsg://{a}:80","dmsg_servers":null}}"#)
    };
    assert!(Services::parse(&text(&a)).is_ok());
    let problems = Services::parse(&text(&b)).unwrap_err();
    assert!(problems.to_string().contains("$.conf_dmsg: conf names another"), "{problems}");
}

#[test]
fn an_answer_is_flat_or_has_an_envelope_and_must_have_an_entrance() {
    let flat = r#"{"dmsg_discovery":"http://d"}"#;
    let expected = Services::parse(flat).unwrap().0;
    let envelope = format!(r#"{{"prod":{flat},"test":{{"conf":"http://t"}}}}"#);
    assert_eq!(Services::parse(&envelope).unwrap().0, expected);
    for text in
        ["{}", r#"{"prod":{}}"#, r#"{"error":"x"}"#, r#"{"conf":"http://c"}"#, "[]", "5", "<html>"]
    {
        assert!(Services::parse(text).is_err(), "{text}");
    }
    let (document, warnings) = Document::parse(flat).unwrap();
    assert_eq!(document.prod, expected);
    assert!(warnings.to_string().contains("without the members prod and test"));
    assert!(Document::parse(r#"{"error":"x"}"#).is_err());
}

#[test]
fn a_signed_server_must_be_what_was_signed() {
    let secret = SecretKey::from_seed(b"server");
    let mut entry = Entry::server(secret.public_key(), "192.0.2.1:8080", 10);
    (entry.sequence, entry.timestamp) = (3, 1_700_000_000_000_000_000);
    entry.client_type = "test".into();
    entry.server.as_mut().unwrap().server_type = "a passphrase".into();
    entry.protocol = "yamux".into();
    entry.sign(&secret);
    let text = entry.to_text();
    let document = |element: &str| format!(r#"{{"prod":{{"dmsg_servers":[{element}]}}}}"#);
    let (read, warnings) = Document::parse(&document(&text)).unwrap();
    assert!(warnings.is_empty(), "{warnings}");
    assert_eq!(read.prod.servers()[0].address, "192.0.2.1:8080");
    for (from, to) in [
        ("\"version\":\"0.0.1\"", "\"version\":\"0.0.2\""),
        ("\"sequence\":3", "\"sequence\":4"),
        ("\"timestamp\":17", "\"timestamp\":16"),
        ("\"client_type\":\"test\"", "\"client_type\":\"visor\""),
        ("192.0.2.1:8080", "192.0.2.2:8080"),
        ("\"availableSessions\":10", "\"availableSessions\":11"),
        ("a passphrase", "official"),
        ("\"protocol\":\"yamux\"", "\"protocol\":\"smux\""),
        (&key("server"), &key("other")),
    ] {
        assert!(text.contains(from), "{from}");
        let problems = Document::parse(&document(&text.replacen(from, to, 1))).unwrap_err();
        assert!(problems.to_string().contains("not what its server signed"), "{from}: {problems}");
    }
    let at = text.find("\"signature\":\"").unwrap() + 20;
    let digit = if text.as_bytes()[at] == b'0' { "1" } else { "0" };
    let tampered = format!("{}{digit}{}", &text[..at], &text[at + 1..]);
    assert!(Document::parse(&document(&tampered)).is_err());
}

#[test]
fn a_signed_server_is_taken_as_its_discovery_serves_it() {
    let secret = SecretKey::from_seed(b"server");
    let mut entry = Entry::server(secret.public_key(), "192.0.2.1:8080", 10);
    entry.sign(&secret);
    let text = entry.to_text();
    for label in ["official", "community"] {
        let served = text.replace(
            "\"availableSessions\":10",
            &format!("\"availableSessions\":10,\"serverType\":\"{label}\""),
        );
        assert_ne!(served, text);
        let document = |element: &str| format!(r#"{{"prod":{{"dmsg_servers":[{element}]}}}}"#);
        let (read, warnings) = Document::parse(&document(&served)).unwrap();
        assert!(warnings.is_empty(), "{warnings}");
        assert!(read.to_json().to_string().contains(label), "it is kept as it was");
        let moved = served.replace("192.0.2.1", "192.0.2.2");
        assert!(Document::parse(&document(&moved)).is_err(), "{label}");
    }
}

#[test]
fn a_bad_server_of_an_answer_takes_nothing_else_along() {
    let (a, b) = (key("a"), key("b"));
    let long = format!("{}:1", "h".repeat(254));
    let good = format!(r#"{{"static":"{a}","server":{{"address":"h:1"}}}}"#);
    for bad in [
        format!(r#"{{"static":"{b}","server":{{"address":"x"}}}}"#),
        format!(r#"{{"static":"{b}","server":{{"address":"{long}"}}}}"#),
        format!(r#"{{"static":"{b}","server":{{"address":"h:{}1"}}}}"#, "0".repeat(5)),
        format!(r#"{{"static":"{b}","static":"{a}","server":{{"address":"h:1"}}}}"#),
        format!(r#"{{"static":"{b}"}}"#),
        r#"{"static":"02","server":{"address":"h:1"}}"#.to_owned(),
        "5".to_owned(),
    ] {
        let flat = format!(r#"{{"dmsg_discovery":"http://d","dmsg_servers":[{bad},{good}]}}"#);
        let (services, warnings) = Services::parse(&flat).unwrap();
        assert_eq!(services.servers().len(), 1, "{bad}");
        assert_eq!(services.servers()[0].key.to_string(), a);
        let warning = warnings.iter().find(|w| w.path.starts_with("$.dmsg_servers[0]")).unwrap();
        assert_eq!(warning.severity, Severity::Warning);
        // An operator is told, and corrects it.
        let problems = Document::parse(&format!("{{\"prod\":{flat}}}")).unwrap_err();
        assert!(problems.to_string().contains("$.prod.dmsg_servers[0]"), "{problems}");
        // What is wrong elsewhere is an error as ever.
        let wrong = flat.replace("http://d", "ftp://d");
        assert!(Services::parse(&wrong).is_err(), "{bad}");
    }
    let forged = format!(
        r#"{{"static":"{b}","sequence":1,"server":{{"address":"h:2"}},"signature":"{}"}}"#,
        "0".repeat(130)
    );
    let (services, warnings) =
        Services::parse(&format!(r#"{{"dmsg_servers":[{forged},{good}]}}"#)).unwrap();
    assert!(warnings.to_string().contains("not what its server signed"), "{warnings}");
    assert_eq!(services.servers().len(), 2, "an address without a signature is as good");
    assert!(!Json::Object(services.to_object()).to_string().contains("signature"));
}

#[test]
fn a_member_of_a_server_is_of_its_type_or_left_out() {
    let (a, b) = (key("a"), key("b"));
    let good = r#""address":"h:1","address_v6":"[2001:db8::1]:1","address_udp":"","address_ws":"wss://h/dmsg",
        "availableSessions":-3,"serverType":null,"dht_bootstrap":true"#;
    let element = |element: &str, server: &str| {
        format!(
            r#"{{"dmsg_discovery":"http://d","dmsg_servers":[{{"static":"{a}",{element}"server":{{{server}}}}},
            {{"static":"{b}","server":{{"address":"h:2"}}}}]}}"#
        )
    };
    let whole =
        element(r#""protocol":"smux","sequence":18446744073709551615,"timestamp":-1,"#, good);
    let (document, warnings) = Document::parse(&whole).unwrap();
    assert!(!warnings.to_string().contains("dmsg_servers"), "{warnings}");
    assert_eq!(document.prod.servers()[0].address_ws(), Some("wss://h/dmsg"));

    let of_element = [
        r#""version":1"#,
        r#""sequence":-1"#,
        r#""sequence":1.5"#,
        r#""timestamp":9223372036854775808"#,
        r#""client":[]"#,
        r#""client_type":5"#,
        r#""signature":5"#,
        r#""protocol":["smux"]"#,
    ];
    let of_server = [
        r#""address_v6":"h""#,
        r#""address_udp":5"#,
        r#""address_ws":"http://h/dmsg""#,
        r#""address_ws":"wss://""#,
        r#""availableSessions":"many""#,
        r#""availableSessions":1e30"#,
        r#""serverType":true"#,
        r#""dht_bootstrap":"yes""#,
    ];
    let wrong =
        of_element.map(|member| (member, element(&format!("{member},"), r#""address":"h:1""#)));
    let more =
        of_server.map(|member| (member, element("", &format!(r#""address":"h:1",{member}"#))));
    for (member, flat) in wrong.into_iter().chain(more) {
        let name = member.split('"').nth(1).unwrap();
        let problems = Document::parse(&flat).unwrap_err();
        let error = problems.iter().find(|p| p.severity == Severity::Error).unwrap();
        assert!(
            error.path.ends_with(&format!("[0].{name}"))
                || error.path.ends_with(&format!("server.{name}"))
        );
        // What the network says is used without it, and handed on without it.
        let (services, warnings) = Services::parse(&flat).unwrap();
        assert_eq!(services.servers().len(), 2, "{member}");
        assert!(warnings.to_string().contains(name), "{warnings}");
        assert!(!Json::Object(services.to_object()).to_string().contains(name), "{member}");
    }
}

#[test]
fn nobody_is_reached_at_every_address() {
    for address in ["0.0.0.0:8081", "[::]:8081"] {
        let flat = format!(
            r#"{{"dmsg_discovery":"http://d","dmsg_servers":[{{"static":"{}","server":{{"address":"{address}"}}}}]}}"#,
            key("a")
        );
        let problems = Document::parse(&flat).unwrap_err().to_string();
        assert!(problems.contains("where to listen"), "{problems}");
        assert!(Services::parse(&flat).unwrap().0.servers().is_empty());
    }
}

#[test]
fn the_servers_of_a_discovery_outlive_its_document_and_not_another_discovery() {
    use dmsg_engine::client::ServerRecord;
    let document = |discovery: &str, server: &str| {
        let text = format!(
            r#"{{"dmsg_discovery":"http://{discovery}","dmsg_servers":[{{"static":"{}","server":{{"address":"{server}:1"}}}}]}}"#,
            key(server)
        );
        Services::parse(&text).unwrap().0
    };
    let record = |name: &str| ServerRecord {
        key: key(name).parse().unwrap(),
        address: format!("{name}:1"),
        available_sessions: 1,
    };
    let bootstrapper = bootstrapper::Bootstrapper::new(document("d", "a"), None);
    let addresses = || -> Vec<String> {
        bootstrapper.services().servers().iter().map(|server| server.address.clone()).collect()
    };
    bootstrapper.begin_with_servers(&[record("a"), record("kept")]);
    assert_eq!(addresses(), ["a:1", "kept:1"]);
    bootstrapper.replace(document("d", "moved"));
    assert_eq!(addresses(), ["moved:1"], "a kept list is no reason not to believe an operator");
    bootstrapper.set_servers(&[record("listed")]);
    bootstrapper.replace(document("d", "b"));
    assert_eq!(addresses(), ["listed:1"]);
    bootstrapper.replace(document("private", "c"));
    assert_eq!(addresses(), ["c:1"]);
    // A first list that says what was kept is the discovery's all the same.
    bootstrapper.begin_with_servers(&[record("x")]);
    assert!(!bootstrapper.set_servers(&[record("x")]), "nothing has changed");
    bootstrapper.replace(document("private", "moved"));
    assert_eq!(addresses(), ["x:1"]);
}

#[test]
fn a_discovery_full_of_long_addresses_leaves_a_document_that_can_be_read() {
    use dmsg_engine::client::ServerRecord;
    let listed: Vec<ServerRecord> = (0..crate::discovery::store::SERVERS_MAX + 100)
        .map(|n| {
            let secret = SecretKey::from_seed(&n.to_be_bytes());
            let host = match n % 3 {
                0 => "h".repeat(7_500),
                1 => String::new(),
                _ => "h".repeat(253),
            };
            let address = format!("{host}:65535");
            ServerRecord { key: secret.public_key(), address, available_sessions: 1 }
        })
        .collect();
    let longest: Vec<ServerRecord> =
        listed.iter().filter(|r| r.address.len() == 259).cloned().collect();
    assert_eq!(DmsgServer::listable(&listed).len(), longest.len());
    let full: Vec<ServerRecord> = longest.iter().cycle().take(listed.len()).cloned().collect();
    let bootstrapper = bootstrapper::Bootstrapper::new(embedded().prod.clone(), None);
    assert!(bootstrapper.set_servers(&full));
    assert_eq!(bootstrapper.services().servers().len(), crate::discovery::store::SERVERS_MAX);
    let text = Json::Object(bootstrapper.services().to_object()).to_pretty();
    assert!(text.len() < DOCUMENT_BYTES_MAX, "{} bytes", text.len());
    assert!(!bootstrapper.set_servers(&[listed[0].clone()]), "none is left: the last list stays");
}

#[test]
fn what_is_missing_is_found() {
    let findings = |text: &str| -> Vec<String> {
        let (document, _) = Document::parse(&format!(r#"{{"prod":{text}}}"#)).unwrap();
        let findings = document.prod.findings("$.prod");
        findings.iter().filter(|f| f.severity == Severity::Error).map(|f| f.path.clone()).collect()
    };
    let (a, b) = (key("a"), key("b"));
    assert_eq!(findings("{}"), ["$.prod.dmsg_discovery"]);
    assert_eq!(findings(r#"{"dmsg_discovery":"http://d"}"#), [""; 0]);
    let only_dmsg = format!(r#""dmsg_discovery_dmsg":"dmsg://{a}:80""#);
    assert_eq!(findings(&format!("{{{only_dmsg}}}")), ["$.prod.dmsg_discovery_dmsg"]);
    let named = format!(r#"{{"dmsg_discovery":"http://d","transport_discovery_dmsg":"{a}:80"}}"#);
    assert_eq!(findings(&named), [""; 0], "the discovery names servers");
    let servers = format!(r#""dmsg_servers":[{{"static":"{b}","server":{{"address":"h:1"}}}}]"#);
    assert_eq!(findings(&format!("{{{only_dmsg},{servers}}}")), [""; 0]);
}

#[test]
fn servers_are_lent_to_their_own_discovery_only() {
    let (a, b) = (key("a"), key("b"));
    let lender = format!(
        r#"{{"dmsg_discovery_dmsg":"{a}","dmsg_servers":[{{"static":"{b}","server":{{"address":"h:1"}}}}]}}"#
    );
    let lender = Services::parse(&lender).unwrap().0;
    let parse = |text: &str| Services::parse(text).unwrap().0;
    let mut same = parse(&format!(r#"{{"dmsg_discovery_dmsg":"dmsg://{a}:81"}}"#));
    assert!(same.borrow_servers(&lender));
    assert_eq!(same.servers(), lender.servers());
    assert!(!same.borrow_servers(&lender), "it has servers now");
    for text in [
        format!(r#"{{"dmsg_discovery_dmsg":"{b}"}}"#),
        r#"{"dmsg_discovery":"http://d"}"#.to_owned(),
    ] {
        let mut other = parse(&text);
        assert!(!other.borrow_servers(&lender) && other.servers().is_empty(), "{text}");
    }
}

#[test]
fn only_what_has_the_same_http_address_is_supplemented() {
    let embedded = &embedded().prod;
    let (tpd, rf) = (ServiceKind::TransportDiscovery, ServiceKind::RouteFinder);
    let http = |kind| embedded.url(Field::Service(kind)).unwrap().to_string();
    let own = key("own");
    // As a bootstrapper of 2024 answers, with one service of somebody's own, and one that knows its DMSG address.
    let text = format!(
        r#"{{"dmsg_discovery":"{}","transport_discovery":"{}/","address_resolver":"http://ar.private",
        "route_finder":"{}","route_finder_dmsg":"{own}"}}"#,
        http(ServiceKind::DmsgDiscovery),
        http(tpd).to_uppercase().replace("HTTP://", "http://"),
        http(rf)
    );
    let mut services = Services::parse(&text).unwrap().0;
    let added = services.supplement(embedded);
    let discovery = Field::ServiceDmsg(ServiceKind::DmsgDiscovery);
    assert_eq!(added, [discovery, Field::ServiceDmsg(tpd), Field::DmsgServers]);
    assert_eq!(services.endpoints(ServiceKind::AddressResolver).dmsg, None);
    assert_eq!(services.endpoints(rf).dmsg.unwrap().addr().key.to_string(), own);
    assert_eq!(services.servers(), embedded.servers());
    let mut private = Services::parse(r#"{"dmsg_discovery":"http://dmsgd.private"}"#).unwrap().0;
    assert!(private.supplement(embedded).is_empty());
}

#[test]
fn the_file_wins_over_the_variable_and_that_over_what_is_embedded() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &[u8]| {
        let path = folder.path().join(name);
        std::fs::File::create(&path).unwrap().write_all(text).unwrap();
        path
    };
    let one = file("one", br#"{"prod":{"dmsg_discovery":"http://one"}}"#);
    let two = file("two", br#"{"prod":{"dmsg_discovery":"http://two"}}"#);
    let discovery = |loaded: Loaded| {
        loaded.document.prod.url(Field::Service(ServiceKind::DmsgDiscovery)).unwrap().to_string()
    };
    let broken = file("broken", b"{\"prod\":{\"conf\":5}}");
    assert_eq!(discovery(load(Some(&one), Some(two.as_os_str())).unwrap()), "http://one");
    assert_eq!(discovery(load(Some(&one), Some(broken.as_os_str())).unwrap()), "http://one");
    let loaded = load(None, Some(two.as_os_str())).unwrap();
    assert!(loaded.document.test.is_empty() && loaded.document.prod.servers().is_empty());
    assert_eq!(discovery(loaded), "http://two");
    for variable in [None, Some("".as_ref())] {
        let loaded = load(None, variable).unwrap();
        assert_eq!((&loaded.document, loaded.origin), (embedded(), Origin::Embedded));
    }
    let error = |file: &std::path::Path, variable: bool| {
        let (file, variable) =
            if variable { (None, Some(file.as_os_str())) } else { (Some(file), None) };
        load(file, variable).unwrap_err().to_string()
    };
    let text = error(&broken, false);
    assert!(text.starts_with(&format!("{}:1:17: $.prod.conf: ", broken.display())), "{text}");
    assert!(error(&broken, true).contains("(SKYDEPLOY):1:17: "));
    assert!(error(&folder.path().join("absent"), true).contains("unset SKYDEPLOY"));
    assert!(error(&file("binary", b"{\xff}"), false).contains("UTF-8"));
    let long = file("long", &vec![b' '; DOCUMENT_BYTES_MAX + 1]);
    assert!(error(&long, false).contains("1048576 bytes"));
    let full =
        file("full", &[b"{\"prod\":{}}".to_vec(), vec![b' '; DOCUMENT_BYTES_MAX - 11]].concat());
    assert!(load(Some(&full), None).is_ok());
}

#[test]
fn embedded_servers_are_lent_on_loading() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    let discovery = embedded().prod.discovery_dmsg().unwrap();
    let text = format!(r#"{{"prod":{{"dmsg_discovery_dmsg":"{discovery}"}}}}"#);
    std::fs::write(&path, text).unwrap();
    let loaded = load(Some(&path), None).unwrap();
    assert_eq!(loaded.document.prod.servers(), embedded().prod.servers());
    assert!(loaded.document.test.servers().is_empty());
}
