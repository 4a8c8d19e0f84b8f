//! The DMSG client: sessions to servers, dialled and accepted streams (`wire.md §3–6`).
//!
//! ```text
//!   any task or thread            engine thread                     control thread
//!   ───────────────────           ─────────────────────             ──────────────────────────────
//!   Client, Listener ──commands─▶ ClientMachine (machine/)  ◀─list─ Directory, host names, publishing
//!   Stream: KK crypto ◀─pipes───▶ sessions, mux, handshakes ─board▶ status
//! ```
//!
//! The engine thread runs a driver and never waits for anything but its connections. The control
//! thread runs a small tokio runtime for what is slow and rare. Handles work from any runtime, or
//! none.

mod config;
mod control;
mod directory;
mod error;
mod handle;
mod lease;
mod link;
mod listener;
pub mod machine;
mod pipe;
mod registry;
mod stats;
mod stream;

pub use config::{ClientConfig, Memory};
pub use directory::{Directory, DirectoryError, DirectoryFuture, ServerRecord, StaticDirectory};
pub use error::{
    DialError, DialPhase, ListenError, SessionEnd, StartError, StreamEnd, Tries, TryCause,
};
pub use handle::{Client, DialOptions, WeakClient};
pub use lease::Lease;
pub use link::{EngineLink, Post};
pub use listener::{Listener, Listeners};
pub use stats::{Board, ClientStats, ClientStatus, SessionInfo};
pub use stream::Stream;
