//! The time without the jumps of the system's clock.
//!
//! A machine that was suspended or whose clock was wrong finds its clock moved by days. How long something has
//! lasted must not depend on that.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// The system's time at the start, and what has passed since.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steady {
    began: Instant,
    at: SystemTime,
}

impl Steady {
    /// It is `now`.
    pub(crate) fn new(now: SystemTime) -> Self {
        Self {
            began: Instant::now(),
            at: now,
        }
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.at + self.lasts()
    }

    /// How long ago the start was.
    pub(crate) fn lasts(&self) -> Duration {
        self.began.elapsed()
    }
}
