//! Stores that keep a feed's messages after the process ends. Here: the file. `nats/` is the stream.

#[cfg(feature = "file")]
pub mod commit;
#[cfg(feature = "file")]
pub mod database;
#[cfg(feature = "file")]
pub(crate) mod journal;
#[cfg(feature = "file")]
mod tables;

use std::time::SystemTime;

use tokio::time::Instant;

#[cfg(feature = "file")]
pub use journal::commits;

/// A publish time as an `Instant`. An `Instant` may not reach back before the machine's start; then it
/// is now, which only makes the topic look busier.
pub(crate) fn instant_of(published: SystemTime) -> Instant {
    let (now, age) = (Instant::now(), SystemTime::now().duration_since(published));
    now.checked_sub(age.unwrap_or_default()).unwrap_or(now)
}
