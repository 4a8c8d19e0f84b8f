//! HTTP over DMSG, the DMSG discovery service and its client, and the program `dmsg`.
//!
//! ```text
//!   cli ─────────── one module per subcommand of `dmsg`
//!    ├─ files · proxy ─────── what `dmsg serve` offers
//!    ├─ visor ─────────────── the start-up of a visor: an overlay, and its calls to the seven services
//!    ├─ forward ───────────── what `dmsg proxy` does
//!    ├─ overlay ───────────── a client of the engine: resolver, readiness, access to services
//!    │   ├─ resolve ───────── static map, then discovery
//!    │   └─ access ────────── which path a request takes: policy, breaker, fallback
//!    ├─ discovery ─────────── entries, the service, its client, the directory of an engine client
//!    ├─ services ──────────── clients of the seven services, and small servers of five
//!    ├─ deployment ────────── the document that says where everything is
//!    ├─ service ───────────── what the services of a deployment are called
//!    ├─ transport ─────────── how one request reaches a service, over TCP or DMSG
//!    └─ http ── url ───────── HTTP/1.1 on streams of the engine: client, server
//! ```

pub mod access;
pub mod cli;
pub mod deployment;
pub mod discovery;
mod escape;
pub mod files;
pub mod forward;
pub mod http;
pub mod overlay;
mod pace;
pub mod proxy;
pub mod resolve;
mod retry_after;
pub mod service;
pub mod services;
mod tls;
pub mod transport;
pub mod url;
pub mod visor;
