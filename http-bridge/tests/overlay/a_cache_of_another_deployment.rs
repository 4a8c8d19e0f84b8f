//! What a visor keeps of one deployment's servers is nothing to it under another one (`deployment-config.md §2`).

use std::collections::BTreeSet;

use dmsg_engine::client::ServerRecord;
use dmsg_http::{
    deployment::{Services, refresh::ServerCache},
    service::ServiceKind,
    visor::{Visor, VisorOptions},
};

use crate::world::{free_address, key, record};

/// A deployment with this discovery and one server.
fn deployment(discovery: &str, server: &ServerRecord) -> Services {
    let text = format!(
        r#"{{"dmsg_discovery_dmsg":"{}:80",
            "dmsg_servers":[{{"static":"{}","server":{{"address":"{}"}}}}]}}"#,
        key(discovery).public_key(),
        server.key,
        server.address
    );
    Services::parse(&text).unwrap().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_servers_are_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let [public, private] = ["public relay", "private relay"];
    let (public, private) =
        (record(public, free_address().await), record(private, free_address().await));
    let of_public = deployment("public discovery", &public);
    let listed = record("listed relay", free_address().await);
    let cache =
        ServerCache::new(folder.path(), &of_public.endpoints(ServiceKind::DmsgDiscovery)).unwrap();
    cache.write(&[listed.clone(), public.clone()]).unwrap();
    let of_private = deployment("private discovery", &private);
    for (name, services, known) in [
        ("cached visor", of_public, BTreeSet::from([public.key, listed.key])),
        ("private visor", of_private, BTreeSet::from([private.key])),
    ] {
        let mut options = VisorOptions::new(key(name), services);
        options.local_path = Some(folder.path().to_owned());
        let visor = Visor::start(options);
        let servers = visor.overlay().servers();
        assert_eq!(servers.iter().map(|server| server.key).collect::<BTreeSet<_>>(), known);
        visor.close().await;
    }
}
