//! Server-Sent Events: one response that never ends.
//!
//! The client asks once, and the answer's body goes on as long as there is news. Each block carries
//! the feed's cursor as its `id`. A browser that loses the connection asks again with the last id in
//! `Last-Event-ID`, and nothing is lost. From the top:
//!
//! - [`run`] serves until it is told to shut down;
//! - `serve.rs` accepts connections and hands each to hyper;
//! - `route.rs` turns a request into an answer;
//! - [`stream`] is the technique: the answer that goes on;
//! - [`event`] writes the wire form, [`parse`] reads it for a client;
//! - `takeover.rs` is an addition: it lets an open stream leave hyper, to save memory.

pub mod event;
pub mod parse;
mod route;
mod serve;
pub mod stream;
mod takeover;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use clap::Parser;
use common::{Connections, Drained, Feed, FeedConfig, ServerConfig, positive_seconds};
use tokio::net::TcpListener;

use crate::{
    route::App,
    stream::{StreamLimits, Streams},
};

/// Server-Sent Events: one response that never ends.
#[derive(Debug, Clone, Parser)]
#[command(name = "sse", version)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8005", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Send a heartbeat after this many seconds of silence.
    #[arg(long, default_value = "15", value_parser = positive_seconds, value_name = "SECONDS")]
    pub heartbeat: Duration,
    /// How long a client waits before it reconnects, in seconds. Each stream is told up to half of it
    /// more.
    #[arg(long, default_value = "2", value_parser = positive_seconds, value_name = "SECONDS")]
    pub retry: Duration,
    /// How many streams may be open at one time. One more is told when to come again.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub max_subscribers: usize,
    /// Whether an open stream leaves hyper, which saves its buffers. `false` is plain hyper. Not on the
    /// command line.
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
/// If the listener has no address.
pub async fn run(
    listener: TcpListener,
    feed: Feed,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> io::Result<Drained> {
    let connections = Connections::new(config.server.connections(config.max_subscribers));
    // Closed when this server drains, not when another one of the same feed does.
    let app = App::new(feed.handle(), config, &listener)?;
    Ok(serve::serve(listener, connections, Arc::new(app), shutdown).await)
}

impl App {
    fn new(feed: Feed, config: Config, listener: &TcpListener) -> io::Result<Self> {
        let limits = StreamLimits {
            streams: config.max_subscribers,
            heartbeat: config.heartbeat,
            retry: config.retry,
            drain: config.server.drain,
        };
        Ok(Self {
            browsers: config.server.browsers(listener, "Retry-After")?,
            streams: Arc::new(Streams::new(feed.clone(), limits)),
            takeover: config.takeover,
            server: config.server,
            feed,
        })
    }
}
