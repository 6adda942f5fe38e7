//! The five techniques, and the words with which articles and courses usually compare them.

use std::{fmt, str::FromStr};

use clap::ValueEnum;
use serde::Serialize;

/// How a server tells a client that something new happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Technique {
    /// The client asks again and again.
    ShortPolling,
    /// The server holds its answer until there is news.
    LongPolling,
    /// The server calls the client.
    Webhooks,
    /// One connection, both ways.
    Websockets,
    /// One response that never ends.
    Sse,
}

impl Technique {
    /// In the order of the usual comparison, and SSE, which it leaves out.
    pub const ALL: [Self; 5] = [
        Self::ShortPolling,
        Self::LongPolling,
        Self::Webhooks,
        Self::Websockets,
        Self::Sse,
    ];

    /// Its name in a table.
    pub fn title(self) -> &'static str {
        match self {
            Self::ShortPolling => "Short polling",
            Self::LongPolling => "Long polling",
            Self::Webhooks => "Webhooks",
            Self::Websockets => "WebSockets",
            Self::Sse => "SSE",
        }
    }

    /// The words of the usual comparison for its latency and its complexity.
    pub fn said(self) -> Option<[&'static str; 2]> {
        match self {
            Self::ShortPolling => Some(["high", "low"]),
            Self::LongPolling => Some(["medium", "medium"]),
            Self::Webhooks => Some(["low", "medium"]),
            Self::Websockets => Some(["minimal", "high"]),
            Self::Sse => None,
        }
    }

    /// Whether messages arrive in the order in which they were published. Webhooks do not promise
    /// it, because several requests are in flight at the same time.
    pub fn keeps_order(self) -> bool {
        self != Self::Webhooks
    }
}

impl fmt::Display for Technique {
    /// The member's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("no variant is skipped");
        f.write_str(value.get_name())
    }
}

impl FromStr for Technique {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        <Self as ValueEnum>::from_str(name, false)
    }
}
