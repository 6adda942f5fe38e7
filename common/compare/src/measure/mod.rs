//! All figures. A run measures the latencies first, with the machine to itself. Then what takes long
//! (30 seconds between two polls, a minute of silence) waits in the background, where it costs
//! next to nothing, while the rest is measured one after the other.
//!
//! Short polling at 30 s needs no hours: many clients poll at times spread evenly over the interval,
//! so each message meets every distance from the next poll. One interval has the whole distribution.

mod crowd;
mod lane;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::future::try_join_all;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

pub use lane::{Measured, Plan, measure as lane};

use crate::{
    Knobs, Process, Report, Row, Spread, Subscription, Technique, Traffic,
    clients::Client,
    copy,
    report::{self, Figure, Measurement, Point},
};

/// Between two messages of the table's run. All of them together take longer than any interval of polls.
const GAP: Duration = Duration::from_secs(4);
/// Messages a second, and how many.
const LOADS: [(u32, usize); 4] = [(1, 4), (5, 20), (25, 100), (100, 400)];
/// The rows under load. Short polling has only its shortest interval there, for the time it takes.
const LOADED: [Row; 5] = [
    Row::ALL[0],
    Row::ALL[3],
    Row::ALL[4],
    Row::ALL[5],
    Row::ALL[6],
];
/// Clients of each row under load.
const LOADING: usize = 5;
/// Clients of each row in silence.
const IDLE: usize = 4;

/// Measures everything with servers run by `program`, which is this command.
///
/// # Errors
/// What the system refuses, and a message that was missing, repeated or out of order.
pub async fn measure(program: &Path, quick: bool) -> io::Result<Report> {
    let bench = Arc::new(Bench::new(program, quick));
    let (machine, commit) = (report::machine(), report::commit());
    let mut runs = Run::default();
    for number in 1..=bench.runs {
        runs.add(bench.clone().run(number).await?);
    }
    Ok(Report {
        machine,
        commit,
        runs: bench.runs,
        clients: bench.clients,
        gap: GAP.as_secs_f64(),
        crowd: bench.crowd,
        figures: measurements(&runs),
        points: medians(runs.points),
    })
}

/// How much is measured, and with what.
#[derive(Debug)]
struct Bench {
    program: PathBuf,
    runs: usize,
    /// Messages of the table's run. A Fibonacci number, because the spread of [`Plan`] is even after
    /// such a number.
    messages: usize,
    /// Clients of each row in the table's run.
    clients: usize,
    /// How long nothing is published: whole waits of a long poll, and whole pauses between two
    /// heartbeats.
    idle: Duration,
    /// Messages whose latency is taken, one by one.
    latencies: usize,
    /// How many clients wait.
    crowd: usize,
}

impl Bench {
    /// About a minute, or five.
    fn new(program: &Path, quick: bool) -> Self {
        let descriptors = common::fit_descriptors(20_000);
        let (runs, messages, idle, latencies, crowd) = match quick {
            true => (1, 8, 51, 30, 5_000),
            false => (3, 13, 76, 150, 10_000),
        };
        Self {
            program: program.to_owned(),
            runs,
            messages,
            clients: if descriptors < 2_048 { 4 } else { 20 },
            idle: Duration::from_secs(idle),
            latencies,
            crowd: descriptors.saturating_sub(256).min(crowd),
        }
    }
}

/// What one run gives, or several.
#[derive(Debug, Default)]
struct Run {
    figures: BTreeMap<(Row, Figure), Vec<f64>>,
    points: Vec<Point>,
}

impl Run {
    fn note(&mut self, row: Row, figure: Figure, value: f64) {
        self.figures.entry((row, figure)).or_default().push(value);
    }

    fn add(&mut self, other: Self) {
        for ((row, figure), values) in other.figures {
            values
                .iter()
                .for_each(|value| self.note(row, figure, *value));
        }
        self.points.extend(other.points);
    }
}

