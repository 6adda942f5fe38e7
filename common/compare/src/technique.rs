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
            Self::ShortPolling => (
                "Short polling",
                "client → server",
                Some("high"),
                Some("low"),
            ),
            Self::LongPolling => (
                "Long polling",
                "client → server",
                Some("medium"),
                Some("medium"),
            ),
            Self::Webhooks => ("Webhooks", "server → client", Some("low"), Some("medium")),
            Self::Websockets => ("WebSockets", "both ways", Some("minimal"), Some("high")),
            Self::Sse => ("SSE", "server → client", None, None),
        };
        Rating {
            name,
            direction,
            latency,
            complexity,
        }
    }

    /// Whether messages come in the order in which they were published. Webhooks promise none:
    /// several requests are under way at one time.
    pub fn keeps_order(self) -> bool {
        self != Self::Webhooks
    }
}

/// The words for something that is measured, from the least to the most, and how many times the least
/// of all each may be but the last.
#[derive(Debug)]
pub(crate) struct Scale {
    pub(crate) words: &'static [&'static str],
    pub(crate) times: &'static [f64],
}

pub(crate) const LATENCY: Scale = Scale {
    words: &["minimal", "low", "medium", "high"],
    times: &[1.5, 5.0, 50.0],
};

pub(crate) const COMPLEXITY: Scale = Scale {
    words: &["low", "medium", "high"],
    times: &[1.25, 2.0],
};

/// Whether a word of the rule of thumb is that of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Agrees,
    /// By some runs it does and by some it does not.
    Unclear,
    /// The word would be between these two, which mostly are one.
    Contradicts(&'static str, &'static str),
}

impl Scale {
    /// Judges a word by what was measured, which is between `low` and `high` times the least of all.
    pub(crate) fn judge(&self, said: &str, low: f64, high: f64) -> Verdict {
        let place = |times| self.times.partition_point(|bound| *bound < times);
        let (low, high) = (place(low), place(high));
        let words = &self.words[low..=high];
        match words.contains(&said) {
            true if low == high => Verdict::Agrees,
            true => Verdict::Unclear,
            false => Verdict::Contradicts(self.words[low], self.words[high]),
        }
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (word, times) in self.words.iter().zip(self.times) {
            write!(f, "{word} up to {times}, ")?;
        }
        let last = self.words.last().expect("there are words");
        write!(f, "{last} beyond")
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agrees => f.write_str("agrees"),
            Self::Unclear => f.write_str("too close to say"),
            Self::Contradicts(low, high) if low == high => write!(f, "contradicts: {low}"),
            Self::Contradicts(low, high) => write!(f, "contradicts: {low} to {high}"),
        }
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
        let judge = |said, low, high| LATENCY.judge(said, low, high).to_string();
        assert_eq!(judge("minimal", 1.0, 1.5), "agrees");
        assert_eq!(judge("low", 1.4, 1.6), "too close to say");
        assert_eq!(judge("medium", 1.4, 1.4), "contradicts: minimal");
        assert_eq!(judge("medium", 1.4, 1.6), "contradicts: minimal to low");
        assert_eq!(judge("high", 50.1, 60.0), "agrees");
        let judge = |said, times| COMPLEXITY.judge(said, times, times).to_string();
        assert_eq!(judge("low", 1.25), "agrees");
        assert_eq!(judge("low", 2.1), "contradicts: high");
        let scale = "low up to 1.25, medium up to 2, high beyond";
        assert_eq!(COMPLEXITY.to_string(), scale);
    }
}
