//! HTTP over DMSG, the DMSG discovery service and its client, and the program `dmsg`.

pub mod http;
pub mod url;
