//! Counts what clients put on the wire and take off it.

use std::sync::{Mutex, MutexGuard};

/// Counts over all connections of a client, or of several.
#[derive(Debug, Default)]
pub struct Traffic(Mutex<Counts>);

/// The counts at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes that the programs write and read, in both directions. TCP's own are not in it.
    pub bytes: u64,
    /// HTTP requests, of either side.
    pub requests: u64,
    /// Answers with nothing new in them.
    pub empty: u64,
}

impl Traffic {
    /// The counts up to now.
    pub fn counts(&self) -> Counts {
        *self.now()
    }

    pub(crate) fn bytes(&self, count: usize) {
        self.now().bytes += count as u64;
    }

    pub(crate) fn request(&self) {
        self.now().requests += 1;
    }

    pub(crate) fn empty(&self) {
        self.now().empty += 1;
    }

    fn now(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().expect("nothing panics under this lock")
    }
}

impl Counts {
    /// What both counted together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.zip(other, u64::wrapping_add)
    }

    /// What was counted after `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        self.zip(earlier, u64::wrapping_sub)
    }

    fn zip(self, other: Self, count: fn(u64, u64) -> u64) -> Self {
        Self {
            bytes: count(self.bytes, other.bytes),
            requests: count(self.requests, other.requests),
            empty: count(self.empty, other.empty),
        }
    }
}
