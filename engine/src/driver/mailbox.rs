//! Commands from other threads to the machine of a driver.
//!
//! ```text
//!  post: push ─▶ asleep? ──yes: write eventfd once──▶ driver wakes
//!  driver: asleep = true ─▶ queue empty? ─▶ wait ─▶ asleep = false ─▶ pop …
//! ```
//!
//! Each side stores first and looks second, with a full fence between, so one of them always sees
//! the other: either the driver finds the command and does not sleep, or the poster finds the
//! driver asleep and wakes it. A busy driver costs a poster no system call, and a sleeping one is
//! woken by one write.

use std::{
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering, fence},
    },
};

use crossbeam::queue::SegQueue;

use super::sys::EventFd;

struct Shared<C> {
    queue: SegQueue<C>,
    waiting: AtomicUsize,
    max: usize,
    asleep: AtomicBool,
    stopped: AtomicBool,
    event: EventFd,
}

impl<C> Shared<C> {
    fn discard_all(&self) {
        while self.queue.pop().is_some() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn push(&self, command: C) {
        self.queue.push(command);
        fence(Ordering::SeqCst);
        if self.stopped.load(Ordering::Relaxed) {
            // The driver may have emptied the queue before this command came: nobody else will drop
            // it.
            self.discard_all();
        } else if self.asleep.swap(false, Ordering::Relaxed) {
            self.event.signal();
        }
    }
}

/// Posts commands to a machine on its driver's thread. Cheap to clone.
///
/// A command that the machine never saw because the driver ended is dropped, so what it holds (a
/// reply channel, a guard) is released.
pub struct Mailbox<C>(Arc<Shared<C>>);

impl<C> Clone for Mailbox<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C> std::fmt::Debug for Mailbox<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mailbox({} of {} waiting)", self.0.waiting.load(Ordering::Relaxed), self.0.max)
    }
}

/// The driver has stopped, or its mailbox is full; the command comes back.
#[derive(Debug, PartialEq, Eq)]
pub enum PostError<C> {
    /// `mailbox_max` commands wait.
    Full(C),
    /// The driver's thread has ended.
    Stopped(C),
}

impl<C: Send + 'static> Mailbox<C> {
    /// Posts a command and wakes the driver if it sleeps.
    pub fn post(&self, command: C) -> Result<(), PostError<C>> {
        if self.is_stopped() {
            return Err(PostError::Stopped(command));
        }
        if self.0.waiting.fetch_add(1, Ordering::Relaxed) >= self.0.max {
            self.0.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(PostError::Full(command));
        }
        self.0.push(command);
        Ok(())
    }

    /// Posts beyond `mailbox_max`: for releases, whose number is bounded by the guards that post
    /// them.
    pub fn post_release(&self, command: C) {
        if !self.is_stopped() {
            self.0.waiting.fetch_add(1, Ordering::Relaxed);
            self.0.push(command);
        }
    }

    /// Whether the driver's thread has ended.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire)
    }
}

/// The driver's end of a mailbox. Dropping it stops the mailbox and drops what waits in it.
pub(super) struct Inbox<C>(Arc<Shared<C>>);

impl<C: Send + 'static> Inbox<C> {
    pub(super) fn new(max: usize) -> std::io::Result<(Mailbox<C>, Self)> {
        let shared = Arc::new(Shared {
            queue: SegQueue::new(),
            waiting: AtomicUsize::new(0),
            max: max.max(1),
            asleep: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            event: EventFd::new()?,
        });
        Ok((Mailbox(Arc::clone(&shared)), Self(shared)))
    }

    /// The next command.
    pub(super) fn pop(&self) -> Option<C> {
        let command = self.0.queue.pop()?;
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        Some(command)
    }

    /// Commands that wait, about: more may be coming.
    pub(super) fn len(&self) -> usize {
        self.0.waiting.load(Ordering::Relaxed)
    }

    /// Announces sleep. False when a command waits and there shall be none.
    pub(super) fn prepare_sleep(&self) -> bool {
        self.0.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let empty = self.0.queue.is_empty();
        if !empty {
            self.awake();
        }
        empty
    }

    /// Ends the sleep.
    pub(super) fn awake(&self) {
        self.0.asleep.store(false, Ordering::Relaxed);
    }

    /// Takes the signal back after it has woken the driver.
    pub(super) fn clear_signal(&self) {
        self.0.event.clear();
    }

    /// Becomes readable when a post wants to wake the driver.
    pub(super) fn event_fd(&self) -> RawFd {
        self.0.event.as_raw_fd()
    }
}

impl<C> Drop for Inbox<C> {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.0.discard_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_full_mailbox_gives_the_command_back_but_takes_releases() {
        let (mailbox, inbox) = Inbox::new(2).unwrap();
        assert_eq!((mailbox.post(1), mailbox.post(2)), (Ok(()), Ok(())));
        assert_eq!(mailbox.post(3), Err(PostError::Full(3)));
        mailbox.post_release(4);
        assert_eq!(std::iter::from_fn(|| inbox.pop()).collect::<Vec<_>>(), [1, 2, 4]);
        assert_eq!(mailbox.post(5), Ok(()));
    }

    #[test]
    fn a_stopped_mailbox_drops_what_it_holds() {
        let (mailbox, inbox) = Inbox::new(8).unwrap();
        let held = Arc::new(());
        mailbox.post(Arc::clone(&held)).unwrap();
        drop(inbox);
        assert_eq!(Arc::strong_count(&held), 1);
        assert!(matches!(mailbox.post(Arc::clone(&held)), Err(PostError::Stopped(_))));
        mailbox.post_release(Arc::clone(&held));
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[test]
    fn posts_are_signalled_once_and_only_to_a_sleeper() {
        let (mailbox, inbox) = Inbox::new(8).unwrap();
        mailbox.post(1).unwrap();
        assert!(!inbox.0.event.is_signalled(), "the driver was awake");
        assert!(!inbox.prepare_sleep(), "a command waits");
        inbox.pop();
        assert!(inbox.prepare_sleep());
        mailbox.post(2).unwrap();
        assert!(inbox.0.event.is_signalled());
        inbox.clear_signal();
        mailbox.post(3).unwrap();
        assert!(!inbox.0.event.is_signalled(), "one signal per sleep");
    }

    #[test]
    fn no_post_is_lost_between_two_threads() {
        const POSTS: u64 = 100_000;
        let (mailbox, inbox) = Inbox::new(64).unwrap();
        let poster = std::thread::spawn(move || {
            for mut number in 0..POSTS {
                while let Err(PostError::Full(back)) = mailbox.post(number) {
                    number = back;
                    std::thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < POSTS {
            if inbox.prepare_sleep() {
                assert!(inbox.0.event.wait(5_000), "asleep with nobody to wake us");
                inbox.clear_signal();
                inbox.awake();
            }
            while let Some(number) = inbox.pop() {
                assert_eq!(number, expected);
                expected += 1;
            }
        }
        poster.join().unwrap();
    }
}
