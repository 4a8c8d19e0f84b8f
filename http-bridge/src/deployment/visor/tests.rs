//! What an update changes in a visor's file, and what it must leave alone.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::service::ServiceKind;

fn key(name: &str) -> String {
    SecretKey::from_seed(name.as_bytes()).public_key().to_string()
}

fn services(members: &str) -> Services {
    Services::parse(&format!(r#"{{"dmsg_discovery":"http://d",{members}}}"#)).unwrap().0
}

fn server(name: &str) -> String {
    format!(r#"{{"static":"{}","server":{{"address":"h:1"}}}}"#, key(name))
}

/// A configuration and the record of it.
fn generated(services: &Services, output: Output) -> (VisorConfig, Services) {
    let config = VisorConfig::new(&SecretKey::from_seed(b"visor"), services, output);
    (config, VisorConfig::record(services, output))
}

fn of(updated: &Updated, field: Field) -> Option<Change> {
    updated.changes.iter().find(|(f, _)| *f == field).map(|(_, change)| *change)
}

#[test]
fn what_the_operator_emptied_stays_empty() {
    let deployment = |number: &str| {
        services(&format!(
            r#""survey_whitelist":["{}"],"transport_setup":["{}"],"uptime_tracker":"http://u{number}",
            "route_finder":"http://r{number}""#,
            key(&format!("survey{number}")),
            key(&format!("setup{number}"))
        ))
    };
    let (mut config, record) = generated(&deployment("1"), Output::Dual);
    for field in [Field::SurveyWhitelist, Field::TransportSetup, Field::Service(UptimeTracker)] {
        let (section, name, _) = MEMBERS.into_iter().find(|(_, _, f)| *f == field).unwrap();
        config.put(section, name, None);
    }
    let mut record = record;
    for number in ["2", "3"] {
        let updated = config.update(Some(&record), &deployment(number), Output::Dual);
        let now = config.services();
        assert_eq!(
            now.url(Field::Service(RouteFinder)).unwrap().to_string(),
            format!("http://r{number}")
        );
        assert_eq!(of(&updated, Field::Service(RouteFinder)), Some(Change::Updated));
        for field in [Field::SurveyWhitelist, Field::TransportSetup] {
            assert!(now.keys(field).is_empty(), "{field} is back");
            assert_eq!(of(&updated, field), Some(Change::Kept));
        }
        assert_eq!(now.endpoints(UptimeTracker), crate::service::Endpoints::default());
        record = updated.record;
    }
}

#[test]
fn what_was_never_set_is_filled_in() {
    let (mut config, record) = generated(&services(r#""route_finder":"http://r""#), Output::Dual);
    let new = services(&format!(
        r#""route_finder":"http://r","route_finder_dmsg":"{}:80","survey_whitelist":["{}"]"#,
        key("rf"),
        key("s")
    ));
    config.update(Some(&record), &new, Output::Dual);
    assert!(config.services().endpoints(RouteFinder).dmsg.is_some());
    assert_eq!(config.services().keys(Field::SurveyWhitelist).len(), 1);
}

#[test]
fn a_deployment_that_gains_dmsg_addresses_reaches_a_dual_file_and_keeps_its_servers() {
    let before =
        services(&format!(r#""route_finder":"http://r","dmsg_servers":[{}]"#, server("s")));
    let after = services(&format!(
        r#""route_finder":"http://r","dmsg_discovery_dmsg":"{}:80","dmsg_servers":[{}]"#,
        key("d"),
        server("s")
    ));
    let (config, record) = generated(&before, Output::Dual);
    for record in [Some(&record), None] {
        let mut config = config.clone();
        let output = config.output(record);
        assert_eq!(output, Output::Dual);
        let last = record.unwrap_or(&before);
        let same = config.update(Some(last), &before, output);
        assert_eq!(same.changes, [], "nothing is new");
        assert_eq!(config.services().servers().len(), 1);
        config.update(Some(&same.record), &after, output);
        assert!(config.services().discovery_dmsg().is_some());
        assert_eq!(config.services().servers().len(), 1);
    }
    // A deployment without servers leaves no trace of DMSG in a file for both; the record knows.
    let bare = services(r#""route_finder":"http://r""#);
    let (mut config, record) = generated(&bare, Output::Dual);
    assert_eq!(config.output(None), Output::HttpOnly, "without a record it looks so");
    let output = config.output(Some(&record));
    config.update(Some(&record), &after, output);
    assert!(
        config.services().discovery_dmsg().is_some() && !config.services().servers().is_empty()
    );
    // And one that was made for HTTP stays so.
    let (mut config, record) = generated(&after, Output::HttpOnly);
    let output = config.output(Some(&record));
    config.update(Some(&record), &after, output);
    assert!(config.services().discovery_dmsg().is_none() && config.services().servers().is_empty());
}

#[test]
fn a_poorer_document_in_between_makes_nothing_the_operators() {
    let tpd = |name: &str| {
        services(&format!(
            r#""transport_discovery_dmsg":"{}:80","stun_servers":["h:1"]"#,
            key(name)
        ))
    };
    for output in [Output::Dual, Output::DmsgOnly] {
        let (mut config, record) = generated(&tpd("k1"), output);
        let poor = services(r#""transport_discovery":"http://old","stun_servers":["h:2"]"#);
        let updated = config.update(Some(&record), &poor, output);
        let endpoints = config.services().endpoints(TransportDiscovery);
        assert_eq!(endpoints.dmsg.unwrap().addr().key.to_string(), key("k1"), "{output:?}");
        let updated = config.update(Some(&updated.record), &tpd("k2"), output);
        let endpoints = config.services().endpoints(TransportDiscovery);
        assert_eq!(endpoints.dmsg.unwrap().addr().key.to_string(), key("k2"), "{output:?}");
        assert_eq!(
            of(&updated, Field::ServiceDmsg(ServiceKind::TransportDiscovery)),
            Some(Change::Updated)
        );
    }
}

#[test]
fn without_a_record_nothing_is_lost_and_the_next_update_has_one() {
    let one =
        services(&format!(r#""route_finder":"http://r1","survey_whitelist":["{}"]"#, key("s")));
    let two =
        services(&format!(r#""route_finder":"http://r2","survey_whitelist":["{}"]"#, key("s2")));
    let (config, _) = generated(&one, Output::Dual);
    let route_finder = |config: &VisorConfig| {
        config.services().url(Field::Service(RouteFinder)).unwrap().to_string()
    };
    // The file and the deployment agree: what is there is the deployment's from now on.
    let mut agreeing = config.clone();
    let updated = agreeing.update(None, &one, Output::Dual);
    assert_eq!(updated.changes, []);
    agreeing.update(Some(&updated.record), &two, Output::Dual);
    assert_eq!(route_finder(&agreeing), "http://r2");
    // They do not: it is the operator's, and stays so.
    let mut differing = config.clone();
    let updated = differing.update(None, &two, Output::Dual);
    assert_eq!(of(&updated, Field::Service(RouteFinder)), Some(Change::Kept));
    differing.update(Some(&updated.record), &two, Output::Dual);
    assert_eq!(route_finder(&differing), "http://r1");
    // Nor does anybody get power over the visor whom its file does not name.
    let mut without_keys = config;
    without_keys.put("", "survey_whitelist", None);
    let updated = without_keys.update(None, &one, Output::Dual);
    without_keys.update(Some(&updated.record), &two, Output::Dual);
    assert!(without_keys.services().keys(Field::SurveyWhitelist).is_empty());
}
