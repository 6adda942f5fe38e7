//! All figures. One run takes the latencies first, with the machine to itself; then what needs
//! patience (30 seconds between two polls, a minute of silence) in the background, where it costs
//! next to nothing, and meanwhile the rest, one thing after the other.
//!
//! How short polling at 30 s is measured without waiting for ever: there are many clients, whose
//! polls are spread evenly over the interval, so that every message meets one at each distance from
//! its next poll. One interval is enough for the whole distribution.

mod crowd;
mod lane;
mod lines;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

pub use lane::{Measured, Plan, Way, measure as lane};

use crate::{
    Knobs, Process, Report, Row, Spread, Subscription, Technique, Traffic,
    clients::Client,
    progress,
    report::{self, Figure, Figures, Point},
};

/// How much is measured.
#[derive(Debug, Clone)]
struct Scale {
    runs: usize,
    /// In the background: messages, and how far apart. A Fibonacci number, after so many of which
    /// [`Plan`]'s spread begins anew: what is counted per message depends on no remainder.
    patient: usize,
    gap: Duration,
    clients: usize,
    /// For so long nothing is published to those who only listen: whole waits of a long poll, and
    /// whole pauses between two heartbeats.
    idle: Duration,
    /// Messages whose latency is taken, one by one.
    latencies: usize,
    /// Messages a second, and how many.
    loads: &'static [(u32, usize)],
    /// How many clients wait.
    waiting: &'static [usize],
    /// How many come back.
    crowd: usize,
}

impl Scale {
    /// Under a minute, or under five.
    fn new(quick: bool, descriptors: usize) -> Self {
        let gap = Duration::from_secs(4);
        let clients = if descriptors < 2_048 { 4 } else { 20 };
        // A client of webhooks has a listener, a connection to the sender and one from it.
        let crowd = (descriptors.saturating_sub(200) / 4).clamp(10, 1_000);
        if quick {
            return Self {
                runs: 1,
                patient: 5,
                gap,
                clients,
                idle: Duration::from_secs(51),
                latencies: 30,
                loads: &[(1, 3), (10, 20), (100, 200)],
                waiting: &[100, 1_000],
                crowd,
            };
        }
        Self {
            runs: 3,
            patient: 13,
            gap,
            clients,
            idle: Duration::from_secs(80),
            latencies: 150,
            loads: &[(1, 4), (5, 20), (25, 100), (100, 400)],
            waiting: &[100, 1_000, 10_000],
            crowd,
        }
    }

    /// Whether a run is long enough to count this row's polls.
    fn counts(&self, row: Row) -> bool {
        row.interval() <= self.gap * self.patient as u32
    }

    /// Deliveries and clients of all runs: what the progress bar counts.
    fn total(&self) -> usize {
        let rows = Row::ALL.iter();
        let without = rows.filter(|row| row.requests() && self.counts(**row));
        let without = without.count();
        let patient = (self.patient + 1) * self.clients * (Row::ALL.len() + without);
        let latencies = (self.latencies + 1) * 4;
        let load = |(_, messages): &(u32, usize)| (messages + 1) * LOADED.len() * CLIENTS;
        let loads: usize = self.loads.iter().map(load).sum();
        let waiting = self.waiting.iter().max().copied().unwrap_or_default();
        let crowds = waiting * crowd::KINDS + self.crowd * LOADED.len();
        self.runs * (patient + latencies + loads + crowds)
    }
}

/// Those who are put under load. Short polling at the one interval that does not take for ever.
const LOADED: [Row; 5] = [
    Row::ALL[0],
    Row::ALL[3],
    Row::ALL[4],
    Row::ALL[5],
    Row::ALL[6],
];
/// Clients of each under load.
const CLIENTS: usize = 5;
/// Clients of each that listen to silence.
const LISTENERS: usize = 4;

