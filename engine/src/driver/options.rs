//! What can be set about connections, and what a driver tells of itself.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize},
    time::Duration,
};

/// Sent bytes may stay unacknowledged this long before the connection is given up
/// (`TCP_USER_TIMEOUT`).
pub const USER_TIMEOUT: Duration = Duration::from_secs(45);

/// Options of every connection, accepted or made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketOptions {
    /// Send small frames at once (`TCP_NODELAY`).
    pub nodelay: bool,
    /// How long sent bytes may stay unacknowledged (`TCP_USER_TIMEOUT`); `None` for the kernel's default of many minutes.
    pub user_timeout: Option<Duration>,
    /// Bytes of the kernel's send buffer (`SO_SNDBUF`; it doubles them). `None` lets it grow and shrink with the path, which is
    /// nearly always better: a fixed size is for bounding the kernel's memory per connection.
    pub send_buffer_bytes: Option<usize>,
    /// Bytes of the kernel's receive buffer (`SO_RCVBUF`), likewise.
    pub recv_buffer_bytes: Option<usize>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            nodelay: true,
            user_timeout: Some(USER_TIMEOUT),
            send_buffer_bytes: None,
            recv_buffer_bytes: None,
        }
    }
}

/// Gauges and counters of one driver thread.
#[derive(Debug, Default)]
pub struct DriverStats {
    /// Connections, those being closed included.
    pub conns: AtomicUsize,
    /// Shared receive buffers that slices hold, as of the last turn. Always 0 on epoll.
    pub buffers_lent: AtomicUsize,
    /// Shared receive buffers in all. 0 on epoll.
    pub buffers_count: AtomicUsize,
    /// Receives that found no shared buffer and were begun anew.
    pub buffers_missed: AtomicU64,
    /// Peers that were accepted and hung up on at once, since there was no descriptor for them.
    pub turned_away: AtomicU64,
}
