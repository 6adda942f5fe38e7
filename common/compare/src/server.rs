//! One of the five: in this process, or in one of its own.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use clap::Args;
use common::{Drained, Feed, Retention, positive_seconds};
use tokio::{
    io::{AsyncReadExt, stdin},
    net::TcpListener,
    sync::oneshot,
    task::JoinHandle,
};

use crate::Technique;

/// A retry that is never the last one, as far as a run goes.
const RETRIES: usize = 10_000;

/// The knobs that matter here; all others have the member's defaults.
#[derive(Debug, Clone, Args)]
pub struct Knobs {
    /// Messages kept per topic.
    #[arg(long, default_value_t = Self::default().retain, value_name = "N")]
    pub retain: usize,
    /// Waiting clients, open streams or registered endpoints.
    #[arg(long, default_value_t = Self::default().max_subscribers, value_name = "N")]
    pub max_subscribers: usize,
    /// Whether a client that waits leaves hyper, where the member can do that.
    #[arg(long, default_value_t = Self::default().takeover, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub takeover: bool,
    /// Seconds until a client is to come again, or is called again [default: the member's own].
    #[arg(long, value_parser = positive_seconds, value_name = "SECONDS")]
    pub retry: Option<Duration>,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            retain: 1_000,
            max_subscribers: 10_000,
            takeover: true,
            retry: None,
        }
    }
}

/// `compare serve NAME`: one of the five in a process of its own, so that what the process uses is
/// what that server uses.
#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// Which.
    pub technique: Technique,
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Those that are turned here.
    #[command(flatten)]
    pub knobs: Knobs,
    /// Drain when standard input ends: the process that has started this one is gone.
    #[arg(long)]
    pub until_eof: bool,
}

impl Serve {
    /// Serves a feed in memory until a signal, or the end of standard input.
    ///
    /// # Errors
    /// If the address is taken, and what the member's `run` says.
    pub async fn run(self) -> io::Result<()> {
        let signal = common::shutdown_signal();
        let listener = common::listen(self.listen).await?;
        let shutdown = async {
            tokio::select! {
                () = signal => {}
                () = end_of_input(), if self.until_eof => {}
            }
        };
        let feed = self.knobs.feed();
        run(self.technique, listener, feed, &self.knobs, shutdown).await?;
        Ok(())
    }
}

async fn end_of_input() {
    // An error is as good an end.
    while matches!(stdin().read(&mut [0]).await, Ok(1..)) {}
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

/// A server in a task of its own. Dropped without [`Server::stop`], it drains unattended.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    shutdown: oneshot::Sender<()>,
    task: JoinHandle<io::Result<Drained>>,
}

impl Server {
    /// Starts `technique`'s server on a free port of loopback, with a feed of its own.
    ///
    /// # Errors
    /// If there is no port to be had.
    pub async fn start(technique: Technique) -> io::Result<Self> {
        let knobs = Knobs::default();
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::start_on(anywhere, technique, knobs.feed(), knobs).await
    }

    /// Starts it on `addr`, with a feed that others may share.
    ///
    /// # Errors
    /// If the address is taken.
    pub async fn start_on(
        addr: SocketAddr,
        technique: Technique,
        feed: Feed,
        knobs: Knobs,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let (shutdown, asked) = oneshot::channel();
        let task = tokio::spawn(async move {
            let asked = async { drop(asked.await) };
            run(technique, listener, feed, &knobs, asked).await
        });
        Ok(Self {
            addr,
            shutdown,
            task,
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Has it drain.
    ///
    /// # Errors
    /// If it failed, or lost what it owed.
    pub async fn stop(self) -> io::Result<Drained> {
        // Gone already, it tells why.
        let _ = self.shutdown.send(());
        self.task.await?
    }
}

/// The sender of webhooks is allowed to call this machine.
async fn run(
    technique: Technique,
    listener: TcpListener,
    feed: Feed,
    knobs: &Knobs,
    shutdown: impl Future<Output = ()>,
) -> io::Result<Drained> {
    match technique {
        Technique::ShortPolling => {
            let mut config = short_polling::Config::default();
            config.server.max_connections = Some(knobs.max_subscribers + 256);
            short_polling::run(listener, feed, config, shutdown).await
        }
        Technique::LongPolling => {
            let config = long_polling::Config {
                max_subscribers: knobs.max_subscribers,
                takeover: knobs.takeover,
                ..long_polling::Config::default()
            };
            long_polling::run(listener, feed, config, shutdown).await
        }
        Technique::Webhooks => webhooks::run(listener, feed, sender(knobs), shutdown).await,
        Technique::Websockets => {
            let config = websockets::Config {
                max_subscribers: knobs.max_subscribers,
                ..websockets::Config::default()
            };
            websockets::run(listener, feed, config, shutdown).await
        }
        Technique::Sse => {
            let mut config = sse::Config {
                max_subscribers: knobs.max_subscribers,
                takeover: knobs.takeover,
                ..sse::Config::default()
            };
            config.retry = knobs.retry.unwrap_or(config.retry);
            sse::run(listener, feed, config, shutdown).await
        }
    }
}

fn sender(knobs: &Knobs) -> webhooks::Config {
    let mut config = webhooks::Config {
        allow_http: true,
        allow_loopback: true,
        max_endpoints: knobs.max_subscribers,
        ..webhooks::Config::default()
    };
    if let Some(retry) = knobs.retry {
        config.schedule = webhooks::schedule::Schedule::new(vec![retry; RETRIES]);
    }
    config
}
