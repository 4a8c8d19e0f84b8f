//! The client of a Config Bootstrapper (`deployment-config.md §4`). What the document means is not its matter.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;

use super::{CallOptions, Caller, ServiceError, call::request};
use crate::transport::HttpTransport;

/// Bytes of a deployment document at most (`deployment-config.md §6`); the real one has 6 KiB.
const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;

/// A client of one Config Bootstrapper. It needs no key.
#[derive(Clone)]
pub struct ConfigBootstrapperClient(Caller);

impl ConfigBootstrapperClient {
    /// `transport` is bound to the service.
    #[must_use]
    pub fn new(transport: Arc<dyn HttpTransport>, options: CallOptions) -> Self {
        Self(Caller::open(transport, options))
    }

    /// What every service has: health.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.0
    }

    /// The deployment document, as the service sent it.
    pub async fn document(&self) -> Result<Bytes, ServiceError> {
        self.fetch("/").await
    }

    /// The servers and DMSG addresses alone.
    pub async fn dmsg_http(&self) -> Result<Bytes, ServiceError> {
        self.fetch("/dmsghttp").await
    }

    async fn fetch(&self, path: &str) -> Result<Bytes, ServiceError> {
        let answer =
            self.0.call(request(Method::GET, path, Bytes::new())?, DOCUMENT_BYTES_MAX).await?;
        Ok(answer.into_body())
    }
}
