//! HTTP/1.1 over DMSG streams (`dmsg-http.md §3, §4`).
//!
//! ```text
//!   HttpClient ── pool ── Conn ── hyper ── stream      one guard inside the other; dropping the
//!        └─ ResponseBody ──┘                           outermost releases all of them
//!   serve ── accept ── connection task ── hyper ── axum Router
//! ```
//!
//! Both halves are generic over where streams come from ([`Dial`], [`Accept`]), so they run over the
//! engine's client, over TCP and over an in-memory pipe alike. Parsing and framing are hyper's; this
//! module adds what hyper leaves open: pooling, deadlines, limits, who the caller is, and the promise
//! that a response body which nobody reads cannot hold a stream for ever.

use std::time::Duration;

mod ahead;
mod body;
mod break_off;
mod builder;
mod client;
mod error;
pub(crate) mod expect;
mod failing;
pub(crate) mod join;
pub(crate) mod length;
pub(crate) mod list;
mod live;
mod pool;
pub(crate) mod progress;
mod request;
mod seam;
pub mod server;
mod tower;
mod transport;
mod upgrade;

pub use self::tower::ResponseFuture;
pub use body::ResponseBody;
pub use break_off::{BreakOff, Socket};
pub use builder::{IntoUrl, Reply, RequestBuilder, WHOLE_BODY_MAX_BYTES};
pub use client::{HttpClient, HttpConfig};
pub use error::HttpError;
pub use request::{BodyStream, Request, RequestBody};
pub use seam::{Accept, Dial, Peer};
pub use transport::DmsgTransport;
pub use upgrade::Upgraded;

/// An error of any kind, from the layer below.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long deployed clients let a stream be quiet (`wire.md §4.8`). The limits of idle connections
/// derive from it, each side giving up before the next one does: pool < server < stream. Otherwise a
/// client would write requests to streams that are being closed.
pub const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a server keeps a connection without a request.
pub const SERVER_IDLE_TIMEOUT: Duration =
    STREAM_IDLE_TIMEOUT.saturating_sub(Duration::from_secs(5));

/// How long a client keeps a stream for its next request: a slow line's worth below the server.
pub const POOL_IDLE_TIMEOUT: Duration = SERVER_IDLE_TIMEOUT.saturating_sub(Duration::from_secs(25));

// The derivation, checked when this is built.
const _: () = assert!(
    POOL_IDLE_TIMEOUT.as_secs() > 0
        && POOL_IDLE_TIMEOUT.as_secs() < SERVER_IDLE_TIMEOUT.as_secs()
        && SERVER_IDLE_TIMEOUT.as_secs() < STREAM_IDLE_TIMEOUT.as_secs()
);

/// What our clients call themselves.
pub const USER_AGENT: &str = concat!("dmsg/", env!("CARGO_PKG_VERSION"));
