//! What the two programs have in common: the knobs, and what every connection shares.

use std::{io, sync::Arc, time::Duration};

use clap::Args;
use common::{Browsers, Feed, Origin, PublishLimits, positive_seconds, seconds};
use tokio::net::TcpListener;

use crate::{endpoints::Endpoints, receiver::Receiver};

/// Nobody streams here: whoever takes no byte of an answer for so long is gone.
const STALL: Duration = Duration::from_secs(30);

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
    /// For so long a client may take no byte of what is written to it. Not on the command line.
    #[arg(skip = STALL)]
    pub stall: Duration,
    /// Seconds from the signal until what is still open is cut.
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "SECONDS")]
    pub drain: Duration,
    /// A page's origin that may publish and read from a browser; repeatable.
    #[arg(long, value_name = "ORIGIN")]
    pub allow_origin: Vec<Origin>,
}

impl Limits {
    pub(crate) fn connections(&self) -> usize {
        self.max_connections
    }

    pub(crate) fn publish_limits(&self) -> PublishLimits {
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
    Receiver(Arc<Receiver>),
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
    pub(crate) fn new(
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
