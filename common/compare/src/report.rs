//! What was measured: a figure for each row of the comparison, and the points of the charts.

use std::{collections::BTreeMap, fmt, process::Command, thread, time::Duration};

use serde::Serialize;

use crate::Technique;

/// A row: a technique, and for short polling how often is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Of the five.
    pub technique: Technique,
    /// Seconds between two polls; 0 where there are none.
    pub interval: u64,
}

impl Row {
    /// In the order of the table.
    pub const ALL: [Self; 7] = [
        Self::polled(1),
        Self::polled(5),
        Self::polled(30),
        Self::of(Technique::LongPolling),
        Self::of(Technique::Webhooks),
        Self::of(Technique::Websockets),
        Self::of(Technique::Sse),
    ];

    const fn of(technique: Technique) -> Self {
        Self {
            technique,
            interval: 0,
        }
    }

    const fn polled(interval: u64) -> Self {
        Self {
            technique: Technique::ShortPolling,
            interval,
        }
    }

    /// Whether the client asks again for each answer.
    pub fn polls(self) -> bool {
        matches!(
            self.technique,
            Technique::ShortPolling | Technique::LongPolling
        )
    }

    /// Whether each message, or each poll, is a request of its own.
    pub fn requests(self) -> bool {
        self.polls() || self.technique == Technique::Webhooks
    }

    /// Between two polls.
    pub fn interval(self) -> Duration {
        Duration::from_secs(self.interval.max(1))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.technique.rating().name)?;
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

/// What is measured. Times are in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// From before the publishing POST until a client has the message: half of all.
    LatencyP50,
    /// 99 of 100.
    LatencyP99,
    /// Of the answers to polls, the share in which there is nothing new.
    Empty,
    /// Requests per message and client.
    Requests,
    /// Connections opened per message and client.
    Connections,
    /// And where each request has a connection of its own.
    ConnectionsClosed,
    /// Bytes on the wire per message and client.
    Bytes,
    /// Bytes on the wire in a minute without any message, per client.
    IdleBytes,
    /// The server's processor time per delivery.
    Cpu,
    /// The server's memory per waiting client, of 100.
    Memory100,
    /// Of 1,000.
    Memory1000,
    /// Of 10,000.
    Memory10000,
    /// The same without the takeover: plain hyper.
    Plain100,
    /// Of 1,000.
    Plain1000,
    /// Of 10,000.
    Plain10000,
    /// From the order to restart until every client has a message of the new life.
    Restart,
    /// Lines of code, of the member alone.
    OwnLines,
    /// And with the modules of `common` that it reaches.
    Lines,
}

/// How a figure is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// A bare number.
    Number,
    /// Of a hundred.
    Percent,
    /// Seconds.
    Time,
}

impl Figure {
    /// In the order of the table.
    pub const ALL: [Self; 18] = [
        Self::LatencyP50,
        Self::LatencyP99,
        Self::Empty,
        Self::Requests,
        Self::Connections,
        Self::ConnectionsClosed,
        Self::Bytes,
        Self::IdleBytes,
        Self::Cpu,
        Self::Memory100,
        Self::Memory1000,
        Self::Memory10000,
        Self::Plain100,
        Self::Plain1000,
        Self::Plain10000,
        Self::Restart,
        Self::OwnLines,
        Self::Lines,
    ];

    /// With and without the takeover, by how many clients wait.
    pub fn memory(clients: usize, takeover: bool) -> Option<Self> {
        Some(match (clients, takeover) {
            (100, true) => Self::Memory100,
            (1_000, true) => Self::Memory1000,
            (10_000, true) => Self::Memory10000,
            (100, false) => Self::Plain100,
            (1_000, false) => Self::Plain1000,
            (10_000, false) => Self::Plain10000,
            _ => return None,
        })
    }

