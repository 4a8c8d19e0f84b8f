//! The load: cheap peers that speak just enough DMSG, many on one thread.

pub(crate) mod flow;
pub(crate) mod pattern;
pub(crate) mod session;
pub(crate) mod talk;
pub(crate) mod yamux;
