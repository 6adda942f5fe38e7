//! Server-Sent Events: one response that never ends.
//!
//! The client asks once, and the answer's body goes on for as long as there is news. Each block
//! carries the feed's cursor as its `id`; a browser that loses the connection asks again with the
//! last one in `Last-Event-ID`, and nothing is lost. From the top:
//!
//! - [`run`] serves until it is told to shut down;
//! - `serve.rs` accepts connections and hands each to hyper;
//! - `route.rs` turns a request into an answer;
//! - `stream.rs` is the answer that goes on: replay, live, heartbeat, end;
//! - `takeover.rs` is an addition: it lets an open stream leave hyper, for the memory;
//! - [`event`] writes the wire form, [`parse`] reads it for a client.

pub mod event;
pub mod parse;
mod route;
mod serve;
mod stream;
mod takeover;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use clap::Parser;
use common::{
    Browsers, Drained, Feed, FeedSource, Origin, PublishLimits, fit_descriptors, positive_seconds,
    seconds,
};
use tokio::{net::TcpListener, sync::Semaphore};

/// Server-Sent Events: one response that never ends.
#[derive(Debug, Clone, Parser)]
#[command(name = "sse", version)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8005", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Open streams; one more is told when to come again.
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
    /// Seconds of silence until a heartbeat.
    #[arg(long, default_value = "15", value_parser = positive_seconds, value_name = "SECONDS")]
    pub heartbeat: Duration,
    /// Seconds a client waits before it reconnects; each stream gets up to half of it more.
    #[arg(long, default_value = "2", value_parser = positive_seconds, value_name = "SECONDS")]
    pub retry: Duration,
    /// Whether an open stream leaves hyper, which saves its buffers: `false` is plain hyper. Not on the
    /// command line.
    #[arg(skip = true)]
    pub takeover: bool,
}

impl Default for Config {
    /// The command line's defaults.
    fn default() -> Self {
        Self::try_parse_from(["sse"]).expect("every knob has a default")
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
    /// One permit for each stream that may still open.
    pub(crate) subscribers: Arc<Semaphore>,
}

impl App {
    fn new(feed: &Feed, config: Config, listener: SocketAddr) -> Self {
        Self {
            feed: feed.handle(),
            browsers: Browsers::new(config.allow_origin.clone(), listener, "Retry-After"),
            subscribers: Arc::new(Semaphore::new(config.max_subscribers)),
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
