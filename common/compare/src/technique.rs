//! The five, and the rule of thumb that is told of each.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

/// How a server tells a client that something new happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
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

/// Whether a word of the rule of thumb is that of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Agrees,
    /// The word would be this one.
    Contradicts(&'static str),
}

impl Verdict {
    pub(crate) fn of(said: &str, measured: &'static str) -> Self {
        match said == measured {
            true => Self::Agrees,
            false => Self::Contradicts(measured),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agrees => f.write_str("agrees"),
            Self::Contradicts(measured) => write!(f, "contradicts: {measured}"),
        }
    }
}

/// The words for a latency, by how many times the fastest it is.
pub(crate) mod latency {
    pub(crate) const MINIMAL: f64 = 1.5;
    pub(crate) const LOW: f64 = 5.0;
    pub(crate) const MEDIUM: f64 = 50.0;
}

/// The words for complexity, by how many times the shortest source it takes.
pub(crate) mod complexity {
    pub(crate) const LOW: f64 = 1.25;
    pub(crate) const MEDIUM: f64 = 2.0;
}

pub(crate) fn latency(times: f64) -> &'static str {
    match times {
        ..=latency::MINIMAL => "minimal",
        ..=latency::LOW => "low",
        ..=latency::MEDIUM => "medium",
        _ => "high",
    }
}

pub(crate) fn complexity(times: f64) -> &'static str {
    match times {
        ..=complexity::LOW => "low",
        ..=complexity::MEDIUM => "medium",
        _ => "high",
    }
}

impl fmt::Display for Technique {
    /// The member's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("none is skipped");
        f.write_str(value.get_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_held_against_its_threshold() {
        assert_eq!(latency(1.5), "minimal");
        assert_eq!(latency(1.6), "low");
        assert_eq!(latency(50.0), "medium");
        assert_eq!(latency(50.1), "high");
        assert_eq!(complexity(1.25), "low");
        assert_eq!(complexity(2.1), "high");
        assert_eq!(Verdict::of("low", "low").to_string(), "agrees");
        let verdict = Verdict::of("medium", "minimal");
        assert_eq!(verdict.to_string(), "contradicts: minimal");
    }
}
