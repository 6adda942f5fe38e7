//! Long polling: the server holds its answer until there is news.
//!
//! The client asks what is newer than its cursor. If there is something, it is answered at once. If
//! not, the server *waits* until there is news, or until the time is up. The client then asks again at
//! once. The server keeps nothing between two requests, because each carries the client's cursor. So a
//! client may send each poll to another server of the same feed. From the top:
//!
//! - [`run`] serves until it is told to shut down;
//! - `serve.rs` accepts connections and hands each to hyper;
//! - `route.rs` turns a request into an answer;
//! - [`mod@wait`] is the technique: one poll, and its wait.

mod route;
mod serve;
pub mod wait;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use clap::Parser;
use common::{Connections, Drained, Feed, FeedConfig, ServerConfig, address, metrics, positive};
use tokio::net::TcpListener;

use crate::{
    route::App,
    wait::{Polls, Wait},
};

/// Long polling: the server holds its answer until there is news.
#[derive(Debug, Clone, Parser)]
#[command(name = "long-polling", version)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8002", value_parser = address, value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// How long a poll waits, in seconds, when the request has no `wait=`. 0 to 55; `wait=` accepts the
    /// same range. A random part, up to 1/16, is taken off each wait, so that clients do not return at
    /// the same moment.
    #[arg(long, default_value = "25", value_parser = wait, value_name = "SECONDS")]
    pub wait: Duration,
    /// How many polls may wait at one time. A poll over the limit gets a 503 with a Retry-After.
    #[arg(long, default_value_t = 10_000, value_parser = positive, value_name = "N")]
    pub max_subscribers: usize,
    /// Whether a client waits without hyper's buffers. `false` is plain hyper. Not a command-line option.
    #[arg(skip = true)]
    pub takeover: bool,
    /// The knobs of the feed.
    #[command(flatten)]
    pub feed: FeedConfig,
    /// The knobs that every server has.
    #[command(flatten)]
    pub server: ServerConfig,
}

fn wait(text: &str) -> Result<Duration, String> {
    text.parse().map(|Wait(time)| time)
}

impl Default for Config {
    /// The command line's defaults.
    fn default() -> Self {
        Self::try_parse_from(["long-polling"]).expect("every knob has a default")
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
    // Its own handle: closing it ends the waits of this server, not of others on the same feed.
    let app = App::new(feed.handle(), config, &listener)?;
    let counters = &["deliveries", "refused", "waits"];
    let _metrics = metrics(&app.server, &app.feed, counters, Vec::new).await?;
    Ok(serve::serve(listener, connections, Arc::new(app), shutdown).await)
}

impl App {
    fn new(feed: Feed, config: Config, listener: &TcpListener) -> io::Result<Self> {
        Ok(Self {
            browsers: config.server.browsers(listener, "Retry-After")?,
            polls: Polls::new(feed.clone(), config.max_subscribers, config.wait),
            takeover: config.takeover,
            server: config.server,
            feed,
        })
    }
}
