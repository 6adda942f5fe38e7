//! One of the five servers, in this process or by `compare serve NAME` in its own.

use std::{io, net::SocketAddr, time::Duration};

use clap::Args;
use common::{Drained, Feed, Retention, positive_seconds};
use tokio::{
    io::{AsyncReadExt, stdin},
    net::TcpListener,
};

use crate::Technique;

/// As many as the other servers have subscribers by default.
const ENDPOINTS: usize = 10_000;
/// More attempts than any run here can reach.
const RETRIES: usize = 10_000;

/// The knobs that are set here. All others have the member's defaults.
#[derive(Debug, Clone, Args)]
pub struct Knobs {
    /// Messages kept per topic.
    #[arg(long, default_value_t = Self::default().retain, value_name = "N")]
    pub retain: usize,
    /// Free hyper's buffers while a client waits, where the member can do that.
    #[arg(long, default_value_t = Self::default().takeover, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub takeover: bool,
    /// Seconds until a webhook that failed is sent again [default: the member's schedule].
    #[arg(long, value_parser = positive_seconds, value_name = "SECONDS")]
    pub retry: Option<Duration>,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            retain: 1_000,
            takeover: true,
            retry: None,
        }
    }
}

impl Knobs {
    /// A feed in memory.
    pub fn feed(&self) -> Feed {
        Feed::new(Retention {
            messages: self.retain,
            ..Retention::default()
        })
    }
}

/// `compare serve NAME`: one server in its own process.
#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// Which technique.
    pub technique: Technique,
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0", value_parser = common::address, value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// The member's knobs that can be set here.
    #[command(flatten)]
    pub knobs: Knobs,
}

impl Serve {
    /// Serves a feed in memory until a signal, or until standard input ends, which is when the parent process has
    /// ended.
    ///
    /// # Errors
    /// If the address is taken, and what the member's `run` says.
    pub async fn run(self) -> io::Result<()> {
        let signal = common::shutdown_signal();
        let listener = common::listen(self.listen).await?;
        let shutdown = async {
            tokio::select! {
                () = signal => {}
                () = end_of_input() => {}
            }
        };
        let feed = self.knobs.feed();
        run(self.technique, listener, feed, self.knobs, shutdown).await?;
        Ok(())
    }
}

async fn end_of_input() {
    // An error ends it too.
    while matches!(stdin().read(&mut [0]).await, Ok(1..)) {}
}

/// Runs one of the five servers. The sender of webhooks may call this machine over plain HTTP.
///
/// # Errors
/// What the member's `run` says.
pub async fn run(
    technique: Technique,
    listener: TcpListener,
    feed: Feed,
    knobs: Knobs,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<Drained> {
    match technique {
        Technique::ShortPolling => {
            let config = short_polling::Config {
                takeover: knobs.takeover,
                ..short_polling::Config::default()
            };
            short_polling::run(listener, feed, config, shutdown).await
        }
        Technique::LongPolling => {
            let config = long_polling::Config {
                takeover: knobs.takeover,
                ..long_polling::Config::default()
            };
            long_polling::run(listener, feed, config, shutdown).await
        }
        Technique::Webhooks => webhooks::run(listener, feed, sender(&knobs), shutdown).await,
        Technique::Websockets => {
            let config = websockets::Config::default();
            websockets::run(listener, feed, config, shutdown).await
        }
        Technique::Sse => {
            let config = sse::Config {
                takeover: knobs.takeover,
                ..sse::Config::default()
            };
            sse::run(listener, feed, config, shutdown).await
        }
    }
}

fn sender(knobs: &Knobs) -> webhooks::Config {
    let mut config = webhooks::Config {
        allow_http: true,
        allow_loopback: true,
        max_endpoints: ENDPOINTS,
        ..webhooks::Config::default()
    };
    if let Some(retry) = knobs.retry {
        config.schedule = webhooks::schedule::Schedule::new(vec![retry; RETRIES]);
    }
    config
}
