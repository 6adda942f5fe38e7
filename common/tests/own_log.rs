//! The part of the feed's contract that every log must keep, tested on the example log.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "contract/model.rs"]
mod model;
#[allow(dead_code, reason = "an example, with a `main`")]
#[path = "../examples/own_log.rs"]
mod own_log;
#[path = "contract/verbs.rs"]
mod verbs;

use common::Retention;

/// The log under test.
type Log = own_log::OwnLog;

/// Runs of the model.
const CASES: u32 = 400;
/// Whether the model drives the clock.
const PAUSED: bool = true;

fn feed(retention: Retention) -> Log {
    Log::new(retention.messages)
}
