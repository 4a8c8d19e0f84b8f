//! HTTP over DMSG.