impl Bench {
    async fn run(self: Arc<Self>, number: usize) -> io::Result<Run> {
        let runs = self.runs;
        let say = |what: &str| eprintln!("run {number} of {runs}: {what}");
        let mut run = Run::default();
        say("latency");
        self.latencies(&mut run).await?;
        let background = tokio::spawn(self.clone().background());
        for (rate, messages) in LOADS {
            say(&format!("{rate} messages a second"));
            self.load(rate, messages, &mut run).await?;
        }
        say("memory");
        self.memory(&mut run).await?;
        say("silence, and polls every 30 s");
        run.add(background.await??);
        say("done");
        Ok(run)
    }

    /// A new server for each measurement: none inherits memory or connections from another.
    async fn server(&self, technique: Technique, knobs: Knobs) -> io::Result<Process> {
        Process::start(&self.program, technique, knobs).await
    }

    /// One client for each row, while nothing else runs.
    async fn latencies(&self, run: &mut Run) -> io::Result<()> {
        let (messages, gap) = (self.latencies, Duration::from_millis(100));
        for (row, lane) in self.side_by_side(&LOADED[1..], messages, gap, 1).await? {
            run.note(row, Figure::Latency, lane.percentile(50).as_secs_f64());
        }
        Ok(())
    }

    async fn load(&self, rate: u32, messages: usize, run: &mut Run) -> io::Result<()> {
        let gap = Duration::from_secs(1) / rate;
        let lanes = self.side_by_side(&LOADED, messages, gap, LOADING).await?;
        let points = lanes.iter().map(|(row, lane)| point(*row, gap, lane));
        run.points.extend(points);
        Ok(())
    }

    /// A lane for each row. Their messages take turns, so no two servers work at the same moment.
    async fn side_by_side(
        &self,
        rows: &[Row],
        messages: usize,
        gap: Duration,
        clients: usize,
    ) -> io::Result<Vec<(Row, Measured)>> {
        // Time for the servers to start and for the clients to subscribe.
        let start = Instant::now() + gap.max(Duration::from_millis(500));
        let lanes = rows.iter().zip(0..).map(|(row, turn)| async move {
            let plan = Plan {
                messages,
                gap,
                start: start + gap * turn / rows.len() as u32,
                clients,
            };
            Ok((*row, self.lane(*row, &plan).await?))
        });
        try_join_all(lanes).await
    }

    async fn lane(&self, row: Row, plan: &Plan) -> io::Result<Measured> {
        let server = self.server(row.technique, Knobs::default()).await?;
        let to = subscription(row, &server, "compare");
        lane(row.technique, server.addr(), to, Some(&server), plan).await
    }

    /// What takes long: the table's run with its few messages, and silence.
    async fn background(self: Arc<Self>) -> io::Result<Run> {
        // All at the same time: together they use the processor for a few milliseconds a second.
        let mut parts = JoinSet::new();
        for row in Row::ALL {
            parts.spawn(self.clone().seldom(row));
            parts.spawn(self.clone().idle(row));
        }
        let mut run = Run::default();
        while let Some(part) = parts.join_next().await {
            run.add(part??);
        }
        Ok(run)
    }

    /// A message now and then, to many clients.
    async fn seldom(self: Arc<Self>, row: Row) -> io::Result<Run> {
        let plan = Plan {
            messages: self.messages,
            gap: GAP,
            start: Instant::now() + GAP,
            clients: self.clients,
        };
        let lane = self.lane(row, &plan).await?;
        let (mut run, steady) = (Run::default(), lane.steady);
        run.note(row, Figure::Requests, lane.per_message(steady.requests));
        run.note(row, Figure::Bytes, lane.per_message(steady.bytes));
        if row.polls() {
            let share = steady.empty as f64 / steady.requests.max(1) as f64;
            run.note(row, Figure::Empty, share);
        }
        if let Some(cpu) = lane.cpu {
            run.note(row, Figure::Cpu, cpu.as_secs_f64());
        }
        if row.technique == Technique::ShortPolling {
            // The other rows have these from `latencies` and `load`.
            run.note(row, Figure::Latency, lane.percentile(50).as_secs_f64());
            run.points.push(point(row, GAP, &lane));
        }
        Ok(run)
    }

