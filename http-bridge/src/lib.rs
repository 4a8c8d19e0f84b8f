//! HTTP over DMSG.

pub mod discovery;
