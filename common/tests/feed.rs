//! The feed's contract, tested on a feed in memory.
#![allow(clippy::unwrap_used, reason = "a test")]

mod contract;

use common::{Feed, Retention};

/// The log under test.
type Log = Feed;

/// Runs of the model.
const CASES: u32 = 400;
/// Whether the model drives the clock.
const PAUSED: bool = true;

fn feed(retention: Retention) -> Feed {
    Feed::new(retention)
}
