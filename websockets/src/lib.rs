//! WebSockets: one upgraded connection, both ways.
//!
//! The client asks once to change the protocol. From then on both sides send when they want: the client
//! publishes, the server answers and notifies. A session holds a few cursors. It fetches the next page
//! from the feed only when its socket accepts bytes, so a slow reader costs no queue. A client that
//! reconnects with its last id misses nothing. From the top:
//!
//! - [`run`] serves until it is told to shut down;
//! - `serve.rs` accepts connections, gives each to hyper, and takes it back when it is upgraded;
//! - `route.rs` turns a request into an answer; [`handshake`] is the answer that upgrades, and
//!   `spelling.rs` spells the names of its fields;
//! - [`session`] is the life of the connection after that: one task, one `select!`. [`socket`] is a
//!   websocket on any async stream, [`frames`] its protocol without I/O, [`close`] ends it and tells the
//!   peer why;
//! - `commands.rs` is what the messages mean, [`subscriptions`] what a session reads of the feed, [`protocol`]
//!   the JSON in the frames.

pub mod close;
mod commands;
pub mod frames;
pub mod handshake;
pub mod protocol;
mod route;
mod serve;
pub mod session;
pub mod socket;
mod spelling;
pub mod subscriptions;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use clap::Parser;
use common::{
    Drained, Feed, FeedConfig, ServerConfig, address, metrics, positive, positive_seconds,
};
use tokio::net::TcpListener;

use crate::{route::App, session::Sessions};

/// WebSockets: one upgraded connection, both ways.
#[derive(Debug, Clone, Parser)]
#[command(name = "websockets", version)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8004", value_parser = address, value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// How many sessions may be open. A session over the limit is closed with 1013 right after it opens.
    #[arg(long, default_value_t = 10_000, value_parser = positive, value_name = "N")]
    pub max_subscribers: usize,
    /// Ping a client that was silent for this many seconds. It has half of that time to answer.
    #[arg(long, default_value = "20", value_parser = positive_seconds, value_name = "SECONDS")]
    pub ping: Duration,
    /// End a stream or a session at this age, in seconds, or up to a tenth earlier. Its client reconnects
    /// and misses nothing. This also ends connections that a proxy keeps open after its client has left.
    #[arg(long, default_value = "3600", value_parser = positive_seconds, value_name = "SECONDS")]
    pub max_age: Duration,
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
        Self::try_parse_from(["websockets"]).expect("every knob has a default")
    }
}

impl App {
    fn new(feed: Feed, config: Config, listener: &TcpListener) -> io::Result<Self> {
        let drain = config.server.drain;
        let sessions = Sessions::new(config.max_subscribers, config.ping, config.max_age, drain);
        Ok(Self {
            feed,
            browsers: config.server.browsers(listener, "Retry-After")?,
            server: config.server,
            sessions: Arc::new(sessions),
        })
    }
}

/// Serves `feed` on `listener` until `shutdown` resolves, then drains within the server's `drain`.
///
/// # Errors
/// If the listener has no address, or that of the metrics cannot be bound.
pub async fn run(
    listener: TcpListener,
    feed: Feed,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> io::Result<Drained> {
    let app = App::new(feed, config, &listener)?;
    let sessions = app.sessions.clone();
    let gauges = move || vec![("subscribers", "Open sessions", sessions.open() as u64)];
    let counters = &["closes", "deliveries", "refused"];
    let _metrics = metrics(&app.server, &app.feed, counters, gauges).await?;
    Ok(serve::serve(listener, Arc::new(app), shutdown).await)
}
