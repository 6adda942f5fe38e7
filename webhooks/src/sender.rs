//! The sender: its knobs, and [`run`].

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::Parser;
use common::{Drained, Feed, FeedSource, fit_descriptors};
use tokio::{net::TcpListener, sync::Semaphore};

use crate::{
    App, Limits, Program,
    endpoints::Endpoints,
    guard::Guard,
    push::{CONCURRENCY, Outbound},
    schedule::Schedule,
    serve,
    store::Store,
};

/// How long one attempt may take in all, by default: the Standard Webhooks text asks for 15 to 30 s.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long what a disabled endpoint has not got is kept: time for a holiday.
pub(crate) const HOLD: Duration = Duration::from_secs(30 * 24 * 3_600);
/// How long an endpoint may only fail before it is disabled.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(5 * 24 * 3_600);

/// How many attempts there may be at one time beside one for each endpoint: of all of them together
/// about 50 MiB of buffers.
const MAX_ATTEMPTS: usize = 1_024;

/// What all that is kept may take of the disk: the feed's own limit, and as much again three times for
/// what waits or is dead.
const DISK: u64 = 1 << 30;

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
    /// Where the feed lives: `memory`, or `file:PATH`, where it is still there after a restart.
    #[arg(long, default_value = "memory", value_name = "memory|file:PATH", value_parser = FeedSource::parse_own)]
    pub feed: FeedSource,
    /// Begin another history in the feed's file: for an old copy of it that was restored.
    #[arg(long)]
    pub new_epoch: bool,
    /// Call endpoints by plain http too; by itself only https is.
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
    /// For so long is kept what a disabled endpoint has not got. Not on the command line.
    #[arg(skip = HOLD)]
    pub hold: Duration,
    /// An endpoint that has only failed for so long is disabled. Not on the command line.
    #[arg(skip = GIVE_UP)]
    pub give_up: Duration,
    /// Bytes of the feed's file, or of the tables in memory; over it nothing is published. Not on the
    /// command line.
    #[arg(skip = DISK)]
    pub disk: u64,
    /// First attempts at one time, over all endpoints, beside one for each. Not on the command line.
    #[arg(skip = MAX_ATTEMPTS)]
    pub max_attempts: usize,
    /// When to try again. Not on the command line.
    #[arg(skip = Schedule::default())]
    pub schedule: Schedule,
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

    fn outbound(&self, feed: Feed, store: Store, own: Option<SocketAddr>) -> Outbound {
        Outbound {
            feed,
            store,
            guard: Guard {
                http: self.allow_http,
                loopback: self.allow_loopback,
                private: self.allow_private,
                own,
                ..Guard::default()
            },
            schedule: self.schedule.clone(),
            clock: SystemTime::now,
            stock: Arc::new(Semaphore::new(self.max_attempts)),
            attempt_timeout: self.attempt_timeout,
            give_up: self.give_up,
            hold: self.hold,
            disk: self.disk,
            drain: self.limits.drain,
        }
    }
}

/// Sends what is published to `feed`, and serves the endpoints' management on `listener`, until
/// `shutdown` resolves. Then nothing more is claimed, and what is in flight is finished within
/// `config.limits.drain`.
///
/// # Errors
/// If the listener has no address, or the feed's file cannot be read. And if accepted work was lost:
/// of a feed in memory, messages that an endpoint has not got by the end, waiting retries included,
/// will never arrive. The error counts them, and `main` turns it into exit code 1.
pub async fn run(
    listener: TcpListener,
    feed: Feed,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> io::Result<Drained> {
    let store = Store::open(&feed).await?;
    let durable = store.is_durable();
    let outbound = config.outbound(feed.handle(), store, listener.local_addr().ok());
    let endpoints = Arc::new(Endpoints::open(outbound, config.max_endpoints).await?);
    let program = Program::Sender(endpoints.clone());
    let app = App::new(&listener, &feed, config.limits, program)?;
    let shutdown = async {
        shutdown.await;
        endpoints.stop();
    };
    let served = serve::serve(listener, Arc::new(app), shutdown);
    let ended = async { tokio::join!(served, endpoints.drained()) };
    let (drained, left) = tokio::select! {
        ended = ended => ended,
        never = endpoints.keep_pinned() => match never {},
    };
    if durable {
        return Ok(drained); // the next start goes on with what is left
    }
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
