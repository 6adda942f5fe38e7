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
//! - [`conditional`] decides between 200 and 304;
//! - [`hint`] says when to ask again, from what `pulse.rs` feels of the feed and the server.

pub mod conditional;
pub mod hint;
mod poll;
mod pulse;
mod route;
mod serve;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use clap::Parser;
use common::{Browsers, Drained, Feed, FeedConfig, ServerConfig, positive_seconds};
use tokio::net::TcpListener;

use crate::pulse::Pulse;

/// Short polling: the client asks every few seconds, and most answers are no.
#[derive(Debug, Clone, Parser)]
#[command(name = "short-polling", version)]
#[command(mut_arg("max_connections", |arg| arg.default_value("10256").help(MAX_CONNECTIONS)))]
#[command(mut_arg("read_timeout", |arg| arg.default_value("75").help(READ_TIMEOUT)))]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8001", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// How often a client should poll, in seconds. The server asks for up to five times as often while
    /// a topic is busy, and for up to four times less often while it is quiet or the server is loaded.
    /// Each answer differs by up to a fifth. At most half of --read-timeout.
    #[arg(long, default_value = "5", value_parser = positive_seconds, value_name = "SECONDS")]
    pub poll_interval: Duration,
    /// The knobs of the feed.
    #[command(flatten)]
    pub feed: FeedConfig,
    /// The knobs that every server has.
    #[command(flatten)]
    pub server: ServerConfig,
}

/// There are no subscribers to derive this limit from.
const MAX_CONNECTIONS: &str =
    "Accept at most this many connections; more wait in the kernel's backlog";
/// The default is longer than the others', so that a client keeps its connection between two polls.
const READ_TIMEOUT: &str = "How long a request's head may take, then its body, in seconds. An idle \
    connection is closed after the same time, which is longer than a client waits between two polls";

impl Default for Config {
    /// The command line's defaults.
    fn default() -> Self {
        Self::try_parse_from(["short-polling"]).expect("every knob has a default")
    }
}

impl Config {
    /// Whether clients that obey the hint find their connection open: half of `read_timeout` is a
    /// second at least, and admits `poll_interval`. If not, [`hint::longest`] is all they hear.
    ///
    /// # Errors
    /// What has to be longer than what.
    pub fn check(&self) -> Result<(), String> {
        let needed = (2 * self.poll_interval).max(Duration::from_secs(2));
        if self.server.read_timeout >= needed {
            return Ok(());
        }
        let needed = needed.as_secs_f64();
        Err(format!(
            "--read-timeout is at least 2 and twice --poll-interval: {needed}"
        ))
    }
}

/// What every connection shares.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) feed: Feed,
    pub(crate) browsers: Browsers,
    pub(crate) pulse: Pulse,
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
    let base = config.poll_interval;
    let app = Arc::new(App {
        feed: feed.handle(),
        browsers: Browsers::new(
            config.server.allow_origin.clone(),
            listener.local_addr()?,
            EXPOSED,
        ),
        pulse: Pulse::new(
            feed.head().seq,
            base * hint::ORDINARY,
            base * hint::ORDINARY * hint::SELDOMER,
        ),
        config,
    });
    tokio::select! {
        drained = serve::serve(listener, app.clone(), shutdown) => Ok(drained),
        never = app.pulse.beat(&app.feed) => match never {},
    }
}
