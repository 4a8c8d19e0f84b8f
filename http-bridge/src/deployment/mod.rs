//! The deployment: one document that says where everything is, how it is found, checked and kept fresh
//! (`deployment-config.md`).
//!
//! ```text
//!   --deployment FILE  >  SKYDEPLOY  >  embedded        source     which document a program starts with
//!        └────────▶ Document ─▶ Services                document   prod, test: endpoints, servers, key sets
//!                                  │                     fetch      asks a bootstrapper over DMSG, then HTTP
//!   bootstrapper over DMSG, HTTP ──┤                     supplement what may be added to what was fetched
//!                                  │                     refresh    while running, and over restarts
//!                                  │                     bootstrapper  what hands it out
//!                                  │                     visor      a visor's configuration made of it
//!                                  └─▶ Endpoints, ServerRecords, keys  for whoever reaches the services
//! ```
//!
//! Reading is strict where a mistake would show much later as something else (a bad key, a wrong scheme, a member
//! given twice), and tolerant where documents of other years differ. Each error names file, line, column, JSON path
//! and what to do; all of them are reported together. Only `fetch` dials.

pub mod bootstrapper;
mod document;
pub mod fetch;
mod field;
pub mod file;
mod json;
pub mod probe;
mod problem;
pub mod refresh;
mod server;
mod source;
mod supplement;
pub mod visor;

pub use document::{DOCUMENT_BYTES_MAX, Document, Environment, Services};
pub use field::{Field, Form, ServiceUrl, Value};
pub use json::{Json, Object};
pub use problem::{Place, Problem, Problems, Severity};
pub use server::DmsgServer;
pub use source::{LoadError, Loaded, Origin, embedded, load};

#[cfg(test)]
mod tests;
