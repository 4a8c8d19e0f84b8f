//! A DMSG transport engine: session crypto, stream multiplexing, a relay server and a client.
//!
//! ```text
//!   edge                   streams on monoio and tokio-uring (features)
//!   client · server        thin joins of the two halves below, Send handles outside
//!     ├─ driver            io_uring │ epoll │ sim: the only place with syscalls, clocks, threads
//!     └─ relay · client machine · session · mux · noise · wire · identity     pure state machines (io.rs: the verbs between)
//!          └─ pool         blocks · send queues · ports · budgets
//! ```
//!
//! Dependencies point downwards only. The protocol is specified in `docs/spec/wire.md` of the
//! repository; section numbers in these docs refer to it.

pub mod client;
pub mod driver;
#[cfg(any(feature = "monoio", feature = "tokio-uring"))]
pub mod edge;
pub mod identity;
pub mod io;
pub mod mux;
pub mod noise;
pub mod pool;
pub mod relay;
pub mod server;
pub mod session;
pub mod stream;
pub mod timers;
pub mod wire;
