//! What the kernel's io_uring can do, and why it may not be there at all.

use std::{fmt, io};

use io_uring::{IoUring, Probe, opcode};

use super::ring;

/// Abilities beyond the least that the driver needs (Linux 5.11). The value in a configuration says
/// what may be used, the value from [`probe`] what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Completions are made when the thread asks for them (`DEFER_TASKRUN`, Linux 6.1).
    pub defer_taskrun: bool,
    /// Receive buffers are shared by all connections of a thread (Linux 5.19).
    pub buffer_ring: bool,
    /// One request receives until it is cancelled (Linux 6.0); needs `buffer_ring`.
    pub multishot_recv: bool,
    /// One receive fills as many buffers as there are bytes (Linux 6.10); needs `multishot_recv`.
    pub bundles: bool,
    /// One request accepts until it is cancelled (Linux 5.19).
    pub multishot_accept: bool,
    /// The ring refuses operations that the driver never uses (Linux 5.10).
    pub restrictions: bool,
}

impl Features {
    /// Everything.
    pub const ALL: Self = Self {
        defer_taskrun: true,
        buffer_ring: true,
        multishot_recv: true,
        bundles: true,
        multishot_accept: true,
        restrictions: true,
    };

    /// The least: one-shot operations, a receive buffer per connection.
    pub const NONE: Self = Self {
        defer_taskrun: false,
        buffer_ring: false,
        multishot_recv: false,
        bundles: false,
        multishot_accept: false,
        restrictions: false,
    };
}

impl Default for Features {
    fn default() -> Self {
        Self::ALL
    }
}

/// The dimensions of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UringConfig {
    /// What may be used; tests force abilities off.
    pub features: Features,
    /// Submission queue entries; more submissions than that in a turn cost a system call, nothing
    /// else.
    pub submissions: u32,
    /// Completion queue entries; the kernel keeps what overflows.
    pub completions: u32,
    /// Receive buffers of the thread, rounded up to a power of two. A quarter of it where there are no bundles.
    pub buffers_count: u16,
    /// Bytes of one receive buffer. Four times that where there are no bundles, since then each receive gets only one.
    pub buffer_bytes: usize,
}

impl Default for UringConfig {
    /// 512 buffers of 4 KiB: 2 MiB that stay near the L2 cache.
    fn default() -> Self {
        Self {
            features: Features::ALL,
            submissions: 512,
            completions: 4096,
            buffers_count: 512,
            buffer_bytes: 4 * 1024,
        }
    }
}

/// io_uring cannot be used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable {
    /// What the kernel answered.
    pub errno: i32,
    /// The likely cause, in words for an operator.
    pub cause: &'static str,
}

impl Unavailable {
    pub(super) fn from_error(error: &io::Error) -> Self {
        Self::from_errno(error.raw_os_error().unwrap_or(0))
    }

    pub(super) fn from_errno(errno: i32) -> Self {
        let cause = match errno {
            libc::EPERM | libc::EACCES => {
                "io_uring is forbidden here: likely a container's seccomp profile or \
                 kernel.io_uring_disabled"
            }
            libc::ENOSYS => {
                "there is no io_uring here: the kernel is older than 5.11, built without it, \
                 or a seccomp profile hides it"
            }
            libc::ENOMEM => {
                "no memory for io_uring: likely a small locked-memory limit (ulimit -l) \
                 on a kernel before 5.12"
            }
            libc::EMFILE | libc::ENFILE => {
                "no descriptor for io_uring: raise the open-files limit (ulimit -n)"
            }
            libc::EINVAL => "this kernel's io_uring lacks what the driver needs: Linux 5.11 has it",
            _ => "io_uring could not be set up",
        };
        Self { errno, cause }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.errno {
            libc::EPERM => "EPERM",
            libc::EACCES => "EACCES",
            libc::ENOSYS => "ENOSYS",
            libc::ENOMEM => "ENOMEM",
            libc::EMFILE => "EMFILE",
            libc::ENFILE => "ENFILE",
            libc::EINVAL => "EINVAL",
            errno => return write!(f, "{} (errno {errno})", self.cause),
        };
        write!(f, "{} ({name})", self.cause)
    }
}

impl std::error::Error for Unavailable {}

impl From<Unavailable> for io::Error {
    fn from(error: Unavailable) -> Self {
        let kind = Self::from_raw_os_error(error.errno).kind();
        Self::new(kind, error)
    }
}

/// Tries to set up a ring and tells what it can do.
///
/// # Errors
/// When io_uring is missing, forbidden, or older than Linux 5.11.
pub fn probe() -> Result<Features, Unavailable> {
    // The kernel tidies up a ring on the thread that made it, and so would interrupt a system call
    // of the caller later on.
    let probe = || {
        ring::open(&UringConfig { submissions: 8, completions: 16, ..UringConfig::default() })
            .map(|(_, features)| features)
    };
    let thread = std::thread::Builder::new().name("io_uring probe".into());
    std::thread::scope(|scope| match thread.spawn_scoped(scope, probe) {
        Ok(thread) => thread.join().expect("setting up a ring does not panic"),
        Err(error) => Err(Unavailable::from_errno(error.raw_os_error().unwrap_or(0))),
    })
}

/// What `ring` can do, of what is allowed. Flags of operations cannot be asked for, so operations
/// that came with the same kernel version stand for them: `SOCKET` for multishot accept (5.19),
/// `SEND_ZC` for multishot receive (6.0).
pub(super) fn examine(ring: &IoUring, allowed: Features) -> Result<Features, Unavailable> {
    let old = Unavailable::from_errno(libc::EINVAL);
    let params = ring.params();
    if !(params.is_feature_ext_arg() && params.is_feature_nodrop() && params.is_feature_fast_poll())
    {
        return Err(old);
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| Unavailable::from_error(&error))?;
    let needed = [
        opcode::Accept::CODE,
        opcode::Connect::CODE,
        opcode::Recv::CODE,
        opcode::SendMsg::CODE,
        opcode::PollAdd::CODE,
        opcode::AsyncCancel::CODE,
    ];
    if !needed.into_iter().all(|code| probe.is_supported(code)) {
        return Err(old);
    }
    let buffer_ring = allowed.buffer_ring && probe.is_supported(opcode::Socket::CODE);
    let multishot_recv =
        allowed.multishot_recv && buffer_ring && probe.is_supported(opcode::SendZc::CODE);
    Ok(Features {
        buffer_ring,
        multishot_recv,
        multishot_accept: allowed.multishot_accept && probe.is_supported(opcode::Socket::CODE),
        bundles: allowed.bundles && multishot_recv && params.is_feature_recvsend_bundle(),
        ..allowed
    })
}
