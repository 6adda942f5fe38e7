//! What was measured: a figure for each row of the comparison, and the points of the charts.

use std::{fmt, process::Command, thread, time::Duration};

use serde::Serialize;

use crate::Technique;

/// A row: a technique, and for short polling the interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Of the five.
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

    /// Between two polls.
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

impl Serialize for Row {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What is measured. How, is in `README.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
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
    /// Lines of code of the copy sets.
    Lines,
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

/// The lines of the table, in the order of [`Figure`].
const LABELS: [(Figure, &str, Unit); 9] = [
    (Figure::Latency, "publish → receive, median", Unit::Time),
    (Figure::Empty, "empty answers", Unit::Percent),
    (Figure::Requests, "requests per message", Unit::Number),
    (Figure::Bytes, "bytes per message", Unit::Bytes),
    (Figure::IdleBytes, "bytes per idle minute", Unit::Bytes),
    (Figure::Cpu, "server CPU per delivery", Unit::Time),
    (Figure::Memory, "server memory per client", Unit::Bytes),
    (Figure::Plain, "with plain hyper", Unit::Bytes),
    (Figure::Lines, "lines of code to copy", Unit::Number),
];

impl Figure {
    /// In the order of the table.
    pub fn all() -> impl Iterator<Item = Self> {
        LABELS.into_iter().map(|(figure, _, _)| figure)
    }

    /// What it is called in the table.
    pub fn label(self) -> &'static str {
        LABELS[self as usize].1
    }

    /// What it is measured in.
    pub fn unit(self) -> Unit {
        LABELS[self as usize].2
    }
}

/// The median of some runs, and the range of their values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// In the middle.
    pub median: f64,
    /// The least.
    pub low: f64,
    /// The most.
    pub high: f64,
}

impl Spread {
    /// Of at least one value.
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

/// A figure of a row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measurement {
    /// Of which row.
    pub row: Row,
    /// What was measured.
    pub figure: Figure,
    /// What came of it.
    #[serde(flatten)]
    pub spread: Spread,
}

/// A point of the charts: a row under some load.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Of which row.
    pub row: Row,
    /// Messages a second.
    pub rate: f64,
    /// Bytes on the wire per message.
    pub bytes: f64,
    /// The server's processor time per delivery, in seconds.
    pub cpu: Option<f64>,
    /// The latency that 99 of 100 messages have at most, in seconds.
    pub p99: f64,
}

/// All that was measured.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Cores and kernel.
    pub machine: String,
    /// Of the sources.
    pub commit: String,
    /// How many runs the medians are of.
    pub runs: usize,
    /// Clients of each row in the table's run.
    pub clients: usize,
    /// Seconds between two messages in the table's run.
    pub gap: f64,
    /// Clients that waited for [`Figure::Memory`].
    pub crowd: usize,
    /// The lines of the table.
    pub figures: Vec<Measurement>,
    /// What the charts are drawn from.
    pub points: Vec<Point>,
}

impl Report {
    /// A figure of a row, if it was measured.
    pub fn get(&self, row: Row, figure: Figure) -> Option<Spread> {
        let mut figures = self.figures.iter();
        let found = figures.find(|one| one.row == row && one.figure == figure);
        found.map(|one| one.spread)
    }
}

/// Cores and kernel, no more: it is published.
pub(crate) fn machine() -> String {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let kernel = output("uname", &["-sr"]);
    format!("{cores} cores, {}", kernel.split('-').next().unwrap_or("?"))
}

/// The commit of the sources, marked `-dirty` where they have changed since.
pub(crate) fn commit() -> String {
    let root = env!("CARGO_MANIFEST_DIR");
    output(
        "git",
        &["-C", root, "describe", "--always", "--dirty", "--exclude=*"],
    )
}

/// What a program prints.
fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let printed = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    printed
        .ok()
        .filter(|text| !text.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
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

    #[test]
    fn every_figure_finds_its_own_label() {
        let figures = Figure::all().enumerate();
        figures.for_each(|(index, figure)| assert_eq!(figure as usize, index));
    }
}
