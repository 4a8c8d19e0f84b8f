//! CPUs: which there are, pinning to one, and what threads and processes have used.
//!
//! CPU time comes from the kernel's per-task clocks (nanoseconds, system time included), not from `/proc/PID/stat` with its
//! ticks of 10 ms. Work that the kernel does for a socket in another thread's context counts for that thread.

use std::{fs, io, mem::MaybeUninit, time::Duration};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The two CPUs of a run: the measured server has one for itself, all load shares the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Cpus {
    /// For the measured party.
    pub server: usize,
    /// For the load.
    pub load: usize,
}

/// CPUs that this process may use.
#[must_use]
pub fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_default();
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

/// Two CPUs that are not threads of one core, where the machine has such; with a single CPU both are the same.
#[must_use]
pub fn choose() -> Cpus {
    let cpus = allowed();
    let server = cpus.first().copied().unwrap_or(0);
    let siblings = siblings(server);
    let others = || cpus.iter().copied().filter(|cpu| *cpu != server);
    let load = others().find(|cpu| !siblings.contains(cpu)).or_else(|| others().next());
    Cpus { server, load: load.unwrap_or(server) }
}

/// The hardware threads of the core that `cpu` belongs to.
fn siblings(cpu: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    let list = fs::read_to_string(path).unwrap_or_default();
    let ranges = list.trim().split(',').filter_map(|part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.parse::<usize>().ok()?..=to.parse::<usize>().ok()?)
    });
    ranges.flatten().collect()
}

/// Pins the calling thread, and what it will start, to `cpus`.
///
/// # Errors
/// The process may not run there.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    sched_setaffinity(None, &set).map_err(|error| {
        io::Error::other(format!("cannot pin to CPU {cpus:?}: {error}; is it allowed here?"))
    })
}

/// CPU time that all threads of process `pid` have used since it started.
///
/// # Errors
/// There is no such process.
pub fn process_time(pid: u32) -> io::Result<Duration> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut clock = MaybeUninit::uninit();
    // SAFETY: `clock` is valid for a write, and is read only after success.
    let code = unsafe { libc::clock_getcpuclockid(pid, clock.as_mut_ptr()) };
    if code != 0 {
        return Err(io::Error::from_raw_os_error(code));
    }
    // SAFETY: the call above succeeded, so it wrote `clock`.
    read_clock(unsafe { clock.assume_init() })
}

/// CPU time of the calling thread.
#[must_use]
pub fn thread_time() -> Duration {
    read_clock(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or_default()
}

fn read_clock(clock: libc::clockid_t) -> io::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for a write.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Ok(Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0)))
}

/// Bytes of user-space memory (anonymous and resident) of process `pid`.
///
/// # Errors
/// There is no such process.
pub fn anonymous_bytes(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("no RssAnon in /proc/PID/status"))
}

/// Raises the limit of open files to what the system allows, and returns it.
#[must_use]
pub fn raise_file_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = setrlimit(Resource::Nofile, raised).map_or(limit.current, |()| limit.maximum);
    now.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_clock_runs_with_its_threads() {
        let before = process_time(std::process::id()).expect("our own process");
        let busy = thread_time();
        while thread_time() < busy + Duration::from_millis(3) {}
        let after = process_time(std::process::id()).expect("our own process");
        assert!(after >= before + Duration::from_millis(3));
    }

    #[test]
    fn the_chosen_cpus_are_allowed_ones() {
        let Cpus { server, load } = choose();
        assert!(allowed().contains(&server) && allowed().contains(&load));
        assert_eq!(server == load, allowed().len() == 1);
    }
}
