//! The system calls that both real drivers share.

use std::{
    fs::File,
    io::{self, Read, Write},
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::{KEEPALIVE_COUNT, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, SocketOptions};

/// Peers turned away at once, at most.
const TURNED_AWAY_MAX: usize = 64;

/// Reads of one [`discard_input`]: 256 KiB, about one socket buffer.
const DISCARDS_MAX: usize = 64;

/// Turns the `-1` of a system call into its error.
pub(super) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A counter that another thread can wait for.
pub(super) struct EventFd(File);

impl EventFd {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
        // SAFETY: `fd` is a fresh descriptor that nothing else owns.
        Ok(Self(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Makes it readable. The only failure is a counter near 2^64, and then it is readable already.
    pub(super) fn signal(&self) {
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Makes it unreadable. The only failure is that it is so already.
    pub(super) fn clear(&self) {
        let _ = (&self.0).read(&mut [0; 8]);
    }

    #[cfg(test)]
    pub(super) fn is_signalled(&self) -> bool {
        self.wait(0)
    }

    #[cfg(test)]
    pub(super) fn wait(&self, timeout_ms: libc::c_int) -> bool {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid `pollfd`.
        unsafe { libc::poll(&raw mut poll, 1, timeout_ms) == 1 }
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Sets what every connection has: `options`, and keep-alive probes. On a listener it holds for all connections that are accepted
/// from then on, which saves six system calls for each: Linux copies a listener's options into them. Those that are refused are
/// not worth an error: the connection works without them.
pub(super) fn tune(socket: &impl AsFd, options: &SocketOptions) {
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_COUNT);
    let _ = socket.set_tcp_nodelay(options.nodelay);
    let _ = socket.set_tcp_user_timeout(options.user_timeout);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = options.send_buffer_bytes.map(|bytes| socket.set_send_buffer_size(bytes));
    let _ = options.recv_buffer_bytes.map(|bytes| socket.set_recv_buffer_size(bytes));
}

/// A socket to connect from. A ring wants it blocking: it would report "would block" instead of
/// waiting.
pub(super) fn stream_socket(
    to: SocketAddr,
    nonblocking: bool,
    options: &SocketOptions,
) -> io::Result<Socket> {
    let kind = Type::STREAM.cloexec();
    let kind = if nonblocking { kind.nonblocking() } else { kind };
    let socket = Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP))?;
    tune(&socket, options);
    Ok(socket)
}

/// Makes closing `socket` send a reset, which frees what both kernels hold for it.
pub(super) fn reset_on_close(socket: &impl AsFd) {
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Bytes in the socket that the peer's kernel has not acknowledged.
pub(super) fn unacknowledged_bytes(socket: &impl AsRawFd) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ writes one int through a pointer to one.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 { 0 } else { usize::try_from(bytes).unwrap_or(0) }
}

/// Reads and forgets what has arrived; true at the end of the stream or on an error.
/// Bounded: a peer that sends faster than this reads is cut off by the flush deadline.
pub(super) fn discard_input(socket: &impl AsFd) -> bool {
    let mut sink = [MaybeUninit::uninit(); 4096];
    for _ in 0..DISCARDS_MAX {
        match SockRef::from(socket).recv_with_flags(&mut sink, libc::MSG_DONTWAIT) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
    false
}

/// Why `socket` failed; `None` when it has not, or when bytes or an orderly end lie before the
/// failure.
pub(super) fn failure(socket: &impl AsFd) -> Option<io::Error> {
    let socket = SockRef::from(socket);
    let mut byte = [MaybeUninit::uninit()];
    match socket.recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT) {
        Ok(_) => None,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.take_error().ok()?,
        Err(error) => Some(error),
    }
}

/// The same error with what to do about it, where the kernel's own words leave that open.
pub(crate) fn explained(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => {
            let what = format!("{error}; raise the open-files limit (ulimit -n)");
            io::Error::new(error.kind(), what)
        }
        _ => error,
    }
}

/// Whether accepting again at once would give the same `error`: no descriptor, no memory, no
/// listener any more.
pub(super) fn is_futile(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EINVAL)
    )
}

/// A descriptor kept in reserve, so that peers can be turned away when there is no other.
pub(super) struct SpareFd(Option<File>);

impl SpareFd {
    pub(super) fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Accepts waiting peers one by one with the reserve and closes each at once, so that they can
    /// try another server instead of waiting in the backlog. Gives their number.
    pub(super) fn turn_away(&mut self, listener: &TcpListener) -> usize {
        let mut count = 0;
        while count < TURNED_AWAY_MAX && self.0.take().is_some() && listener.accept().is_ok() {
            count += 1;
            *self = Self::new();
        }
        if self.0.is_none() {
            *self = Self::new();
        }
        count
    }
}

/// Pins the calling thread to `cpu`.
pub(super) fn pin_thread(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("there is no CPU {cpu}")));
    }
    // SAFETY: `cpu_set_t` is plain data for which all zero is the empty set, `cpu` is within it,
    // and the call reads exactly its size.
    check(unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    })
    .map(drop)
    .map_err(|error| {
        let what = format!(
            "cannot pin the thread to CPU {cpu}: {error}; is there such a CPU, and may this process use it?"
        );
        io::Error::new(error.kind(), what)
    })
}

/// Wall-clock time in Unix nanoseconds.
pub(super) fn unix_nanos() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// The system's randomness.
///
/// # Panics
/// When the kernel has none to give, which on Linux means a broken sandbox: no key may be made
/// then.
pub(super) fn system_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the kernel gives random bytes");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// User wishes 60 and 23.
    #[test]
    fn connections_send_small_frames_at_once_and_notice_a_peer_that_is_gone() {
        let to = SocketAddr::from(([127, 0, 0, 1], 1));
        let options = SocketOptions::default();
        let socket = stream_socket(to, true, &options).expect("a socket");
        assert!(socket.tcp_nodelay().is_ok_and(|is_set| is_set));
        assert_eq!(socket.tcp_user_timeout().ok().flatten(), options.user_timeout);
        assert!(socket.keepalive().is_ok_and(|is_set| is_set));
    }
}
