//! What the five servers share of HTTP: publishing, errors, queries, browser rules, slow readers.

mod activity;
mod answer;
mod browser;
mod fair;
mod problem;
mod publish;
mod query;
mod refused;
mod stall;
mod takeover;

#[cfg(test)]
pub(crate) use activity::Connection;
pub use activity::{Activities, Activity, Busy, Idle};
pub use answer::{healthz, html};
pub use browser::{Browsers, Origin};
pub use fair::{FairTimer, TooSlow, fair_timeout};
pub use problem::{Problem, retry_after};
pub use publish::{
    PublishLimits, expect_no_body, idempotency_key, is_json, publish, read_body, too_large,
    too_slow,
};
pub use query::Query;
pub use stall::StallGuard;
pub use takeover::{Handover, Taken, Timeouts, encode_head, serve_unbuffered};
