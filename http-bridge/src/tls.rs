//! TLS for services at `https://` addresses: who is trusted, and with which crypto.
//!
//! Trusted are the authorities that the system trusts, or those of the file that `SSL_CERT_FILE` (or the folders that
//! `SSL_CERT_DIR`) names; they are read once. There is no way to skip the check: a private deployment names its own authority.

use std::sync::{Arc, LazyLock};

use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};

static TRUSTED: LazyLock<Result<ClientConfig, String>> = LazyLock::new(|| {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let trusted = builder.with_native_roots().map_err(|error| {
        format!(
            "no certificate authority is known here ({error}): install ca-certificates, or name a file by SSL_CERT_FILE"
        )
    })?;
    Ok(trusted.with_no_client_auth())
});

/// Why nothing at an `https://` address can be asked, if so.
pub(crate) fn problem() -> Option<&'static str> {
    TRUSTED.as_ref().err().map(String::as_str)
}

/// `http` with TLS over it for `https://` addresses. Where [`problem`] has something to say, it trusts nobody.
pub(crate) fn over(mut http: HttpConnector) -> HttpsConnector<HttpConnector> {
    http.enforce_http(false);
    let config = TRUSTED.as_ref().map_or_else(|_| trusts_nobody(), ClientConfig::clone);
    HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .wrap_connector(http)
}

fn trusts_nobody() -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the crypto library's own versions are its own")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}
