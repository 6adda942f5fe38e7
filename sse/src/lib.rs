//! Server-Sent Events: one response that never ends.
//!
//! The client asks once, and the response stays open: the server writes a block for each message.
//! Each block carries the feed's cursor as its `id`. A browser that loses the connection reconnects
//! with the last id in `Last-Event-ID`, and nothing is lost. From the top:
//!
//! - [`run`] serves until it is told to shut down;
//! - `serve.rs` accepts connections and hands each to hyper;
//! - `route.rs` turns a request into an answer;
//! - [`stream`] is the technique: the response that stays open;
//! - [`event`] writes the wire form, [`parse`] reads it for a client;
//! - `takeover/` is optional, to save memory and time: it takes an open stream out of hyper, and puts the
//!   streams that wait for the same news into one task.

pub mod event;
pub mod parse;
mod route;
mod serve;
pub mod stream;
mod takeover;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use clap::Parser;
use common::{
    Connections, Drained, Feed, FeedConfig, ServerConfig, Spawner, address, metrics,
    positive_seconds,
};
use tokio::net::TcpListener;

use crate::{
    route::App,
    stream::{StreamLimits, Streams},
    takeover::Groups,
};

/// Server-Sent Events: one response that never ends.
#[derive(Debug, Clone, Parser)]
#[command(name = "sse", version)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8005", value_parser = address, value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Send a heartbeat after this many seconds of silence.
    #[arg(long, default_value = "15", value_parser = positive_seconds, value_name = "SECONDS")]
    pub heartbeat: Duration,
    /// How long a client waits before it reconnects, in seconds. Each stream gets a random value, up to
    /// 50 % longer.
    #[arg(long, default_value = "2", value_parser = positive_seconds, value_name = "SECONDS")]
    pub retry: Duration,
    /// End a stream or a session at this age, in seconds, or up to a tenth earlier. Its client reconnects
    /// and misses nothing. This also ends connections that a proxy keeps open after its client has left.
    #[arg(long, default_value = "3600", value_parser = positive_seconds, value_name = "SECONDS")]
    pub max_age: Duration,
    /// How many streams may be open at one time. A client over the limit is told when to retry.
    #[arg(long, default_value_t = 10_000, value_parser = common::positive, value_name = "N")]
    pub max_subscribers: usize,
    /// Whether an open stream is taken out of hyper, and waits in a group. `false` is plain hyper. Not a
    /// command-line option.
    #[arg(skip = true)]
    pub takeover: bool,
    /// The knobs of the feed.
    #[command(flatten)]
    pub feed: FeedConfig,
    /// The knobs that every server has.
    #[command(flatten)]
    pub server: ServerConfig,
}

impl Default for Config {
    /// The command line's defaults.
    fn default() -> Self {
        Self::try_parse_from(["sse"]).expect("every knob has a default")
    }
}

/// Serves `feed` on `listener` until `shutdown` resolves, then drains within `config.server.drain`.
///
/// # Errors
/// If the listener has no address, or that of the metrics cannot be bound.
pub async fn run(
    listener: TcpListener,
    feed: Feed,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> io::Result<Drained> {
    let connections = Connections::new(config.server.connections(config.max_subscribers));
    // Its own handle: closing it ends the streams of this server, not of others on the same feed.
    let app = App::new(feed.handle(), config, &listener, connections.spawner())?;
    let streams = app.streams.clone();
    let gauges = move || vec![("subscribers", "Open streams", streams.open() as u64)];
    let counters = &["deliveries", "refused"];
    let _metrics = metrics(&app.server, &app.feed, counters, gauges).await?;
    Ok(serve::serve(listener, connections, Arc::new(app), shutdown).await)
}

impl App {
    fn new(
        feed: Feed,
        config: Config,
        listener: &TcpListener,
        spawner: Spawner,
    ) -> io::Result<Self> {
        let limits = StreamLimits {
            streams: config.max_subscribers,
            heartbeat: config.heartbeat,
            retry: config.retry,
            age: config.max_age,
            drain: config.server.drain,
        };
        Ok(Self {
            browsers: config.server.browsers(listener, "Retry-After")?,
            streams: Arc::new(Streams::new(feed.clone(), limits)),
            groups: config
                .takeover
                .then(|| Groups::new(spawner, config.server.stall))
                .transpose()?,
            server: config.server,
            feed,
        })
    }
}
