//! Short polling: the client asks every few seconds, and most answers are no.
//!
//! Every request is answered at once with what is newer than the client's cursor. The server keeps
//! nothing between two requests: a client is its cursor. Two header fields make a *no* cheap:
//! `ETag`, by which an answer without news shrinks to a bare 304, and `X-Poll-Interval`, by which
//! the server says when to ask again. From the top:
//!
//! - [`run`] serves until it is told to shut down;
//! - `serve.rs` accepts connections and hands each to hyper;
//! - `route.rs` turns a request into an answer;
//! - `poll.rs` is the answer to one poll: the page and its fields;
//! - [`conditional`] decides between 200 and 304, [`hint`] when to ask again.

pub mod conditional;
pub mod hint;
mod poll;
mod route;
mod serve;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use clap::Parser;
use common::{
    Browsers, Drained, Feed, Origin, PublishLimits, fit_descriptors, positive_seconds, seconds,
};
use tokio::net::TcpListener;

/// Short polling: the client asks every few seconds, and most answers are no.
#[derive(Debug, Clone, Parser)]
#[command(name = "short-polling", version)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8001", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Open connections; newcomers beyond wait in the kernel's backlog.
    #[arg(long, default_value_t = 10_256, value_name = "N")]
    pub max_connections: usize,
    /// Messages kept per topic.
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub retain: usize,
    /// Bytes of one published body.
    #[arg(long, default_value_t = 65_536, value_name = "BYTES")]
    pub max_message: usize,
    /// Seconds for a request's head, then for its body; also how long an idle connection is kept.
    /// Polls come well within it, so that a client keeps its connection.
    #[arg(long, default_value = "75", value_parser = positive_seconds, value_name = "SECONDS")]
    pub read_timeout: Duration,
    /// Seconds for which a client may take no byte of what is written to it.
    #[arg(long, default_value = "30", value_parser = positive_seconds, value_name = "SECONDS")]
    pub stall: Duration,
    /// Seconds from the signal until what is still open is cut.
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "SECONDS")]
    pub drain: Duration,
    /// A page's origin that may publish and read from a browser; repeatable.
    #[arg(long, value_name = "ORIGIN")]
    pub allow_origin: Vec<Origin>,
    /// Seconds between two polls that clients are asked to keep. Each answer says up to a fifth
    /// more or less, so that they spread; at most half of --read-timeout, and at least a second.
    #[arg(long, default_value = "5", value_parser = positive_seconds, value_name = "SECONDS")]
    pub poll_interval: Duration,
}

impl Default for Config {
    /// The command line's defaults.
    fn default() -> Self {
        Self::try_parse_from(["short-polling"]).expect("every knob has a default")
    }
}

impl Config {
    /// Connections that may be open at one time.
    pub fn connections(&self) -> usize {
        self.max_connections
    }

    /// Lowers the limit to the descriptors that the process may have.
    pub fn fit(&mut self) {
        self.max_connections = fit_descriptors(self.connections());
    }

    fn publish_limits(&self) -> PublishLimits {
        PublishLimits {
            max_message: self.max_message,
            body_timeout: self.read_timeout,
        }
    }
}

/// What every connection shares.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) feed: Feed,
    pub(crate) browsers: Browsers,
}

/// Response fields that scripts of other origins may read.
const EXPOSED: &str = "ETag, Retry-After, X-Poll-Interval";

/// Serves `feed` on `listener` until `shutdown` resolves, then drains within `config.drain`.
///
/// # Errors
/// If the listener has no address.
pub async fn run(
    listener: TcpListener,
    feed: Feed,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> io::Result<Drained> {
    let app = App {
        feed: feed.handle(),
        browsers: Browsers::new(config.allow_origin.clone(), listener.local_addr()?, EXPOSED),
        config,
    };
    Ok(serve::serve(listener, Arc::new(app), shutdown).await)
}
