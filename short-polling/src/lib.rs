//! Short polling: the client asks every few seconds, and most answers are no.
//!
//! Every poll is answered at once, with what is newer than the client's cursor. The server keeps
//! nothing between two polls, because each carries the client's cursor. Two header fields make an
//! answer without news cheap. With `ETag` it shrinks to a bare 304. With `X-Poll-Interval` the server says
//! when to poll again. From the top:
//!
//! - [`run`] serves until it is told to shut down;
//! - `serve.rs` accepts connections and hands each to hyper;
//! - `route.rs` turns a request into an answer;
//! - [`poll`] answers one poll: the page and its fields;
//! - [`conditional`] decides between 200 and 304;
//! - [`hint`] says when to poll again.

pub mod conditional;
pub mod hint;
pub mod poll;
mod route;
mod serve;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use clap::Parser;
use common::{Drained, Feed, FeedConfig, ServerConfig, address, metrics, positive_seconds};
use tokio::{net::TcpListener, time::Instant};

use crate::{hint::Hint, poll::Polls, route::App};

/// Short polling: the client asks every few seconds, and most answers are no.
#[derive(Debug, Clone, Parser)]
#[command(name = "short-polling", version)]
// There are no subscribers to derive a limit from.
#[command(mut_arg("max_connections", |arg| arg.default_value("10256").help(ServerConfig::MAX_CONNECTIONS)))]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8001", value_parser = address, value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// The usual time between two polls, in seconds; at most half of --read-timeout. The server asks
    /// for a pause that is up to five times shorter for a busy topic and up to four times longer for a
    /// quiet one. Each pause varies by up to 20 %, so that clients do not poll at the same moment.
    #[arg(long, default_value = "5", value_parser = positive_seconds, value_name = "SECONDS")]
    pub poll_interval: Duration,
    /// Whether a connection has no buffers between two polls. `false` is plain hyper. Not a command-line
    /// option.
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
        Self::try_parse_from(["short-polling"]).expect("every knob has a default")
    }
}

impl Config {
    /// Computes when clients should poll again.
    pub fn hint(&self) -> Hint {
        Hint {
            interval: self.poll_interval,
            idle: self.server.read_timeout,
        }
    }

    /// Checks that a client that obeys the hint finds its connection open.
    ///
    /// # Errors
    /// If `read_timeout` is too short for `poll_interval`. The text names the shortest that is allowed.
    pub fn check(&self) -> Result<(), String> {
        let least = self.hint().least_idle();
        if self.server.read_timeout < least {
            return Err(format!(
                "--read-timeout must be at least {least:?}: twice --poll-interval, and never below 2 s"
            ));
        }
        Ok(())
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
    let exposed = "ETag, Retry-After, X-Poll-Interval";
    let feed = feed.handle(); // Its own handle: closing it closes no other server of the same feed.
    let app = App {
        browsers: config.server.browsers(&listener, exposed)?,
        polls: Polls {
            feed: feed.clone(),
            hint: config.hint(),
            started: Instant::now(),
        },
        feed,
        takeover: config.takeover,
        server: config.server,
    };
    let counters = &["deliveries"];
    let _metrics = metrics(&app.server, &app.feed, counters, Vec::new).await?;
    Ok(serve::serve(listener, Arc::new(app), shutdown).await)
}
