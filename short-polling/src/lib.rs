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
use common::{
    Browsers, Drained, Feed, FeedSource, Origin, PublishLimits, fit_descriptors, positive_seconds,
    seconds,
};
use tokio::net::TcpListener;

use crate::pulse::Pulse;

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
    /// Seconds between two polls that clients are asked to keep. A topic that is busy is polled up
    /// to five times as often, one that is quiet or a server that is loaded up to four times less;
    /// each answer differs by up to a fifth. At most half of --read-timeout.
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

    /// Whether clients that obey the hint find their connection open: half of `read_timeout` is a
    /// second at least, and admits `poll_interval`. If not, [`hint::longest`] is all they hear.
    ///
    /// # Errors
    /// What has to be longer than what.
    pub fn check(&self) -> Result<(), String> {
        let needed = (2 * self.poll_interval).max(Duration::from_secs(2));
        if self.read_timeout >= needed {
            return Ok(());
        }
        let needed = needed.as_secs_f64();
        Err(format!(
            "--read-timeout is at least 2 and twice --poll-interval: {needed}"
        ))
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
        browsers: Browsers::new(config.allow_origin.clone(), listener.local_addr()?, EXPOSED),
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
