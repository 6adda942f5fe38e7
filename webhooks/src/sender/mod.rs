//! The sender: it signs each message and POSTs it to the endpoints.
//!
//! Read in this order: `deliver.rs` is one attempt, with `guard.rs` (which addresses it may call), `lane.rs`
//! and `tls.rs` (its connection). `ledger.rs` decides what an endpoint gets and when, `push.rs` is the loop
//! that does it, `places.rs` limits its attempts, and `store.rs` keeps its state. `endpoint.rs` is one
//! endpoint, `endpoints.rs` manages all of them, and `route.rs` is the management over HTTP.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::Parser;
use common::{
    Browsers, Drained, Feed, FeedConfig, FeedParser, FeedSource, ServerConfig, address,
    fit_descriptors, metrics,
};
use tokio::net::TcpListener;

use self::{
    endpoints::Endpoints,
    guard::{Guard, Lookup},
    ledger::CONCURRENCY,
    places::Stock,
    push::Outbound,
    route::App,
    steady::Steady,
    store::Store,
};
use crate::{schedule::Schedule, serve::serve};

pub mod deliver;
mod endpoint;
mod endpoints;
pub mod guard;
pub mod lane;
mod ledger;
mod places;
mod push;
mod route;
mod steady;
mod store;
#[cfg(test)]
#[path = "tests/timers.rs"]
mod timers;
pub mod tls;

/// The default time limit of an attempt. Standard Webhooks asks for 15 to 30 s.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the messages for a disabled endpoint are kept. It covers the holiday of an operator.
pub(crate) const HOLD: Duration = Duration::from_secs(30 * 24 * 3_600);
/// An endpoint without a success for this long is disabled.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(5 * 24 * 3_600);

/// The most attempts at the same time, in addition to one for each endpoint. Together they take about
/// 50 MiB of buffers.
const MAX_ATTEMPTS: usize = 1_024;

/// The disk budget: the feed's own limit, and three times as much for waiting and dead deliveries.
const DISK: u64 = 1 << 30;

/// The help of `--feed`. A stream that other servers share is not allowed, because the endpoints' state is
/// in the feed's file.
const FEED: &str = "Where messages and endpoints are kept: `memory` (lost when the process ends), or \
    `file:PATH`";

/// Sends webhooks: POSTs each published message, signed, to every endpoint that registered for it.
#[derive(Debug, Clone, Parser)]
#[command(name = "webhooks", version)]
#[command(mut_arg("feed", |arg| arg.value_parser(FeedParser(FeedSource::parse_own)).value_name("memory|file:PATH").help(FEED)))]
// Other servers derive this default from their limit on subscribers. A sender has no subscribers.
#[command(mut_arg("max_connections", |arg| arg.default_value("1024").help(ServerConfig::MAX_CONNECTIONS)))]
// Hidden: there are no streams that a client could stop reading.
#[command(mut_arg("stall", |arg| arg.hide(true)))]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8003", value_parser = address, value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// How many endpoints may be registered; one more is refused.
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub max_endpoints: usize,
    /// Allow endpoints with plain http. Without this flag only https is allowed.
    #[arg(long)]
    pub allow_http: bool,
    /// Allow endpoints on this machine.
    #[arg(long)]
    pub allow_loopback: bool,
    /// Allow endpoints on private networks.
    #[arg(long)]
    pub allow_private: bool,
    /// The knobs of the feed.
    #[command(flatten)]
    pub feed: FeedConfig,
    /// The knobs that every server has.
    #[command(flatten)]
    pub server: ServerConfig,
    /// The time limit of an attempt, from the lookup to the answer's head. Not on the command line.
    #[arg(skip = ATTEMPT_TIMEOUT)]
    pub attempt_timeout: Duration,
    /// How long the messages for a disabled endpoint are kept. Not on the command line.
    #[arg(skip = HOLD)]
    pub hold: Duration,
    /// An endpoint without a success for this long is disabled. Not on the command line.
    #[arg(skip = GIVE_UP)]
    pub give_up: Duration,
    /// The largest size of the feed's file, or of the tables in memory, in bytes. Above it publishers get
    /// 503. Not on the command line.
    #[arg(skip = DISK)]
    pub disk: u64,
    /// How names are resolved. Not on the command line.
    #[arg(skip = Guard::default().lookup)]
    pub lookup: Lookup,
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
    /// Lowers the limits to the descriptors that the process may have: half of them for incoming
    /// connections, half for endpoints. Each endpoint has its own share, so it never waits for another.
    pub fn fit(&mut self) {
        let attempts = self.max_endpoints.saturating_mul(CONCURRENCY);
        let connections = self.server.connections(0);
        let wanted = connections.saturating_add(attempts);
        let fitting = fit_descriptors(wanted);
        if fitting < wanted {
            let half = (fitting / 2).max(1);
            self.server.max_connections = Some(connections.min(half));
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
                lookup: self.lookup,
            },
            schedule: self.schedule.clone(),
            clock: SystemTime::now,
            steady: Steady::new(SystemTime::now()),
            stock: Stock::new(MAX_ATTEMPTS),
            attempt_timeout: self.attempt_timeout,
            give_up: self.give_up,
            hold: self.hold,
            disk: self.disk,
            drain: self.server.drain,
        }
    }
}

/// Sends what is published to `feed`, and serves the management of the endpoints on `listener`, until
/// `shutdown` resolves. Then it starts no attempt, and finishes those in flight within
/// `config.server.drain`.
///
/// # Errors
/// If the listener has no address, or the feed's file cannot be read. Also if accepted work was lost: with
/// a feed in memory, messages that an endpoint has not received by the end never arrive. The error counts
/// them, waiting retries included, and `main` turns it into exit code 1.
pub async fn run(
    listener: TcpListener,
    feed: Feed,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> io::Result<Drained> {
    let store = Store::open(&feed).await?;
    let outbound = config.outbound(feed.handle(), store, listener.local_addr().ok());
    let endpoints = Arc::new(Endpoints::open(outbound, config.max_endpoints).await?);
    let scraped = endpoints.clone();
    let gauges = move || scraped.gauges();
    let _metrics = metrics(&config.server, &feed, &["attempts"], gauges).await?;
    let served = feed.handle(); // closed at the drain, while attempts in flight still use `feed`
    let origins = config.server.allow_origin.clone();
    let app = Arc::new(App {
        endpoints: endpoints.clone(),
        feed: served.clone(),
        browsers: Browsers::new(origins, listener.local_addr()?, ""),
        limits: config.server.publish_limits(),
    });
    let route = move |request| route::route(app.clone(), request);
    let shutdown = async {
        shutdown.await;
        endpoints.stop();
    };
    let http = config.server.http1();
    let serving = serve(listener, &served, config.server, http, route, shutdown);
    let ended = async { (serving.await, endpoints.drained().await) };
    // Lost deliveries are counted last, because until then a publisher could still get a 201.
    let (drained, lost) = tokio::select! {
        ended = ended => ended,
        never = endpoints.keep_pinned() => match never {},
    };
    match lost {
        0 => Ok(drained),
        lost => Err(io::Error::other(Lost(lost))),
    }
}

/// The number of deliveries of accepted messages that were lost: not delivered, and not dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("deliveries lost because the feed is in memory: {0}")]
pub struct Lost(pub usize);
