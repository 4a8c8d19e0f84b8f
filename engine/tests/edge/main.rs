//! Streams on monoio and on tokio-uring, over real sockets; both end the same way on every driver.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod monoio;
mod tokio_uring;
mod world;
