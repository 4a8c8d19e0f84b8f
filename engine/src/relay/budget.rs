//! What a peer may send beside data in one keep-alive interval, so that a session that carries nothing cannot cost
//! much (CVE-2023-44487 and its kin).
//!
//! Honest traffic of small messages passes: what counts is the proportion of frames without payload to frames with
//! it, in both directions, above a floor that is generous for an idle session.

use std::time::{Duration, Instant};

use super::{RelayLimits, SessionEnd};
use crate::mux::MuxCounters;

/// An interval is not shorter, whatever is configured.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// The account of one session.
#[derive(Debug)]
pub(super) struct Budget {
    /// When the interval began.
    begun_at: Instant,
    /// The mux's counters then.
    begin: MuxCounters,
    data_frames_sent: u64,
    requests: u32,
    abandoned: u32,
    refused: u32,
}

impl Budget {
    /// The first interval.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            begun_at: now,
            begin: MuxCounters::default(),
            data_frames_sent: 0,
            requests: 0,
            abandoned: 0,
            refused: 0,
        }
    }

    /// Begins a new interval if this one is over; returns when the one at hand is.
    pub(super) fn renew(
        &mut self,
        now: Instant,
        interval: Duration,
        counters: MuxCounters,
    ) -> Instant {
        let interval = interval.max(INTERVAL_MIN);
        if now >= self.begun_at + interval {
            *self = Self { begin: counters, ..Self::new(now) };
        }
        self.begun_at + interval
    }

    /// The peer wants a signature checked or made; true when that was one too many.
    pub(super) fn request(&mut self, max: u32) -> bool {
        one_more(&mut self.requests, max)
    }

    /// We sent the peer data frames: it may answer with updates.
    pub(super) fn note_data_sent(&mut self, frames: u32) {
        self.data_frames_sent += u64::from(frames);
    }

    /// The peer abandoned a dial; true when that was one too many.
    pub(super) fn abandoned(&mut self, max: u32) -> bool {
        one_more(&mut self.abandoned, max)
    }

    /// A stream of the peer was refused; true when that was one too many.
    pub(super) fn refusal(&mut self, max: u32) -> bool {
        one_more(&mut self.refused, max)
    }

    /// What the peer has too much of, if anything.
    pub(super) fn exceeded(
        &self,
        now: MuxCounters,
        empty_max: u64,
        control_max: u64,
    ) -> Option<SessionEnd> {
        let empty = now.empty_data_frames - self.begin.empty_data_frames;
        if empty > empty_max {
            return Some(SessionEnd::EmptyFrameFlood);
        }
        let data = now.data_frames - self.begin.data_frames;
        let control = (now.frames - self.begin.frames).saturating_sub(data);
        let earned = (data + self.data_frames_sent) * RelayLimits::CONTROL_PER_DATA_FRAME;
        (control > control_max.saturating_add(earned)).then_some(SessionEnd::ControlFlood)
    }
}

fn one_more(count: &mut u32, max: u32) -> bool {
    *count = count.saturating_add(1);
    *count > max
}
