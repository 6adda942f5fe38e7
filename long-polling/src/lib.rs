//! Long polling: the server holds its answer until there is news.
//!
//! The client asks what is newer than its cursor. If there is something, it is answered at once;
//! if not, the server *waits* with the answer until there is, or until the time is up, and the
//! client asks again at once. The server keeps nothing between two requests: a client is its
//! cursor, and may send each poll to another server of the same feed. From the top:
//!
//! - [`run`] serves until it is told to shut down;
//! - `serve.rs` accepts connections and hands each to hyper;
//! - `route.rs` turns a request into an answer;
//! - `poll.rs` is the answer to one poll: at once, after a wait, or not now;
//! - `wait.rs` is the wait: one race of news, deadline and drain;
//! - `takeover.rs` is an addition, without which the server is whole: it takes a waiting poll out of
//!   hyper, which keeps 16 KiB of buffers for it.

mod poll;
mod route;
mod serve;
mod takeover;
mod wait;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use clap::Parser;
use common::{
    Browsers, Drained, Feed, FeedSource, Origin, PublishLimits, fit_descriptors, positive_seconds,
    seconds,
};
use tokio::{net::TcpListener, sync::Semaphore};

/// Long polling: the server holds its answer until there is news.
#[derive(Debug, Clone, Parser)]
#[command(name = "long-polling", version)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8002", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Waiting polls; one more is told when to come again.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub max_subscribers: usize,
    /// Open connections; newcomers beyond wait in the kernel's backlog [default: subscribers + 256].
    #[arg(long, value_name = "N")]
    pub max_connections: Option<usize>,
    /// Messages kept per topic.
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub retain: usize,
    /// Where the feed lives: `memory`; `file:PATH`, where it is still there after a restart; or
    /// `nats://HOST:PORT,…`, where any number of servers share it.
    #[arg(
        long,
        default_value = "memory",
        value_name = "memory|file:PATH|nats://…"
    )]
    pub feed: FeedSource,
    /// Begin another history in the feed's file or stream: for an old copy of it that was restored.
    #[arg(long)]
    pub new_epoch: bool,
    /// Bytes of one published body.
    #[arg(long, default_value_t = 65_536, value_name = "BYTES")]
    pub max_message: usize,
    /// Seconds for a request's head, then for its body; also how long an idle connection is kept.
    #[arg(long, default_value = "30", value_parser = positive_seconds, value_name = "SECONDS")]
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
    /// Seconds that a poll waits if it does not say, 0 to 55, as it may say. Each wait ends up to a
    /// sixteenth earlier, so that clients spread.
    #[arg(long, default_value = "25", value_parser = wait::knob, value_name = "SECONDS")]
    pub wait: Duration,
    /// Whether a poll waits outside of hyper, which saves its buffers: `false` is plain hyper. Not on the
    /// command line.
    #[arg(skip = true)]
    pub takeover: bool,
}

impl Default for Config {
    /// The command line's defaults.
    fn default() -> Self {
        Self::try_parse_from(["long-polling"]).expect("every knob has a default")
    }
}

impl Config {
    /// Connections that may be open at one time.
    pub fn connections(&self) -> usize {
        self.max_connections
            .unwrap_or(self.max_subscribers.saturating_add(256))
    }

    /// Lowers the limits to the descriptors that the process may have, and keeps a quarter of them
    /// for publishers and health checks.
    pub fn fit(&mut self) {
        let connections = fit_descriptors(self.connections());
        if connections < self.connections() {
            self.max_subscribers = self.max_subscribers.min(connections / 4 * 3);
        }
        self.max_connections = Some(connections);
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
    /// One permit for each poll that may still wait.
    pub(crate) subscribers: Semaphore,
}

impl App {
    fn new(feed: &Feed, config: Config, listener: SocketAddr) -> Self {
        Self {
            feed: feed.handle(),
            browsers: Browsers::new(config.allow_origin.clone(), listener, "Retry-After"),
            subscribers: Semaphore::new(config.max_subscribers),
            config,
        }
    }
}

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
    let app = App::new(&feed, config, listener.local_addr()?);
    Ok(serve::serve(listener, Arc::new(app), shutdown).await)
}
