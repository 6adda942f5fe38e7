//! WebSockets: one upgraded connection, both ways.
//!
//! The client asks once to change the protocol, and from then on both sides say what they want when
//! they want: the client publishes, the server answers and notifies. A session is a few cursors: it
//! pulls pages from the feed when its socket takes bytes, so a slow reader has no queue here, and a
//! client that comes back with its last id has missed nothing. From the top:
//!
//! - [`run`] serves until it is told to shut down;
//! - `serve.rs` accepts connections, hands each to hyper, and keeps it when hyper has upgraded it;
//!   `takeover.rs` is an addition: it takes it back a little earlier, for the memory;
//! - `route.rs` turns a request into an answer, `handshake.rs` is the answer that upgrades;
//! - `session.rs` is what happens then: one task, one `select!`; `commands.rs` is what the client
//!   asks of it, `subscriptions.rs` what it reads of the feed;
//! - `socket.rs` drives tungstenite on any async stream, and `boundary.rs` knows when it is idle;
//!   `protocol.rs` reads and writes the JSON in the frames, `frames.rs` encodes a page once for all
//!   who read it, `close.rs` ends the session so that the peer learns why.

mod boundary;
mod close;
mod commands;
mod frames;
mod handshake;
mod protocol;
mod route;
mod serve;
mod session;
mod socket;
mod subscriptions;
mod takeover;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use clap::Parser;
use common::{
    Browsers, Drained, Feed, FeedSource, Origin, PublishLimits, fit_descriptors, positive_seconds,
    seconds,
};
use tokio::{net::TcpListener, sync::Semaphore};

/// WebSockets: one upgraded connection, both ways.
#[derive(Debug, Clone, Parser)]
#[command(name = "websockets", version)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8004", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Open sessions; one more is closed with 1013 as soon as it is open.
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
    /// Seconds of a client's silence until it is pinged; it has half of them to answer.
    #[arg(long, default_value = "20", value_parser = positive_seconds, value_name = "SECONDS")]
    pub ping: Duration,
    /// Serve /echo, which sends every message back: what a test of the protocol talks to.
    #[arg(long)]
    pub echo: bool,
    /// Whether an open session leaves hyper, which saves its buffers: `false` is plain hyper. Not on the
    /// command line.
    #[arg(skip = true)]
    pub takeover: bool,
}

impl Default for Config {
    /// The command line's defaults.
    fn default() -> Self {
        Self::try_parse_from(["websockets"]).expect("every knob has a default")
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

    /// How long a pinged client has to answer; any byte will do.
    pub fn pong(&self) -> Duration {
        self.ping / 2
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
    /// One permit for each session that may still open.
    pub(crate) subscribers: Arc<Semaphore>,
    /// Peers that were reset because they took no byte.
    pub(crate) stalled: AtomicU64,
}

impl App {
    fn new(feed: &Feed, config: Config, listener: SocketAddr) -> Self {
        Self {
            feed: feed.handle(),
            browsers: Browsers::new(config.allow_origin.clone(), listener, ""),
            subscribers: Arc::new(Semaphore::new(config.max_subscribers)),
            stalled: AtomicU64::new(0),
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