/// Measures everything with servers run by `program`, which is this command.
///
/// # Errors
/// What the system refuses, and a message that was missing, repeated or out of order.
pub async fn measure(program: &Path, quick: bool) -> io::Result<Report> {
    let descriptors = common::fit_descriptors(20_000);
    let scale = Scale::new(quick, descriptors);
    let (machine, commit) = (report::machine(), report::commit());
    let bench = Arc::new(Bench {
        program: program.to_owned(),
        done: Arc::default(),
        descriptors,
        scale: scale.clone(),
    });
    let measured = tokio::select! {
        measured = bench.clone().runs() => measured,
        never = progress::show(&bench.done, scale.total()) => match never {},
    };
    progress::end(&bench.done, scale.total());
    let (figures, points) = measured?;
    Ok(Report {
        machine,
        commit,
        runs: scale.runs,
        quick,
        gap: scale.gap.as_secs_f64(),
        clients: scale.clients,
        crowd: scale.crowd,
        figures,
        points,
    })
}

/// What every part of a run has at hand.
#[derive(Debug)]
struct Bench {
    program: PathBuf,
    /// Shown by the progress bar.
    done: Arc<AtomicUsize>,
    /// That this process may have open.
    descriptors: usize,
    scale: Scale,
}

/// What one run gives.
#[derive(Debug, Default)]
struct Run {
    figures: Figures<f64>,
    points: Vec<Point>,
}

impl Bench {
    async fn runs(self: Arc<Self>) -> io::Result<(Figures<Spread>, Vec<Point>)> {
        let mut runs = Vec::new();
        for _ in 0..self.scale.runs {
            runs.push(self.clone().run().await?);
        }
        let mut values: Figures<Vec<f64>> = Figures::new();
        for (key, value) in runs.iter().flat_map(|run| &run.figures) {
            values.entry(*key).or_default().push(*value);
        }
        let figures = values
            .into_iter()
            .map(|(key, values)| (key, Spread::of(&values)));
        let mut figures: Figures<Spread> = figures.collect();
        for row in Row::ALL {
            let lines = lines::of(row.technique).into_iter().flatten();
            for (figure, lines) in [Figure::OwnLines, Figure::Lines].into_iter().zip(lines) {
                figures.insert((row, figure), Spread::of(&[lines as f64]));
            }
        }
        Ok((figures, medians(&runs)))
    }

    async fn run(self: Arc<Self>) -> io::Result<Run> {
        let mut run = Run::default();
        self.latencies(&mut run).await?;
        let background = tokio::spawn(self.clone().background());
        self.foreground(&mut run).await?;
        let patient = background.await??;
        run.figures.extend(patient.figures);
        run.points.extend(patient.points);
        Ok(run)
    }

    async fn server(&self, technique: Technique, knobs: Knobs) -> io::Result<Process> {
        Process::start(&self.program, technique, knobs).await
    }

    /// What needs patience: few messages, and silence.
    async fn background(self: Arc<Self>) -> io::Result<Run> {
        let mut parts = JoinSet::new();
        for row in Row::ALL {
            parts.spawn(self.clone().patient(row));
            parts.spawn(self.clone().idle(row));
            if row.requests() && self.scale.counts(row) {
                parts.spawn(self.clone().without_keep_alive(row));
            }
        }
        let mut run = Run::default();
        while let Some(part) = parts.join_next().await {
            let part = part??;
            run.figures.extend(part.figures);
            run.points.extend(part.points);
        }
        Ok(run)
    }

    fn plan(&self, row: Row, messages: usize, gap: Duration, clients: usize) -> Plan {
        Plan {
            messages,
            gap,
            // By then all have subscribed.
            start: Instant::now() + Duration::from_millis(300),
            clients,
            interval: row.interval(),
            keep_alive: true,
            delivered: self.done.clone(),
        }
    }

