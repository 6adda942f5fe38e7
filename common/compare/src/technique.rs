//! The five, and the rule of thumb that is told of each.

use std::fmt;

use clap::ValueEnum;

/// How a server tells a client that something new happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Technique {
    /// The client asks again and again.
    ShortPolling,
    /// The server holds its answer until there is one.
    LongPolling,
    /// The server calls the client.
    Webhooks,
    /// One connection, both ways.
    Websockets,
    /// One response that never ends.
    Sse,
}

/// A row of the table by which the techniques are usually compared. It tends to leave SSE out: that
/// row is ours, and is not rated.
#[derive(Debug, Clone, Copy)]
pub struct Rating {
    /// The technique's name.
    pub name: &'static str,
    /// Who turns to whom.
    pub direction: &'static str,
    /// The latency in a word.
    pub latency: Option<&'static str>,
    /// The complexity in a word.
    pub complexity: Option<&'static str>,
}

impl Technique {
    /// In the order of the usual table, then the one that it leaves out.
    pub const ALL: [Self; 5] = [
        Self::ShortPolling,
        Self::LongPolling,
        Self::Webhooks,
        Self::Websockets,
        Self::Sse,
    ];

    /// What the rule of thumb says.
    pub fn rating(self) -> Rating {
        let (name, direction, latency, complexity) = match self {
            Self::ShortPolling => ("Short polling", "client → server", "high", "low"),
            Self::LongPolling => ("Long polling", "client → server", "medium", "medium"),
            Self::Webhooks => ("Webhooks", "server → client", "low", "medium"),
            Self::Websockets => ("WebSockets", "both ways", "minimal", "high"),
            Self::Sse => ("SSE", "server → client", "", ""),
        };
        let rated = |word: &'static str| Some(word).filter(|word| !word.is_empty());
        Rating {
            name,
            direction,
            latency: rated(latency),
            complexity: rated(complexity),
        }
    }

    /// Whether messages come in the order in which they were published. Webhooks promise none:
    /// several requests are under way at one time.
    pub fn keeps_order(self) -> bool {
        self != Self::Webhooks
    }
}

impl fmt::Display for Technique {
    /// The member's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("none is skipped");
        f.write_str(value.get_name())
    }
}
