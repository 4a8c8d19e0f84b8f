//! HTTP over DMSG, the DMSG discovery service and its client, and the program `dmsg`.

mod escape;
pub mod files;
pub mod http;
pub mod proxy;
pub mod url;
