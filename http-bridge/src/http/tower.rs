//! [`HttpClient`] as a tower service, so that layers (retry, tracing, authorisation, …) can be stacked on it.
//!
//! Requests are plain [`http::Request`]s whose URI is an absolute `dmsg://<key>[:port]/path`. A body of any kind is taken and
//! sent as it is produced; since it cannot be produced twice, only requests without a body are repeated on a stale stream.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use tower::Service;

use super::{BoxError, Dial, HttpClient, HttpError, Request, RequestBody, ResponseBody};

/// The future of one exchange.
pub type ResponseFuture =
    Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, HttpError>> + Send>>;

/// From the general form of a request to ours; checks its URI.
impl<B> TryFrom<http::Request<B>> for Request
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Error = HttpError;

    fn try_from(request: http::Request<B>) -> Result<Self, HttpError> {
        let (head, body) = request.into_parts();
        let url = head.uri.to_string().parse()?;
        Ok(Self { method: head.method, url, headers: head.headers, body: RequestBody::of(body) })
    }
}

impl<D, B> Service<http::Request<B>> for HttpClient<D>
where
    D: Dial,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = HttpError;
    type Future = ResponseFuture;

    /// Always: what limits the streams is asked when one is needed, and answers with an error.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> ResponseFuture {
        let client = self.clone();
        let request = Request::try_from(request);
        Box::pin(async move { client.send(request?).await })
    }
}
