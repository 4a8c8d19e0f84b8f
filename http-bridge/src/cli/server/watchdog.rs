//! Finds worker threads that hang: each is asked from time to time, and one that does not answer is named in the log, with
//! what the kernel knows of it, and on the admin page. It is left running: what hangs may go on, and its clients have no
//! better one; whoever watches `/health` may decide otherwise.

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use dmsg_engine::server::Server;

/// How often the threads are asked.
const INTERVAL: Duration = Duration::from_secs(5);

/// How long a thread may take: a turn takes some milliseconds, with a full machine some hundreds.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is known; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Watchdog(Arc<Mutex<Vec<u16>>>);

impl Watchdog {
    /// Watches until the server is gone.
    pub(super) fn start(server: &Arc<Server>) -> Self {
        let watchdog = Self::default();
        tokio::spawn(watchdog.clone().watch(Arc::downgrade(server)));
        watchdog
    }

    /// The cores that did not answer when they were last asked.
    pub(super) fn stuck(&self) -> Vec<u16> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn watch(self, server: Weak<Server>) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let Some(server) = server.upgrade() else { return };
            let asked = tokio::task::spawn_blocking(move || server.stuck_cores(PATIENCE)).await;
            let Ok(stuck) = asked else { return };
            self.note(stuck);
        }
    }

    fn note(&self, stuck: Vec<u16>) {
        let before = {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *known, stuck.clone())
        };
        for core in stuck.iter().filter(|core| !before.contains(core)) {
            let name = format!("dmsg-relay-{core}");
            let thread = threads().into_iter().find(|thread| thread.name == name);
            let state = thread.map_or('?', |thread| thread.state);
            tracing::error!(
                core,
                %state,
                "a worker thread has not answered for {} s, and its clients wait (state R: it is busy, D: the disk or the \
                 kernel holds it up, T: it was stopped)",
                PATIENCE.as_secs()
            );
        }
        for core in before.iter().filter(|core| !stuck.contains(core)) {
            tracing::info!(core, "the worker thread answers again");
        }
    }
}

/// A thread of this process, as the kernel sees it.
pub(super) struct Thread {
    pub(super) name: String,
    /// As in `ps`: R runs, S waits, D waits and cannot be stopped, T is stopped.
    pub(super) state: char,
    pub(super) cpu_seconds: f64,
}

/// All threads of this process.
pub(super) fn threads() -> Vec<Thread> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("stat")).ok())
        .filter_map(|stat| parse(&stat))
        .collect()
}

/// Reads `/proc/<pid>/task/<tid>/stat`: `tid (name) state …`, where the 14th and 15th fields are the time in user and
/// kernel mode, in hundredths of a second.
fn parse(stat: &str) -> Option<Thread> {
    let (head, rest) = stat.rsplit_once(") ")?;
    let (_, name) = head.split_once(" (")?;
    let fields: Vec<_> = rest.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some(Thread {
        name: name.to_owned(),
        state: fields.first()?.chars().next()?,
        cpu_seconds: (ticks(11)? + ticks(12)?) / 100.0,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read_whatever_the_name() {
        let stat = "123 (a ) b) R 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 3 0";
        let thread = parse(stat).unwrap();
        assert_eq!((thread.name.as_str(), thread.state), ("a ) b", 'R'));
        assert!((thread.cpu_seconds - 2.0).abs() < 1e-9);
        assert!(parse("").is_none() && parse("1 (x) R").is_none());
        let me = std::thread::current();
        // The kernel keeps fifteen bytes of a name.
        let name: String = me.name().unwrap().chars().take(15).collect();
        assert!(threads().iter().any(|thread| thread.name == name && thread.state == 'R'));
    }

    #[test]
    fn what_is_stuck_is_known_until_it_answers() {
        let watchdog = Watchdog::default();
        watchdog.note(vec![1]);
        assert_eq!(watchdog.clone().stuck(), [1]);
        watchdog.note(Vec::new());
        assert!(watchdog.stuck().is_empty());
    }
}
