//! The knobs of the sender.

use std::{net::SocketAddr, time::Duration};

use clap::Parser;
use common::{FeedConfig, FeedParser, FeedSource, ServerConfig, address, fit_descriptors};

use super::{
    guard::{Guard, Lookup},
    ledger::CONCURRENCY,
};
use crate::schedule::Schedule;

/// The default time limit of an attempt. Standard Webhooks asks for 15 to 30 s.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the messages for a disabled endpoint are kept. It covers the holiday of an operator.
const HOLD: Duration = Duration::from_secs(30 * 24 * 3_600);
/// An endpoint without a success for this long is disabled.
const GIVE_UP: Duration = Duration::from_secs(5 * 24 * 3_600);

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
}
