//! Webhooks: the server calls the client.
//!
//! Who wants to know of news registers a URL, an *endpoint*, and the sender POSTs each message to it,
//! signed, until it answers 2xx or the schedule of retries is at its end. Two programs: `webhooks`
//! sends, `receiver` is called. From the top:
//!
//! - [`run`] is the sender, [`receiver::run`] the receiver;
//! - `serve.rs` accepts connections and hands each to hyper;
//! - `route.rs` turns a request into an answer, for both;
//! - `endpoints.rs` knows who is to be called, each an `endpoint.rs`; `push.rs` is the loop of each;
//! - `deliver.rs` is one attempt: `guard.rs` says where it may go, [`sign`] signs it, and [`schedule`]
//!   when to try again;
//! - `receiver.rs` hands what comes to [`verify`], and what is genuine to `inbox.rs`.

mod deliver;
mod endpoint;
mod endpoints;
pub mod guard;
mod inbox;
mod push;
pub mod receiver;
mod route;
pub mod schedule;
mod serve;
pub mod sign;
pub mod verify;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use clap::{Args, Parser};
use common::{
    Browsers, Drained, Feed, Origin, PublishLimits, fit_descriptors, positive_seconds, seconds,
};
use tokio::net::TcpListener;

use crate::{
    endpoints::Endpoints,
    guard::Guard,
    push::{CONCURRENCY, Outbound},
    receiver::Receiver,
    schedule::Schedule,
};

/// How long one attempt may take in all, by default: the Standard Webhooks text asks for 15 to 30 s.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);

/// Sends webhooks: POSTs what is published, signed, to every endpoint that registered for it.
#[derive(Debug, Clone, Parser)]
#[command(name = "webhooks", version)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8003", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Registered endpoints; one more is refused.
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub max_endpoints: usize,
    /// Messages kept per topic.
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub retain: usize,
    /// Call endpoints by plain http.
    #[arg(long)]
    pub allow_http: bool,
    /// Call endpoints on this machine.
    #[arg(long)]
    pub allow_loopback: bool,
    /// Call endpoints on private networks.
    #[arg(long)]
    pub allow_private: bool,
    /// What both programs have.
    #[command(flatten)]
    pub limits: Limits,
    /// From the first lookup to the last byte of the answer. Not on the command line.
    #[arg(skip = ATTEMPT_TIMEOUT)]
    pub attempt_timeout: Duration,
    /// When to try again. Not on the command line.
    #[arg(skip = Schedule::default())]
    pub schedule: Schedule,
}

/// The knobs that both programs have.
#[derive(Debug, Clone, Args)]
pub struct Limits {
    /// Open connections; newcomers beyond wait in the kernel's backlog.
    #[arg(long, default_value_t = 1_024, value_name = "N")]
    pub max_connections: usize,
    /// Bytes of one body.
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
}

impl Default for Config {
    /// The command line's defaults.
    fn default() -> Self {
        Self::try_parse_from(["webhooks"]).expect("every knob has a default")
    }
}

impl Config {
    /// Lowers the limits to the descriptors that the process may have: half of them for those who
    /// call, half for those who are called. Every endpoint has its own, so that none waits for
    /// another's.
    pub fn fit(&mut self) {
        let attempts = self.max_endpoints.saturating_mul(CONCURRENCY);
        let wanted = self.limits.max_connections.saturating_add(attempts);
        let fitting = fit_descriptors(wanted);
        if fitting < wanted {
            let half = (fitting / 2).max(1);
            self.limits.max_connections = self.limits.max_connections.min(half);
            self.max_endpoints = self.max_endpoints.min((half / CONCURRENCY).max(1));
        }
    }

    fn outbound(&self, feed: Feed) -> Outbound {
        Outbound {
            feed,
            guard: Guard {
                http: self.allow_http,
                loopback: self.allow_loopback,
                private: self.allow_private,
            },
            schedule: self.schedule.clone(),
            attempt_timeout: self.attempt_timeout,
            drain: self.limits.drain,
        }
    }
}

impl Limits {
    fn connections(&self) -> usize {
        self.max_connections
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
    pub(crate) config: Limits,
    pub(crate) feed: Feed,
    pub(crate) browsers: Browsers,
    pub(crate) program: Program,
}

/// Which of the two programs this is.
pub(crate) enum Program {
    Receiver(Receiver),
    Sender(Arc<Endpoints>),
}

impl Program {
    /// The browser's half.
    pub(crate) fn page(&self) -> &'static str {
        match self {
            Self::Receiver(_) => include_str!("receiver.html"),
            Self::Sender(_) => include_str!("page.html"),
        }
    }

    /// Whether requests for this path prove by a signature whose they are.
    pub(crate) fn is_signed(&self, path: &str) -> bool {
        matches!(self, Self::Receiver(receiver) if receiver.is_signed(path))
    }
}

impl App {
    fn new(
        listener: &TcpListener,
        feed: &Feed,
        config: Limits,
        program: Program,
    ) -> io::Result<Self> {
        Ok(Self {
            feed: feed.handle(),
            browsers: Browsers::new(config.allow_origin.clone(), listener.local_addr()?, ""),
            program,
            config,
        })
    }
}

/// Sends what is published to `feed`, and serves the endpoints' management on `listener`, until
/// `shutdown` resolves. Then nothing more is claimed, and what is in flight is finished within
/// `config.limits.drain`.
///
/// # Errors
/// If the listener has no address. And if accepted work was lost: the queues are in memory, so
/// messages that an endpoint has not got by the end, waiting retries included, will never arrive.
/// The error counts them, and `main` turns it into exit code 1.
pub async fn run(
    listener: TcpListener,
    feed: Feed,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> io::Result<Drained> {
    let outbound = config.outbound(feed.handle());
    let endpoints = Arc::new(Endpoints::new(outbound, config.max_endpoints));
    let program = Program::Sender(endpoints.clone());
    let app = App::new(&listener, &feed, config.limits, program)?;
    let shutdown = async {
        shutdown.await;
        endpoints.stop();
    };
    let served = serve::serve(listener, Arc::new(app), shutdown);
    let (drained, left) = tokio::join!(served, endpoints.drained());
    let mut lost = 0;
    for push in left {
        // Only now, when the last publisher has its answer.
        lost += push.owed().await;
    }
    match lost {
        0 => Ok(drained),
        lost => Err(io::Error::other(Lost(lost))),
    }
}

/// So many deliveries of accepted messages were neither made nor given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("deliveries that were owed and are lost with this process: {0}")]
pub struct Lost(pub usize);
