//! The contract of the feed, of one in memory.
#![allow(clippy::unwrap_used, reason = "a test")]

mod contract;

use common::{Feed, Retention};

/// Runs of the model.
const CASES: u32 = 400;

fn feed(retention: Retention) -> Feed {
    Feed::new(retention)
}