    async fn patient(self: Arc<Self>, row: Row) -> io::Result<Run> {
        let server = self.server(row.technique, Knobs::default()).await?;
        let Scale {
            patient,
            gap,
            clients,
            ..
        } = self.scale;
        let plan = self.plan(row, patient, gap, clients);
        let lane = lane(row.technique, server.addr(), Some(&server), &plan).await?;
        let mut run = Run::default();
        if row.technique == Technique::ShortPolling {
            run.latencies(row, &lane);
            if !self.scale.counts(row) {
                // It took one poll to have all: enough for the latency, and not for counting polls.
                return Ok(run);
            }
        }
        run.note(
            row,
            Figure::Requests,
            lane.per_message(lane.steady.requests),
        );
        run.note(
            row,
            Figure::Connections,
            lane.per_message(lane.steady.connections),
        );
        run.note(row, Figure::Bytes, lane.per_message(lane.steady.bytes));
        if row.polls() {
            let share = lane.steady.empty as f64 / lane.steady.requests.max(1) as f64;
            run.note(row, Figure::Empty, share);
        }
        if !row.requests() {
            // One connection is all there is, either way.
            run.note(
                row,
                Figure::ConnectionsClosed,
                lane.per_message(lane.steady.connections),
            );
        }
        if let Some(cpu) = lane.cpu {
            run.note(row, Figure::Cpu, cpu.as_secs_f64());
        }
        if row.technique == Technique::ShortPolling {
            // The others' points are those of `load`, from five clients each.
            run.points.push(point(row, gap, &lane));
        }
        Ok(run)
    }

    async fn without_keep_alive(self: Arc<Self>, row: Row) -> io::Result<Run> {
        let server = self.server(row.technique, Knobs::default()).await?;
        let Scale {
            patient,
            gap,
            clients,
            ..
        } = self.scale;
        let plan = Plan {
            keep_alive: false,
            ..self.plan(row, patient, gap, clients)
        };
        let lane = lane(row.technique, server.addr(), None, &plan).await?;
        let mut run = Run::default();
        let connections = lane.per_message(lane.steady.connections);
        run.note(row, Figure::ConnectionsClosed, connections);
        Ok(run)
    }

    /// Bytes of clients to whom nothing is said.
    async fn idle(self: Arc<Self>, row: Row) -> io::Result<Run> {
        let server = self.server(row.technique, Knobs::default()).await?;
        let traffic = Arc::<Traffic>::default();
        let mut clients = JoinSet::new();
        for number in 0..LISTENERS {
            let to = Subscription {
                interval: row.interval(),
                traffic: traffic.clone(),
                ..Subscription::new(server.addr(), "silence")
            };
            let mut client = Client::subscribe(row.technique, to).await?;
            let begin = row.interval().mul_f64(number as f64 / LISTENERS as f64);
            clients.spawn(async move {
                sleep(begin).await;
                client.next().await
            });
        }
        // The first request and its answer are not silence.
        sleep(Duration::from_millis(500)).await;
        let (before, started) = (traffic.counts(), Instant::now());
        tokio::select! {
            () = sleep(self.scale.idle) => {}
            Some(ended) = clients.join_next() => {
                return Err(io::Error::other(format!("{row}: silence ended: {ended:?}")));
            }
        }
        let bytes = (traffic.counts() - before).bytes as f64 / LISTENERS as f64;
        let minutes = started.elapsed().as_secs_f64() / 60.0;
        let mut run = Run::default();
        run.note(row, Figure::IdleBytes, bytes / minutes);
        Ok(run)
    }

    /// One thing after the other.
    async fn foreground(&self, run: &mut Run) -> io::Result<()> {
        for load in self.scale.loads {
            self.load(*load, run).await?;
        }
        self.memory(run).await?;
        self.restarts(run).await
    }