    /// What it is called in the table.
    pub fn label(self) -> &'static str {
        match self {
            Self::LatencyP50 => "publish → receive, p50",
            Self::LatencyP99 => "publish → receive, p99",
            Self::Empty => "empty answers",
            Self::Requests => "requests per message",
            Self::Connections => "connections per message, keep-alive",
            Self::ConnectionsClosed => "connections per message, without",
            Self::Bytes => "bytes per message",
            Self::IdleBytes => "bytes per idle minute",
            Self::Cpu => "server CPU per delivery",
            Self::Memory100 => "server memory per client, of 100",
            Self::Memory1000 => "of 1,000",
            Self::Memory10000 => "of 10,000",
            Self::Plain100 => "with plain hyper, of 100",
            Self::Plain1000 => "with plain hyper, of 1,000",
            Self::Plain10000 => "with plain hyper, of 10,000",
            Self::Restart => "1,000 clients are back after",
            Self::OwnLines => "lines of code",
            Self::Lines => "and with what it reaches of `common`",
        }
    }

    /// What it is measured in.
    pub fn unit(self) -> Unit {
        match self {
            Self::LatencyP50 | Self::LatencyP99 | Self::Cpu | Self::Restart => Unit::Time,
            Self::Empty => Unit::Percent,
            Self::Requests
            | Self::Connections
            | Self::ConnectionsClosed
            | Self::OwnLines
            | Self::Lines => Unit::Number,
            _ => Unit::Bytes,
        }
    }

    /// Whether the ratios of its rows repeat, so that [`check`](crate::check) may look at them. A
    /// p99 is one of the slowest of a few hundred messages, and 100 clients weigh less than an
    /// allocator's next step.
    pub fn repeats(self) -> bool {
        !matches!(
            self,
            Self::LatencyP99 | Self::Memory100 | Self::Plain100 | Self::Restart
        )
    }
}

/// The median of some runs, and how far they were apart.
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
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        };
        Self {
            median,
            low: sorted[0],
            high: sorted[sorted.len() - 1],
        }
    }
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
    /// The server's processor time per delivery.
    pub cpu: Option<f64>,
    /// Half of all latencies.
    pub p50: f64,
    /// 99 of 100.
    pub p99: f64,
}

/// Figures of one run, or of several as medians.
pub(crate) type Figures<T> = BTreeMap<(Row, Figure), T>;

/// All that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Cores and kernel.
    pub machine: String,
    /// What the sources were.
    pub commit: String,
    /// How many runs the medians are of.
    pub runs: usize,
    /// Whether they were short ones.
    pub quick: bool,
    /// Seconds between two messages in the table's run.
    pub gap: f64,
    /// Clients of that run, each of every row.
    pub clients: usize,
    /// Clients that came back in [`Figure::Restart`].
    pub crowd: usize,
    /// The figures.
    #[serde(serialize_with = "as_list")]
    pub figures: BTreeMap<(Row, Figure), Spread>,
    /// What the charts are drawn from.
    pub points: Vec<Point>,
}

impl Report {
    /// The median of a figure.
    pub fn median(&self, row: Row, figure: Figure) -> Option<f64> {
        self.figures.get(&(row, figure)).map(|spread| spread.median)
    }
}

fn as_list<S: serde::Serializer>(
    figures: &Figures<Spread>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Entry {
        row: Row,
        figure: Figure,
        #[serde(flatten)]
        spread: Spread,
    }
    let entry = |(&(row, figure), &spread): (&(Row, Figure), &Spread)| Entry {
        row,
        figure,
        spread,
    };
    serializer.collect_seq(figures.iter().map(entry))
}

/// Cores and kernel, no more: it is published.
pub(crate) fn machine() -> String {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let kernel = output("uname", &["-sr"]).unwrap_or_else(|| std::env::consts::OS.to_owned());
    let kernel = kernel.split('-').next().unwrap_or_default();
    format!("{cores} cores, {kernel}")
}

/// The commit of the sources, marked where they have changed since.
pub(crate) fn commit() -> String {
    let root = env!("CARGO_MANIFEST_DIR");
    let git = |args: &[&str]| output("git", &[&["-C", root], args].concat());
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else {
        return "unknown".to_owned();
    };
    match git(&[
        "status",
        "--porcelain",
        "--untracked-files=no",
        "*.rs",
        "*.toml",
    ]) {
        Some(_) => commit + " with changes",
        None => commit,
    }
}

/// What a program prints, if it runs and prints something.
fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    Some(text).filter(|text| output.status.success() && !text.is_empty())
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
