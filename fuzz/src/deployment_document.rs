//! Deployment documents and visors' configurations (`deployment-config.md §1`, `§6`): any text; what is read must read the
//! same when written, and what is added to it must never come from another deployment.

use dmsg_engine::identity::SecretKey;
use dmsg_http::{
    deployment::{
        Document, Environment, Json, Services, embedded,
        refresh::merge,
        visor::{Output, VisorConfig},
    },
    service::ServiceKind,
};

/// One input: a text.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(json) = Json::parse(text) {
        for written in [json.to_string(), json.to_pretty()] {
            assert_eq!(Json::parse(&written).as_ref(), Ok(&json), "JSON changed on its way");
        }
    }
    if let Ok(config) = VisorConfig::parse(text) {
        let again = VisorConfig::parse(&config.to_pretty()).expect("what we write can be read");
        assert_eq!(again.services(), config.services(), "a configuration changed on its way");
    }
    if let Ok((document, _)) = Document::parse(text) {
        let written = document.to_json().to_pretty();
        let (again, _) = Document::parse(&written).expect("what we write can be read");
        assert_eq!(again, document, "a document changed on its way");
        for environment in [Environment::Prod, Environment::Test] {
            services(document.services(environment));
        }
    }
    if let Ok((answered, _)) = Services::parse(text) {
        services(&answered);
    }
}

fn services(read: &Services) {
    let _findings = read.findings("$");
    let public = &embedded().prod;
    let mut supplemented = read.clone();
    for field in supplemented.supplement(public) {
        assert!(read.get(field).is_none() || read.servers().is_empty(), "{field} was overwritten");
    }
    let discovery = |services: &Services| services.discovery_dmsg().map(|url| url.addr().key);
    if read.servers().is_empty() && !supplemented.servers().is_empty() {
        assert_eq!(discovery(&supplemented), discovery(public), "servers of another deployment");
    }
    for kind in ServiceKind::ALL {
        let (before, after) = (read.endpoints(kind), supplemented.endpoints(kind));
        assert_eq!(before.http, after.http);
        let is_public = before.http.is_some() && before.http == public.endpoints(kind).http;
        assert!(before.dmsg == after.dmsg || is_public, "a private {kind} got a public key");
    }
    let (merged, _) = merge(read, std::slice::from_ref(read), public);
    assert!(merged.servers().len() >= read.servers().len().min(public.servers().len()));
    let key = SecretKey::from_seed(b"fuzz");
    for output in [Output::Dual, Output::DmsgOnly, Output::HttpOnly] {
        let mut config = VisorConfig::new(&key, read, output);
        let written = config.to_pretty();
        assert!(VisorConfig::parse(&written).is_ok(), "what we write can be read");
        let _changes = config.update(Some(&VisorConfig::record(read, output)), read, output);
        let unchanged = VisorConfig::parse(&config.to_pretty()).expect("still readable").services();
        let before = VisorConfig::parse(&written).expect("readable").services();
        assert_eq!(unchanged, before, "an update with nothing new changed something");
    }
}
