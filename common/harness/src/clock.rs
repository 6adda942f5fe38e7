//! A wall clock for code that takes the time as a parameter. It goes with the runtime's clock, which a test may pause.

use std::{
    cell::Cell,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

/// When the clock starts, in seconds since 1970.
pub const START: u64 = 1_800_000_000;

thread_local! {
    static STARTED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Starts the clock of this test, which is a thread.
pub fn start_clock() {
    STARTED.set(Some(Instant::now()));
}

/// The time.
///
/// # Panics
/// Before [`start_clock`], or on another thread.
pub fn wall_clock() -> SystemTime {
    let started = STARTED.get().expect("start_clock was called in this test");
    UNIX_EPOCH + Duration::from_secs(START) + started.elapsed()
}
