//! What every server's program needs around its `run`: knobs, sockets, connections, signals,
//! descriptors, the log, the metrics.
//!
//! There is no accept loop for clients here. Each member has its own, so that hyper stays in view.

mod config;
mod connections;
mod counters;
mod log;
mod metrics;
mod process;
mod quota;
mod socket;

pub use config::{
    FeedConfig, FeedParser, ServerConfig, address, positive, positive_seconds, seconds,
};
pub use connections::{Connections, Drained, Spawner, accept_failed, peer_span};
pub use log::log_to_stderr;
pub use metrics::{Gauge, metrics};
pub use process::{exit_code, fit_descriptors, shutdown_signal};
pub use quota::Quota;
pub use socket::{listen, prepare};
