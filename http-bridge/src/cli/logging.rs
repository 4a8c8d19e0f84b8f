//! What the program says on stderr, in such a way that it never holds anybody up and never fills a disk by itself.
//!
//! ```text
//!   event ─▶ one line of text ─▶ limit of its kind ─▶ queue ─▶ thread ─▶ stderr
//!                                  beyond: counted     full: counted
//! ```
//!
//! A kind of message is a place in the code. From `info` upwards each kind has [`LINES_AT_ONCE`] lines and [`LINE_INTERVAL`] for
//! each further one; what is left out is summed up every [`SUMMARY_INTERVAL`], with the last such line as an example. Whoever
//! asks for `debug` or `trace` gets all of it. A stderr that nobody reads fills the queue and then costs lines, no time.

use std::{
    collections::HashMap,
    io::{self, IsTerminal, Write},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::{Level, Metadata, callsite::Identifier};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use super::exit::{Exit, Failure};
use crate::discovery::RateLimiter;

/// Lines of one kind at once: a deployment's start has some tens of a kind.
const LINES_AT_ONCE: u32 = 100;

/// For each further line of a kind: at 150 bytes a day has 1.3 MB of it at most.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// How often what was left out is summed up: as many lines of a kind again.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(10);

/// Places in the code that log from `info` upwards: there are about a hundred.
const KINDS_MAX: usize = 4096;

/// Lines that wait for stderr. At 150 bytes each 150 KiB; at worst, with [`LINE_BYTES_MAX`], 8 MiB.
const QUEUE_LINES: usize = 1024;

/// A longer line is cut. Nothing that is logged on purpose comes near.
const LINE_BYTES_MAX: usize = 8 << 10;

/// How long the program's end waits for a stderr that does not take the rest.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

static LOG: OnceLock<Log> = OnceLock::new();

/// Sends what is logged to stderr from now on.
pub(super) fn start(level: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(level)
        .map_err(|error| Failure::new(Exit::Usage, format!("--log {level:?}: {error}")))?;
    let (log, queue) = Log::new();
    let log = LOG.get_or_init(|| log);
    thread::Builder::new()
        .name("dmsg-log".to_owned())
        .spawn(move || log.write_all(&queue, &mut io::stderr(), SUMMARY_INTERVAL))
        .map_err(|error| Failure::new(Exit::Other, format!("no thread for the log: {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(log)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
    Ok(())
}

/// Waits until what was logged is written, [`FLUSH_TIMEOUT`] at most.
pub(super) fn flush() {
    if let Some(log) = LOG.get() {
        log.flush(FLUSH_TIMEOUT);
    }
}

/// Lines that were not written, since the program's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Missing {
    /// Beyond the limit of their kind.
    pub(super) left_out: u64,
    /// Nobody took them from us.
    pub(super) lost: u64,
}

/// See [`Missing`].
pub(super) fn missing() -> Missing {
    LOG.get().map_or(Missing { left_out: 0, lost: 0 }, |log| Missing {
        left_out: log.left_out.load(Relaxed),
        lost: log.lost.load(Relaxed),
    })
}

enum Item {
    Line(Vec<u8>),
    /// Tells that everything before it is written.
    Flush(SyncSender<()>),
}

struct Log {
    queue: SyncSender<Item>,
    limit: RateLimiter<Identifier>,
    /// Since the last summary, by kind: how many, and the last of them.
    withheld: Mutex<HashMap<Identifier, (u64, Vec<u8>)>>,
    left_out: AtomicU64,
    lost: AtomicU64,
}

impl Log {
    fn new() -> (Self, Receiver<Item>) {
        let (queue, items) = sync_channel(QUEUE_LINES);
        let log = Self {
            queue,
            limit: RateLimiter::one_each(LINE_INTERVAL, LINES_AT_ONCE, KINDS_MAX),
            withheld: Mutex::default(),
            left_out: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        };
        (log, items)
    }

    /// `kind` is `None` for what has no limit.
    fn say(&self, kind: Option<Identifier>, line: &[u8], now: Instant) {
        let mut line = line[..line.len().min(LINE_BYTES_MAX)].to_vec();
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        match kind {
            Some(kind) if !self.limit.admit(kind.clone(), now) => {
                self.left_out.fetch_add(1, Relaxed);
                let mut withheld = self.withheld.lock().unwrap_or_else(PoisonError::into_inner);
                let (count, last) = withheld.entry(kind).or_default();
                *count += 1;
                *last = line;
            }
            _ => {
                if let Err(TrySendError::Full(_)) = self.queue.try_send(Item::Line(line)) {
                    self.lost.fetch_add(1, Relaxed);
                }
            }
        }
    }

    /// Writes for ever.
    fn write_all(&self, queue: &Receiver<Item>, out: &mut impl Write, summaries: Duration) {
        let (mut next_summary, mut lost_before) = (Instant::now() + summaries, 0);
        loop {
            let wait = next_summary.saturating_duration_since(Instant::now());
            match queue.recv_timeout(wait) {
                Ok(Item::Line(line)) => drop(out.write_all(&line)),
                // Whoever waited may have given up.
                Ok(Item::Flush(done)) => drop(done.try_send(())),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let lost = self.lost.load(Relaxed);
            if lost > lost_before {
                let text =
                    format!("{} lines were lost here: nobody took them\n", lost - lost_before);
                drop(out.write_all(text.as_bytes()));
                lost_before = lost;
            }
            if Instant::now() >= next_summary {
                drop(out.write_all(&self.summary()));
                next_summary = Instant::now() + summaries;
            }
        }
    }

    /// One line for each kind of which something was left out.
    fn summary(&self) -> Vec<u8> {
        let mut withheld = self.withheld.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = Vec::new();
        for (_, (count, last)) in withheld.drain() {
            text.extend_from_slice(last.trim_ascii_end());
            text.extend_from_slice(
                format!(" [the last of {count} that were left out]\n").as_bytes(),
            );
        }
        text
    }

    fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let (done, written) = sync_channel(1);
        let mut item = Item::Flush(done);
        while let Err(TrySendError::Full(back)) = self.queue.try_send(item) {
            if Instant::now() >= deadline {
                return;
            }
            item = back;
            thread::sleep(Duration::from_millis(1));
        }
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

impl<'a> MakeWriter<'a> for &'static Log {
    type Writer = OneLine;

    fn make_writer(&'a self) -> OneLine {
        OneLine { log: self, kind: None }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> OneLine {
        OneLine { log: self, kind: (*meta.level() <= Level::INFO).then(|| meta.callsite()) }
    }
}

/// Takes the text of one event, which comes in one piece.
struct OneLine {
    log: &'static Log,
    kind: Option<Identifier>,
}

impl Write for OneLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.log.say(self.kind.clone(), line, Instant::now());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use tracing::{Callsite, subscriber::Interest};

    use super::*;

    struct Place;

    impl Callsite for Place {
        fn set_interest(&self, _: Interest) {}
        fn metadata(&self) -> &Metadata<'_> {
            unreachable!("only its address counts")
        }
    }

    fn here() -> Identifier {
        static HERE: Place = Place;
        Identifier(&HERE)
    }

    fn lines(queue: &Receiver<Item>) -> usize {
        queue.try_iter().filter(|item| matches!(item, Item::Line(_))).count()
    }

    #[test]
    fn a_kind_of_message_has_a_burst_and_a_rate_and_the_rest_is_summed_up() {
        let (log, queue) = Log::new();
        let start = Instant::now();
        for number in 0..1000 {
            log.say(Some(here()), format!("attack {number}\n").as_bytes(), start);
        }
        assert_eq!(lines(&queue), LINES_AT_ONCE as usize);
        assert_eq!(log.left_out.load(Relaxed), 900);
        let summary = String::from_utf8(log.summary()).unwrap();
        assert_eq!(summary, "attack 999 [the last of 900 that were left out]\n");
        assert_eq!(log.summary(), b"", "once");
        log.say(Some(here()), b"attack\n", start + LINE_INTERVAL);
        log.say(None, b"asked for\n", start);
        assert_eq!((lines(&queue), log.left_out.load(Relaxed)), (2, 900));
    }

    #[test]
    fn a_queue_that_nobody_empties_costs_lines_which_are_counted_and_little_time_at_the_end() {
        let (log, queue) = Log::new();
        for _ in 0..QUEUE_LINES + 10 {
            log.say(None, b"line", Instant::now());
        }
        assert_eq!(log.lost.load(Relaxed), 10);
        let begun = Instant::now();
        log.flush(Duration::from_millis(20));
        assert!(begun.elapsed() >= Duration::from_millis(20));
        assert_eq!(lines(&queue), QUEUE_LINES);
    }

    struct Told(Sender<Vec<u8>>);

    impl Write for Told {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(bytes.to_vec());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_was_lost_or_left_out_is_said_and_a_flush_comes_behind_what_was_there() {
        let (log, queue) = Log::new();
        let log: &'static Log = Box::leak(Box::new(log));
        log.say(None, &[b'x'; 2 * LINE_BYTES_MAX], Instant::now());
        log.lost.store(3, Relaxed);
        log.withheld.lock().unwrap().insert(here(), (2, b"attack\n".to_vec()));
        let (tell, told) = channel();
        thread::spawn(move || log.write_all(&queue, &mut Told(tell), Duration::from_millis(1)));
        log.flush(Duration::from_secs(60));
        assert_eq!(told.try_recv().unwrap().len(), LINE_BYTES_MAX + 1, "cut, and ended");
        let mut said: Vec<_> =
            (0..2).map(|_| String::from_utf8(told.recv().unwrap()).unwrap()).collect();
        said.sort();
        assert_eq!(
            said,
            [
                "3 lines were lost here: nobody took them\n",
                "attack [the last of 2 that were left out]\n"
            ]
        );
    }
}
