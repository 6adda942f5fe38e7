//! A clock without the jumps of the system's clock.
//!
//! The system's clock may move by days at once, for example after a suspend or a correction. The time for
//! which an endpoint has failed must not depend on that.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// The system's time at the start, plus the time that has passed since then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steady {
    began: Instant,
    at: SystemTime,
}

impl Steady {
    /// A clock that starts at `now`.
    pub(crate) fn new(now: SystemTime) -> Self {
        Self {
            began: Instant::now(),
            at: now,
        }
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.at + self.lasts()
    }

    /// When it started.
    pub(crate) fn began(&self) -> SystemTime {
        self.at
    }

    /// How long it has run.
    pub(crate) fn lasts(&self) -> Duration {
        self.began.elapsed()
    }
}
