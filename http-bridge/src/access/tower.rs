//! The access to a service as a [`tower::Service`], so that layers can be put around it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};

use super::{AccessError, ServiceAccess};
use crate::transport::Limits;

/// What a request may use that has no [`Limits`] in its extensions: 30 s, and 32 MiB of answer
/// (`dmsg-http.md §3.4`).
pub const DEFAULT_LIMITS: Limits =
    Limits { timeout: Duration::from_secs(30), body_max_bytes: 32 * 1024 * 1024 };

impl tower::Service<Request<Bytes>> for ServiceAccess {
    type Response = Response<Bytes>;
    type Error = AccessError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Bytes>, AccessError>> + Send>>;

    /// Always ready: what cannot work now is an error of the request, which knows why.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), AccessError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let limits = request.extensions().get::<Limits>().copied().unwrap_or(DEFAULT_LIMITS);
        let access = self.clone();
        Box::pin(async move { access.send(request, limits).await })
    }
}
