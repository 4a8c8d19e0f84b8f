//! Our config bootstrapper hands the deployment to a client written in Go.

use std::fs;

use dmsg_engine::identity::SecretKey;
use dmsg_http::{
    deployment::{Field, Services},
    service::ServiceKind,
};

use crate::{
    networks::{By, Network, Programs},
    peer::{Peer, programs},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deployment_comes_whole_to_a_go_client() {
    let (Some(found), Some([curl])) = (Programs::find(), programs(["DMSG_GO_CURL_BIN"])) else {
        return;
    };
    for (discovery, server) in [(By::Go, By::Go), (By::Us, By::Us)] {
        let network = Network::start(&found, discovery, server).await;
        let folder = tempfile::tempdir().unwrap();
        let (document, out) = (folder.path().join("deployment.json"), folder.path().join("out"));
        let text = format!(
            r#"{{"prod":{{"dmsg_discovery":"{}","transport_discovery":"http://tpd.invalid","later":[1]}}}}"#,
            network.url
        );
        fs::write(&document, text).unwrap();
        let secret = SecretKey::generate().unwrap();
        let document = document.to_str().unwrap();
        let args = ["conf", "--deployment", document, "--listen", "127.0.0.1:0"];
        let _conf = Peer::ours(&secret, &args);
        network.listed("dmsg conf", secret.public_key()).await;
        let url = format!("dmsg://{}:80/", secret.public_key());
        // A relay of 2024 drops the session of a client that dials at once, and this one does.
        let to = out.to_str().unwrap();
        let args = ["-c", &network.url, "-o", to, "-r", "-t", "5", "-w", "1", &url];
        Peer::start(&curl, args).succeed().await;
        let (services, _) = Services::parse(&fs::read_to_string(&out).unwrap()).unwrap();
        let tpd = services.url(Field::Service(ServiceKind::TransportDiscovery)).unwrap();
        assert_eq!(tpd.to_string(), "http://tpd.invalid");
        assert_eq!(services.unknown().collect::<Vec<_>>(), ["later"]);
        let conf = services.endpoints(ServiceKind::ConfigBootstrapper).dmsg.unwrap();
        assert_eq!(conf.addr().key, secret.public_key());
        assert!(!services.servers().is_empty(), "the servers come from the discovery");
    }
}