    /// One client each, in turns: no two servers have their message at the same moment.
    async fn latencies(&self, run: &mut Run) -> io::Result<()> {
        const GAP: Duration = Duration::from_millis(100);
        let rows = &LOADED[1..];
        let mut lanes = Vec::new();
        for (turn, row) in (0..).zip(rows) {
            let server = self.server(row.technique, Knobs::default()).await?;
            let mut plan = self.plan(*row, self.scale.latencies, GAP, 1);
            plan.start += GAP * turn / rows.len() as u32;
            lanes.push(async move {
                let lane = lane(row.technique, server.addr(), Some(&server), &plan).await?;
                io::Result::Ok((*row, lane))
            });
        }
        for measured in join_all(lanes).await {
            let (row, lane) = measured?;
            run.latencies(row, &lane);
        }
        Ok(())
    }

    async fn load(&self, (rate, messages): (u32, usize), run: &mut Run) -> io::Result<()> {
        let gap = Duration::from_secs(1) / rate;
        let mut lanes = Vec::new();
        for (turn, row) in (0..).zip(LOADED) {
            let server = self.server(row.technique, Knobs::default()).await?;
            let mut plan = self.plan(row, messages, gap, CLIENTS);
            plan.start += gap * turn / LOADED.len() as u32;
            lanes.push(async move {
                let lane = lane(row.technique, server.addr(), Some(&server), &plan).await?;
                io::Result::Ok(point(row, gap, &lane))
            });
        }
        for measured in join_all(lanes).await {
            run.points.push(measured?);
        }
        Ok(())
    }
}

impl Run {
    fn note(&mut self, row: Row, figure: Figure, value: f64) {
        self.figures.insert((row, figure), value);
    }

    fn latencies(&mut self, row: Row, lane: &Measured) {
        let percentile = |percent| lane.percentile(percent).as_secs_f64();
        self.note(row, Figure::LatencyP50, percentile(50));
        self.note(row, Figure::LatencyP99, percentile(99));
    }
}

fn point(row: Row, gap: Duration, lane: &Measured) -> Point {
    Point {
        row,
        rate: 1.0 / gap.as_secs_f64(),
        bytes: lane.per_message(lane.steady.bytes),
        cpu: lane.cpu.map(|cpu| cpu.as_secs_f64()),
        p50: lane.percentile(50).as_secs_f64(),
        p99: lane.percentile(99).as_secs_f64(),
    }
}

/// Each point of several runs as one.
fn medians(runs: &[Run]) -> Vec<Point> {
    let mut all: Vec<Point> = runs.iter().flat_map(|run| run.points.clone()).collect();
    all.sort_by(|a, b| {
        (a.row, a.rate)
            .partial_cmp(&(b.row, b.rate))
            .expect("numbers")
    });
    let same = |a: &Point, b: &Point| a.row == b.row && a.rate == b.rate;
    let median = |points: &[Point], of: &dyn Fn(&Point) -> f64| {
        Spread::of(&points.iter().map(of).collect::<Vec<_>>()).median
    };
    all.chunk_by(same)
        .map(|points| Point {
            row: points[0].row,
            rate: points[0].rate,
            bytes: median(points, &|point| point.bytes),
            cpu: points[0]
                .cpu
                .map(|_| median(points, &|point| point.cpu.unwrap_or_default())),
            p50: median(points, &|point| point.p50),
            p99: median(points, &|point| point.p99),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_make_a_smaller_crowd_and_never_none() {
        assert_eq!(Scale::new(true, 20_000).crowd, 1_000);
        assert_eq!(Scale::new(true, 224).crowd, 10);
        assert_eq!(Scale::new(true, 1_000).crowd, 200);
    }

    #[test]
    fn the_points_of_several_runs_become_one() {
        let point = |bytes, rate| Point {
            row: Row::ALL[0],
            rate,
            bytes,
            cpu: None,
            p50: 1.0,
            p99: 2.0,
        };
        let run = |bytes| Run {
            figures: Figures::new(),
            points: vec![point(bytes, 1.0), point(10.0, 5.0)],
        };
        let points = medians(&[run(1.0), run(3.0), run(2.0)]);
        assert_eq!(points, [point(2.0, 1.0), point(10.0, 5.0)]);
    }
}
