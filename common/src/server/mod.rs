//! What every server's program needs around its `run`: knobs, connections, signals, descriptors.
//!
//! There is no accept loop here. Each member has its own, so that hyper stays in view.

mod config;
mod connections;
mod process;

pub use config::{FeedConfig, ServerConfig, positive_seconds, seconds};
pub use connections::{Connections, Drained, accept_failed};
pub use process::{exit_code, fit_descriptors, listen, shutdown_signal};
