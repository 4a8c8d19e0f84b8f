//! A service for listed callers only.
//!
//! ```text
//!                 listed
//!   accept ──┬──────────────▶ the service, with all of its places
//!            └──────────────▶ 403 and the end, on a few places of their own
//! ```
//!
//! Keys are free, so whoever is not on the list could otherwise fill every place of the server with them, and lock out those
//! for whom it is there.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use http_body::Body as HttpBody;
use tokio::sync::mpsc;
use tower::service_fn;

use super::{Accept, BoxError, BreakOff, HttpService, ServeConfig, ServeStats, refuse, serve};

/// Connections of callers that are not listed, and of one of them: enough to tell people that they are not.
const STRANGERS_MAX: usize = 64;
const STRANGERS_PER_KEY_MAX: usize = 2;

/// How long such a caller may take for its request, and for taking the refusal.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(5);

/// Like [`serve`] for callers of whom `is_listed` says so; all others are answered 403.
pub async fn serve_listed<A, S, B>(
    accept: A,
    is_listed: impl Fn(&A::Peer) -> bool + Send,
    service: S,
    config: ServeConfig,
    stats: Arc<ServeStats>,
    shutdown: impl Future<Output = ()> + Send,
) where
    A: Accept,
    S: HttpService<B>,
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let strangers = ServeConfig {
        connections_max: STRANGERS_MAX,
        connections_per_key_max: STRANGERS_PER_KEY_MAX,
        head_timeout: STRANGER_TIMEOUT,
        idle_timeout: STRANGER_TIMEOUT,
        stall_timeout: STRANGER_TIMEOUT,
        ..config.clone()
    };
    let refusal = service_fn(|_| async {
        Ok::<_, Infallible>(refuse(StatusCode::FORBIDDEN, "your key is not on the list\n"))
    });
    let (to_service, listed) = mpsc::channel(1);
    let (to_refusal, others) = mpsc::channel(1);
    // The servers end when nothing can come any more.
    let sorting = async {
        tokio::select! {
            () = sort::<A>(accept, is_listed, to_service, to_refusal) => {}
            () = shutdown => {}
        }
    };
    let refused = Arc::clone(&stats);
    tokio::join!(
        sorting,
        serve(Sorted::<A>(listed), service, config, stats, std::future::pending()),
        serve(Sorted::<A>(others), refusal, strangers, refused, std::future::pending()),
    );
}

type Accepted<A> = (<A as Accept>::Stream, <A as Accept>::Peer);

async fn sort<A: Accept>(
    mut accept: A,
    is_listed: impl Fn(&A::Peer) -> bool,
    to_service: mpsc::Sender<Accepted<A>>,
    to_refusal: mpsc::Sender<Accepted<A>>,
) {
    loop {
        match accept.accept().await {
            Ok(accepted) if is_listed(&accepted.1) => {
                if to_service.send(accepted).await.is_err() {
                    return;
                }
            }
            // Nobody who is listed waits for somebody who is not.
            Ok(accepted) => drop(to_refusal.try_send(accepted)),
            Err(error) => return tracing::debug!(%error, "no further streams"),
        }
    }
}

struct Sorted<A: Accept>(mpsc::Receiver<Accepted<A>>);

impl<A: Accept> Accept for Sorted<A> {
    type Stream = A::Stream;
    type Peer = A::Peer;

    async fn accept(&mut self) -> Result<Accepted<A>, BoxError> {
        self.0.recv().await.ok_or_else(|| "no further streams".into())
    }

    fn break_off(stream: &A::Stream) -> Option<BreakOff> {
        A::break_off(stream)
    }
}
