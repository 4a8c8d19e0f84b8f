//! The ring: submissions that always find room, one enter per turn.

use std::{collections::VecDeque, io, time::Duration};

use io_uring::{
    IoUring, cqueue, opcode,
    register::Restriction,
    squeue,
    types::{SubmitArgs, Timespec},
};

use super::features::{self, Features, Unavailable, UringConfig};

/// What a submission may ask for; the ring refuses all else, so that whoever gets hold of it cannot open files by it.
const ALLOWED: [u8; 6] = [
    opcode::Accept::CODE,
    opcode::Connect::CODE,
    opcode::Recv::CODE,
    opcode::Send::CODE,
    opcode::SendMsg::CODE,
    opcode::PollAdd::CODE,
];

/// `IORING_REGISTER_PBUF_RING`: the one thing that is registered after the restrictions are in force.
const REGISTER_BUFFER_RING: u8 = 22;

/// Sets up a ring with the best flags the kernel takes.
pub(super) fn open(config: &UringConfig) -> Result<(IoUring, Features), Unavailable> {
    let mut features = config.features;
    let mut result = build(config, features);
    if features.defer_taskrun && is_invalid(&result) {
        features.defer_taskrun = false;
        result = build(config, features);
    }
    let ring = result.map_err(|error| Unavailable::from_error(&error))?;
    let mut features = features::examine(&ring, features)?;
    if features.restrictions {
        features.restrictions = restrict(&ring).is_ok();
        ring.submitter()
            .register_enable_rings()
            .map_err(|error| Unavailable::from_error(&error))?;
    }
    // A filter may allow the set-up and forbid the use. This asks for nothing, and is refused all the same.
    // SAFETY: no argument is passed.
    let entered = unsafe { ring.submitter().enter::<libc::sigset_t>(0, 0, 0, None) };
    entered.map_err(|error| Unavailable::from_error(&error))?;
    Ok((ring, features))
}

fn build(config: &UringConfig, features: Features) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_clamp().setup_cqsize(config.completions.max(config.submissions));
    if features.defer_taskrun {
        builder.setup_single_issuer().setup_defer_taskrun();
    }
    if features.restrictions {
        builder.setup_r_disabled();
    }
    builder.build(config.submissions.max(1))
}

/// Lets a ring that is not enabled yet do nothing but what the driver needs.
fn restrict(ring: &IoUring) -> io::Result<()> {
    let flags = squeue::Flags::BUFFER_SELECT.bits();
    let mut allowed: Vec<_> = ALLOWED.map(Restriction::sqe_op).into();
    allowed.extend([
        Restriction::sqe_op(opcode::AsyncCancel::CODE),
        Restriction::sqe_flags_allowed(flags),
        Restriction::register_op(REGISTER_BUFFER_RING),
    ]);
    ring.submitter().register_restrictions(&mut allowed)
}

fn is_invalid(result: &io::Result<IoUring>) -> bool {
    matches!(result, Err(error) if error.raw_os_error() == Some(libc::EINVAL))
}

/// A completion, copied out of the queue so that handling it may submit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Completion {
    pub(super) user_data: u64,
    pub(super) result: i32,
    flags: u32,
}

impl Completion {
    /// More completions of the same operation follow.
    pub(super) fn is_followed(self) -> bool {
        cqueue::more(self.flags)
    }

    /// The provided buffer it used.
    pub(super) fn buffer(self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }

    /// The result as the system call would have given it.
    pub(super) fn outcome(self) -> io::Result<usize> {
        usize::try_from(self.result).map_err(|_| io::Error::from_raw_os_error(-self.result))
    }
}

pub(super) struct Ring {
    ring: IoUring,
    /// Submissions for which the queue had no room, in order.
    backlog: VecDeque<squeue::Entry>,
    /// Operations whose last completion has not come.
    in_flight: usize,
}

impl Ring {
    pub(super) fn new(ring: IoUring) -> Self {
        Self { ring, backlog: VecDeque::new(), in_flight: 0 }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Submits with the next [`Ring::wait`], or earlier when the queue is full.
    ///
    /// # Safety
    /// Every descriptor and every piece of memory that `entry` names stays valid until its last
    /// completion has been [taken](Ring::take_completions).
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        self.in_flight += 1;
        // SAFETY: promised by the caller.
        if self.backlog.is_empty() && unsafe { self.ring.submission().push(&entry) }.is_ok() {
            return;
        }
        self.backlog.push_back(entry);
        self.move_backlog();
        if !self.backlog.is_empty() {
            // A full queue: hand it to the kernel now. When that has no room for results either
            // (EBUSY), the rest waits until completions were taken.
            let _ = self.ring.submit();
            self.move_backlog();
        }
    }

    fn move_backlog(&mut self) {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: the caller of `push` promised that what the entry names outlives the
            // operation.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            self.backlog.pop_front();
        }
    }

    /// Submits everything and waits for a completion, at most `timeout`.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.move_backlog();
        let timeout = if self.backlog.is_empty() { timeout } else { Some(Duration::ZERO) };
        let timespec = timeout.map(Timespec::from);
        let mut args = SubmitArgs::new();
        if let Some(timespec) = &timespec {
            args = args.timespec(timespec);
        }
        match self.ring.submitter().submit_with_args(1, &args) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // Time is up; a signal; results first, then submissions; memory is short for the
                // moment.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(Unavailable::from_error(&error).into()),
            },
        }
    }

    /// Moves what has completed to the end of `completions`.
    pub(super) fn take_completions(&mut self, completions: &mut VecDeque<Completion>) {
        for entry in self.ring.completion() {
            let (user_data, result, flags) = (entry.user_data(), entry.result(), entry.flags());
            self.in_flight -= usize::from(!cqueue::more(flags));
            completions.push_back(Completion { user_data, result, flags });
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_restricted_ring_refuses_what_the_driver_never_asks_for() {
        let config = UringConfig { submissions: 8, completions: 16, ..UringConfig::default() };
        let (ring, features) = match open(&config) {
            Ok(opened) => opened,
            Err(unavailable) => return println!("skipped: {unavailable}"),
        };
        if !features.restrictions {
            return println!("skipped: this kernel has no restrictions");
        }
        let registered = ring.submitter().register_files(&[0]);
        assert_eq!(registered.unwrap_err().raw_os_error(), Some(libc::EACCES));
        let mut ring = Ring::new(ring);
        let path = c"/dev/null";
        let fd = io_uring::types::Fd(libc::AT_FDCWD);
        let forbidden = [
            opcode::OpenAt::new(fd, path.as_ptr()).build(),
            opcode::Nop::new().build(),
            opcode::PollAdd::new(fd, 0).build().flags(squeue::Flags::IO_LINK),
        ];
        for entry in forbidden {
            // SAFETY: the path is static; the other names no memory.
            unsafe { ring.push(entry) };
            ring.wait(None).unwrap();
            let mut completions = VecDeque::new();
            ring.take_completions(&mut completions);
            assert_eq!(completions.pop_front().unwrap().result, -libc::EACCES);
        }
    }
}
