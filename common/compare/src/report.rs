//! What was measured: the figures of each row of the comparison.

use std::{collections::BTreeMap, fmt, process::Command, thread, time::Duration};

use crate::Technique;

/// A row: a technique, and for short polling the interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// One of the five.
    pub technique: Technique,
    /// Seconds between two polls; 0 for the other techniques.
    pub interval: u64,
}

impl Row {
    /// In the order of the table.
    pub const ALL: [Self; 7] = [
        Self::new(Technique::ShortPolling, 1),
        Self::new(Technique::ShortPolling, 5),
        Self::new(Technique::ShortPolling, 30),
        Self::new(Technique::LongPolling, 0),
        Self::new(Technique::Webhooks, 0),
        Self::new(Technique::Websockets, 0),
        Self::new(Technique::Sse, 0),
    ];

    const fn new(technique: Technique, interval: u64) -> Self {
        Self {
            technique,
            interval,
        }
    }

    /// Whether the client asks again for each answer. Only then can an answer be empty.
    pub fn polls(self) -> bool {
        use Technique::{LongPolling, ShortPolling};
        matches!(self.technique, ShortPolling | LongPolling)
    }

    /// The time between two polls.
    pub fn interval(self) -> Duration {
        Duration::from_secs(self.interval.max(1))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.technique.title())?;
        match self.interval {
            0 => Ok(()),
            seconds => write!(f, ", {seconds} s"),
        }
    }
}

/// What is measured. How, is in `README.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// From before the publishing POST until a client has the message: the median, in seconds.
    Latency,
    /// The share of empty answers to polls.
    Empty,
    /// Requests per message and client.
    Requests,
    /// Bytes on the wire per message and client.
    Bytes,
    /// Bytes on the wire per client, in a minute without any message.
    IdleBytes,
    /// The server's processor time per delivery, in seconds.
    Cpu,
    /// The server's memory per waiting client.
    Memory,
    /// The same without the takeover: plain hyper.
    Plain,
    /// The kernel's memory for the server's end of a waiting client's connection.
    Kernel,
    /// The server's processor time in a second while the clients wait, in seconds.
    IdleCpu,
    /// The server's memory per client after all clients have gone.
    Kept,
    /// Lines of code of the copy sets.
    Lines,
    /// The latency that 99 of 100 messages have at most, in seconds. Only in a chart.
    Tail,
}

/// How a figure is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// A bare number.
    Number,
    /// A share, shown in percent.
    Percent,
    /// Seconds.
    Time,
}

impl Figure {
    /// The columns of the table by which one chooses.
    pub const CHOICE: [(Self, &str, Unit); 6] = [
        (Self::Latency, "publish → receive", Unit::Time),
        (Self::Requests, "requests per message", Unit::Number),
        (Self::Bytes, "bytes per message", Unit::Bytes),
        (Self::Cpu, "server CPU per delivery", Unit::Time),
        (Self::Memory, "server memory per client", Unit::Bytes),
        (Self::Plain, "with plain hyper", Unit::Bytes),
    ];

    /// The lines of the table with the rest.
    pub const REST: [(Self, &str, Unit); 6] = [
        (Self::Empty, "empty answers", Unit::Percent),
        (Self::IdleBytes, "bytes per idle minute", Unit::Bytes),
        (Self::IdleCpu, "server CPU in an idle second", Unit::Time),
        (
            Self::Kept,
            "server memory kept per client gone",
            Unit::Bytes,
        ),
        (Self::Kernel, "kernel memory per client", Unit::Bytes),
        (Self::Lines, "lines of code to copy", Unit::Number),
    ];
}

/// The median of some runs, and the range of their values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// In the middle.
    pub median: f64,
    /// The least.
    pub low: f64,
    /// The most.
    pub high: f64,
}

impl Spread {
    /// Needs at least one value.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let (low, high) = (sorted[0], sorted[sorted.len() - 1]);
        let middle = [sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]];
        Self {
            median: f64::midpoint(middle[0], middle[1]),
            low,
            high,
        }
    }
}

/// All that was measured.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Where and how, in one line.
    pub origin: String,
    /// By figure, row, and messages a second. 0 stands for the table's run, with a message every few
    /// seconds.
    pub figures: BTreeMap<(Figure, Row, u32), Spread>,
}

impl Report {
    /// A figure of the table.
    pub fn get(&self, row: Row, figure: Figure) -> Option<Spread> {
        self.figures.get(&(figure, row, 0)).copied()
    }
}

/// Cores, kernel and commit. No more, because it is published.
pub(crate) fn machine() -> String {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let system = output("uname", &["-sr"]);
    let kernel = system.split('-').next().unwrap_or_default();
    let root = env!("CARGO_MANIFEST_DIR");
    let describe = ["-C", root, "describe", "--always", "--dirty", "--exclude=*"];
    format!(
        "{cores} cores, {kernel}, commit {}",
        output("git", &describe)
    )
}

/// What a program prints, or `unknown`.
fn output(program: &str, args: &[&str]) -> String {
    match Command::new(program).args(args).output() {
        Ok(output) if !output.stdout.is_empty() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_median_in_the_middle() {
        let spread = Spread::of(&[3.0, 1.0, 2.0]);
        assert_eq!((spread.low, spread.median, spread.high), (1.0, 2.0, 3.0));
        assert_eq!(Spread::of(&[1.0, 2.0]).median, 1.5);
        assert_eq!(Spread::of(&[4.0]).median, 4.0);
    }

    #[test]
    fn a_row_is_named_with_its_interval() {
        let names: Vec<String> = Row::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(names[1], "Short polling, 5 s");
        assert_eq!(names[6], "SSE");
    }
}
