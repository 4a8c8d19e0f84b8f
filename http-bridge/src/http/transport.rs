//! The discovery client's requests over DMSG.

use bytes::Bytes;
use http::{Request as HttpRequest, Response};

use super::{Dial, HttpClient, HttpError, Request, RequestBody};
use crate::transport::{ExchangeFuture, HttpTransport, Limits, TransportError};
use crate::url::DmsgUrl;

/// An [`HttpTransport`] for `dmsg://` addresses.
pub struct DmsgTransport<D> {
    client: HttpClient<D>,
}

impl<D: Dial> DmsgTransport<D> {
    /// A transport over the streams of `dial`, with a pool of its own.
    #[must_use]
    pub fn new(dial: D) -> Self {
        Self::over(HttpClient::new(dial))
    }

    /// A transport over a client with its own limits.
    #[must_use]
    pub fn over(client: HttpClient<D>) -> Self {
        Self { client }
    }

    async fn run(
        &self,
        request: HttpRequest<Bytes>,
        body_max_bytes: usize,
    ) -> Result<Response<Bytes>, TransportError> {
        let (head, body) = request.into_parts();
        let url: DmsgUrl = head
            .uri
            .to_string()
            .parse()
            .map_err(|_| TransportError::UnsupportedScheme(head.uri.to_string()))?;
        let body = if body.is_empty() { RequestBody::Empty } else { RequestBody::Full(body) };
        let request = Request { method: head.method, url, headers: head.headers, body };
        let answer = self.client.send(request).await.map_err(|error| {
            let text = error.to_string();
            if error.is_before_request() {
                TransportError::Connect(text)
            } else {
                TransportError::Exchange(text)
            }
        })?;
        let (head, body) = answer.into_parts();
        let body = body.read_to_end(body_max_bytes as u64).await.map_err(|error| match error {
            HttpError::BodyTooLarge { .. } => TransportError::BodyTooLarge(body_max_bytes),
            error => TransportError::Exchange(error.to_string()),
        })?;
        Ok(Response::from_parts(head, body))
    }
}

impl<D: Dial> HttpTransport for DmsgTransport<D> {
    fn exchange(&self, request: HttpRequest<Bytes>, limits: Limits) -> ExchangeFuture<'_> {
        Box::pin(async move {
            tokio::time::timeout(limits.timeout, self.run(request, limits.body_max_bytes))
                .await
                .unwrap_or(Err(TransportError::Timeout(limits.timeout)))
        })
    }
}
