//! Bounded resources: receive blocks, send queues, ports, budgets.
//!
//! Every bound of the process lives below this module, so that an operator finds it in one place.
//! Nothing here knows of sockets or protocols.

pub mod batch;
pub mod block;
pub(crate) mod pins;
pub mod ports;
pub mod send_queue;
pub mod streams;

pub use batch::Batch;
pub use block::{Block, BlockPool, Slice};
pub use ports::{NoFreePort, PortGuard, PortPool, PortTaken};
pub use send_queue::{Segment, SendQueue};
pub use streams::{
    CensusLine, Clock, Holder, Scope, StreamCounts, StreamLimits, StreamPermit, StreamPool,
    StreamUse, StreamsExhausted,
};
