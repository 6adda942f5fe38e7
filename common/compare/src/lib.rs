//! The five techniques side by side, measured on this machine over real sockets.
//!
//! The same run of messages is published to each server by `POST /topics/{topic}` and received
//! through the technique's own client. One clock stamps both ends, the client's sockets count the
//! bytes, and the messages carry numbers, so that one which is missing, repeated or out of order
//! fails the run. From the top:
//!
//! - [`run`] is the comparison; [`table`] prints it;
//! - [`Technique`] names the five and the rule of thumb that is told of each;
//! - [`Server`] is one of the five on a port of its own;
//! - [`measure`](measure()) is one lane: publish, receive, judge;
//! - `clients/` has a small client for each technique, all with the same two verbs;
//! - `traffic.rs` counts, `progress.rs` shows that it goes on.

mod clients;
mod measure;
mod progress;
mod server;
pub mod table;
mod technique;
mod traffic;

use std::{
    io,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use clap::Parser;
use common::seconds;
use tokio::{task::JoinSet, time::Instant};

pub use measure::{Measured, Plan, measure};
pub use server::Server;
pub use technique::{Rating, Technique};

/// Runs the five techniques side by side and measures them. The table goes to standard output.
#[derive(Debug, Clone, Parser)]
#[command(name = "compare", version)]
pub struct Config {
    /// Messages published to each server; the run takes as many divided by the rate in seconds.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = positive)]
    pub messages: usize,
    /// Messages a second to each server.
    #[arg(long, default_value = "5", value_name = "PER_SECOND", value_parser = rate)]
    pub rate: f64,
    /// Seconds between two polls of the short-polling client. By default both polls and messages are
    /// some ten times as frequent as usual, so that the run is short.
    #[arg(long, default_value = "0.1", value_parser = seconds, value_name = "SECONDS")]
    pub interval: Duration,
    /// Measure only this technique; repeatable.
    #[arg(long, value_name = "TECHNIQUE")]
    pub only: Vec<Technique>,
}

impl Config {
    fn techniques(&self) -> Vec<Technique> {
        let asked = |technique: &Technique| self.only.is_empty() || self.only.contains(technique);
        Technique::ALL.into_iter().filter(asked).collect()
    }
}

/// Measures all that were asked for, at the same time and in turns, so that no two servers have
/// their message at the same moment. In the order of [`Technique::ALL`].
///
/// # Errors
/// What the system refuses, and a message that was missing, repeated or out of order.
pub async fn run(config: &Config) -> io::Result<Vec<Measured>> {
    let techniques = config.techniques();
    let delivered = Arc::new(AtomicUsize::new(0));
    let gap = Duration::from_secs_f64(1.0 / config.rate);
    let mut lanes = JoinSet::new();
    for (turn, technique) in (0..).zip(&techniques) {
        let plan = Plan {
            messages: config.messages,
            gap,
            start: Instant::now() + gap + gap * turn / techniques.len() as u32,
            interval: config.interval,
            delivered: delivered.clone(),
        };
        lanes.spawn(lane(*technique, plan));
    }
    let total = config.messages * techniques.len();
    let measured = tokio::select! {
        measured = all(lanes) => measured,
        never = progress::show(&delivered, total) => match never {},
    };
    progress::end(&delivered, total);
    measured
}

/// One server from its start to its drain.
async fn lane(technique: Technique, plan: Plan) -> io::Result<Measured> {
    let server = Server::start(technique).await?;
    let measured = measure(technique, server.addr(), async |addr| addr, &plan).await?;
    server.stop().await?;
    Ok(measured)
}

async fn all(mut lanes: JoinSet<io::Result<Measured>>) -> io::Result<Vec<Measured>> {
    let mut measured = Vec::with_capacity(lanes.len());
    while let Some(lane) = lanes.join_next().await {
        measured.push(lane??);
    }
    measured.sort_unstable_by_key(|measured| measured.technique);
    Ok(measured)
}

fn positive(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "not a whole number over 0".to_owned())
}

/// As fast as the publisher's connection and the retention of a topic still follow.
fn rate(text: &str) -> Result<f64, String> {
    let rate = text
        .parse()
        .ok()
        .filter(|rate| (0.1..=500.0).contains(rate));
    rate.ok_or_else(|| "not within 0.1 and 500 messages a second".to_owned())
}