    /// Bytes of clients that hear nothing.
    async fn idle(self: Arc<Self>, row: Row) -> io::Result<Run> {
        let server = self.server(row.technique, Knobs::default()).await?;
        let traffic = Arc::<Traffic>::default();
        let mut clients = JoinSet::new();
        for number in 0..IDLE {
            let mut to = subscription(row, &server, "silence");
            to.traffic = traffic.clone();
            let mut client = Client::subscribe(row.technique, to).await?;
            // Spread over the interval, so that a window of any length has its share of polls.
            let begin = row.interval().mul_f64(number as f64 / IDLE as f64);
            clients.spawn(async move {
                sleep(begin).await;
                client.next().await
            });
        }
        // The first request and its answer are not silence.
        sleep(Duration::from_millis(500)).await;
        let (before, started) = (traffic.counts(), Instant::now());
        tokio::select! {
            () = sleep(self.idle) => {}
            Some(ended) = clients.join_next() => return Err(not_silent(row, &ended?)),
        }
        let bytes = traffic.counts().since(before).bytes as f64 / IDLE as f64;
        let minutes = started.elapsed().as_secs_f64() / 60.0;
        let mut run = Run::default();
        run.note(row, Figure::IdleBytes, bytes / minutes);
        Ok(run)
    }
}

fn subscription(row: Row, server: &Process, topic: &str) -> Subscription {
    Subscription {
        interval: row.interval(),
        ..Subscription::new(server.addr(), topic)
    }
}

fn not_silent(row: Row, heard: &impl std::fmt::Debug) -> io::Error {
    io::Error::other(format!(
        "{row}: nothing was published, but a client got {heard:?}"
    ))
}

fn point(row: Row, gap: Duration, lane: &Measured) -> Point {
    Point {
        row,
        rate: 1.0 / gap.as_secs_f64(),
        bytes: lane.per_message(lane.steady.bytes),
        cpu: lane.cpu.map(|cpu| cpu.as_secs_f64()),
        p99: lane.percentile(99).as_secs_f64(),
    }
}

/// The figures of all runs, and the lines of code, which are not measured.
fn measurements(runs: &Run) -> Vec<Measurement> {
    let measured = runs
        .figures
        .iter()
        .map(|((row, figure), values)| Measurement {
            row: *row,
            figure: *figure,
            spread: Spread::of(values),
        });
    let lines = Row::ALL.into_iter().filter_map(|row| {
        Some(Measurement {
            row,
            figure: Figure::Lines,
            spread: Spread::of(&[copy::lines(row.technique)? as f64]),
        })
    });
    measured.chain(lines).collect()
}

/// One point for each row and rate, of the points of several runs.
fn medians(mut points: Vec<Point>) -> Vec<Point> {
    points.sort_by(|a, b| a.row.cmp(&b.row).then(a.rate.total_cmp(&b.rate)));
    let groups = points.chunk_by(|a, b| a.row == b.row && a.rate == b.rate);
    groups.map(median).collect()
}

fn median(points: &[Point]) -> Point {
    let of = |value: fn(&Point) -> Option<f64>| {
        let values: Vec<f64> = points.iter().filter_map(value).collect();
        (!values.is_empty()).then(|| Spread::of(&values).median)
    };
    Point {
        bytes: of(|point| Some(point.bytes)).unwrap_or_default(),
        cpu: of(|point| point.cpu),
        p99: of(|point| Some(point.p99)).unwrap_or_default(),
        ..points[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_points_of_several_runs_become_one() {
        let point = |bytes, rate| Point {
            row: Row::ALL[0],
            rate,
            bytes,
            cpu: None,
            p99: 2.0,
        };
        let runs = [1.0, 3.0, 2.0].map(|bytes| [point(bytes, 1.0), point(10.0, 5.0)]);
        assert_eq!(medians(runs.concat()), [point(2.0, 1.0), point(10.0, 5.0)]);
    }
}
