//! A bootstrapper at an `https://` address is asked by TLS, and believed only if an authority that we trust says who it is.

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc};

use axum::{Router, routing::get};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::{
    program::{assert_exit, dmsg, stderr, stdout},
    support::{Place, deployment},
};

/// A bootstrapper over TLS, with a certificate that nobody else signed.
struct OverTls {
    url: String,
    /// The certificate as `SSL_CERT_FILE` takes it.
    trusted: PathBuf,
}

impl OverTls {
    async fn start(place: &Place) -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let trusted = place.write("trusted.pem", &cert.pem());
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/", get(async || deployment("over-tls", "")))
            .route("/health", get(async || "{}"));
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(config));
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, router) = (acceptor.clone(), router.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = TowerToHyperService::new(router);
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { url, trusted }
    }
}

async fn run(mut command: std::process::Command) -> std::process::Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn config_gen_asks_by_tls_and_believes_trusted_authorities_alone() {
    let place = Place::new();
    let server = OverTls::start(&place).await;
    let document = place.document(&format!(r#""conf":"{}""#, server.url));
    let stranger = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap().cert.pem();
    let stranger = place.write("stranger.pem", &stranger);
    for (trusted, mark) in [(&server.trusted, "over-tls"), (&stranger, "at-hand")] {
        let mut command = dmsg(&["config", "gen", "-o", "-", "--timeout", "5"]);
        command.arg("--deployment").arg(&document).env("SSL_CERT_FILE", trusted);
        let output = run(command).await;
        assert_exit(&output, 0);
        let config: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        let said = stderr(&output);
        assert_eq!(config["transport"]["discovery"], format!("http://{mark}.invalid"), "{said}");
        if mark == "at-hand" {
            assert!(said.contains("certificate"), "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_asks_by_tls() {
    let place = Place::new();
    let server = OverTls::start(&place).await;
    let document = place.write(
        "only.json",
        &format!(r#"{{"prod":{{"dmsg_discovery":"{0}","conf":"{0}"}}}}"#, server.url),
    );
    let mut command = dmsg(&["config", "check", "--probe"]);
    command.arg(&document).env("SSL_CERT_FILE", &server.trusted);
    let output = run(command).await;
    assert_exit(&output, 0);
    assert!(!stdout(&output).contains("FAIL"), "{}", stdout(&output));
    let mut command = dmsg(&["config", "check", "--probe"]);
    let nobody = place.path("no such file");
    command.arg(&document).env("SSL_CERT_FILE", nobody).env_remove("SSL_CERT_DIR");
    let output = run(command).await;
    assert!(!output.status.success());
    let said = format!("{}{}", stdout(&output), stderr(&output));
    assert!(said.contains("certificate"), "{said}");
}
