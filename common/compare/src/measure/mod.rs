//! All figures. A run measures the latencies first, while nothing else runs. Then the long measurements
//! (30 seconds between two polls, a minute of silence) run in the background. They use almost no processor
//! time, so the rest is measured at the same time, one after the other.
//!
//! Short polling at 30 s does not need hours. Many clients poll, at times that are spread evenly over the
//! interval, so each message meets every distance from the next poll. One interval has the whole distribution.

mod crowd;
mod lane;

use std::{
    collections::BTreeMap,
    io, mem,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{TryStreamExt, future::try_join_all};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use lane::subscribed;
pub use lane::{Measured, Plan, measure as lane};

use crate::{
    Figure, Knobs, News, Process, Report, Row, Spread, Subscription, Technique, report::machine,
};

/// The time between two messages of the table's run. All messages together take longer than any interval of polls.
pub(crate) const GAP: Duration = Duration::from_secs(4);
/// Messages of that run. A Fibonacci number, because the spread of [`Plan`] is even after such a number.
const MESSAGES: usize = 13;
/// Clients of each row in that run, and fewer where a process may open few files.
const CLIENTS: [usize; 2] = [20, 4];
/// The messages whose latency is measured, and the time between two of them.
const LATENCIES: (usize, Duration) = (150, Duration::from_millis(100));
/// The loads: messages a second, and how many messages.
const LOADS: [(u32, usize); 4] = [(1, 4), (5, 20), (25, 100), (100, 400)];
/// The rows under load. Of short polling only the shortest interval, because the others would take long.
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
/// How long nothing is published. About a whole number of long polls, and of pauses between two heartbeats.
const SILENCE: Duration = Duration::from_secs(76);
/// Clients that wait while the server's memory is read, and fewer with `--quick`.
const CROWD: [usize; 2] = [10_000, 1_000];
/// Descriptors and ports for the other connections of a run, which are open at the same time.
const SPARE: usize = 512;

/// Measures everything three times, or once if `quick`. `program` is this command: it runs the servers.
///
/// # Errors
/// What the system refuses, and a message that was missing, repeated or out of order.
pub async fn measure(program: &Path, quick: bool) -> io::Result<Report> {
    let crowd = CROWD[usize::from(quick)];
    let descriptors = common::fit_descriptors(crowd + SPARE).min(crowd::free_ports());
    let bench = Arc::new(Bench {
        program: program.to_owned(),
        clients: CLIENTS[usize::from(descriptors < SPARE)],
        crowd: crowd.min(descriptors.saturating_sub(SPARE)),
        values: Mutex::default(),
    });
    let (machine, runs) = (machine(), if quick { 1 } else { 3 });
    for number in 1..=runs {
        bench
            .clone()
            .run(&format!("run {number} of {runs}"))
            .await?;
    }
    for row in Row::ALL {
        if let Some(lines) = copy::lines(&row.technique.to_string()) {
            bench.note(Figure::Lines, row, lines as f64);
        }
    }
    let runs = match runs {
        1 => "one run".to_owned(),
        _ => format!("medians of {runs} runs, with ± where they differ by more than 5 %"),
    };
    Ok(Report {
        origin: format!(
            "Measured on {machine}: {runs}. {} clients and a message every {} s; \
             memory with {} clients. *varies*: by more than the value itself.",
            bench.clients,
            GAP.as_secs(),
            bench.crowd
        ),
        figures: bench.spreads(),
    })
}

/// The command that runs servers, and what was measured with them.
#[derive(Debug)]
struct Bench {
    program: PathBuf,
    /// Clients of each row: one of [`CLIENTS`].
    clients: usize,
    /// How many clients wait for the memory: one of [`CROWD`], or as many as descriptors and ports allow.
    crowd: usize,
    /// The values of all runs.
    values: Mutex<BTreeMap<(Figure, Row, u32), Vec<f64>>>,
}

impl Bench {
    async fn run(self: Arc<Self>, name: &str) -> io::Result<()> {
        eprintln!("{name}: latency");
        self.latencies().await?;
        let background = tokio::spawn(self.clone().background());
        for (rate, messages) in LOADS {
            eprintln!("{name}: {rate} messages a second");
            self.load(rate, messages).await?;
        }
        eprintln!("{name}: memory");
        self.memory().await?;
        eprintln!("{name}: silence, and polls every 30 s");
        background.await??;
        eprintln!("{name}: done");
        Ok(())
    }

    /// One client for each row, while nothing else runs.
    async fn latencies(&self) -> io::Result<()> {
        let (messages, gap) = LATENCIES;
        for (row, lane) in self.side_by_side(&LOADED[1..], messages, gap, 1).await? {
            self.note(Figure::Latency, row, lane.percentile(50).as_secs_f64());
        }
        Ok(())
    }

    async fn load(&self, rate: u32, messages: usize) -> io::Result<()> {
        let gap = Duration::from_secs(1) / rate;
        for (row, lane) in self.side_by_side(&LOADED, messages, gap, LOADING).await? {
            self.note_load(row, rate, &lane);
        }
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

    /// A new server for each measurement, so that none inherits memory or connections from another.
    async fn lane(&self, row: Row, plan: &Plan) -> io::Result<Measured> {
        let server = Process::start(&self.program, row.technique, Knobs::default()).await?;
        let to = subscription(row, &server);
        lane(row.technique, server.addr(), to, Some(&server), plan).await
    }

    /// The long measurements: the table's run with its few messages, and the silence. All rows at the same time,
    /// because together they use the processor for only a few milliseconds a second.
    async fn background(self: Arc<Self>) -> io::Result<()> {
        let seldom = try_join_all(Row::ALL.map(|row| self.seldom(row)));
        let idle = try_join_all(Row::ALL.map(|row| self.idle(row)));
        tokio::try_join!(seldom, idle).map(drop)
    }

    /// The table's run: a message now and then, to many clients.
    async fn seldom(&self, row: Row) -> io::Result<()> {
        let plan = Plan {
            messages: MESSAGES,
            gap: GAP,
            start: Instant::now() + GAP,
            clients: self.clients,
        };
        let lane = self.lane(row, &plan).await?;
        let (requests, empty) = (lane.steady.requests, lane.steady.empty);
        self.note(Figure::Requests, row, lane.per_message(requests));
        if row.polls() {
            let share = empty as f64 / requests.max(1) as f64;
            self.note(Figure::Empty, row, share);
        }
        if row.technique == Technique::ShortPolling {
            // The other rows have it from `latencies`.
            self.note(Figure::Latency, row, lane.percentile(50).as_secs_f64());
        }
        self.note_load(row, 0, &lane);
        Ok(())
    }

    /// The bytes of clients while nothing is published.
    async fn idle(&self, row: Row) -> io::Result<()> {
        let server = Process::start(&self.program, row.technique, Knobs::default()).await?;
        let to = subscription(row, &server);
        let traffic = to.traffic.clone();
        let mut waiting = waiting(row.technique, &to, IDLE, row.interval()).await?;
        // The first request and its answer are not silence.
        sleep(Duration::from_millis(500)).await;
        let (before, started) = (traffic.counts(), Instant::now());
        tokio::select! {
            () = sleep(SILENCE) => {}
            Some(ended) = waiting.join_next() => {
                let heard = format!("{row}: nothing was published, but a client got {ended:?}");
                return Err(io::Error::other(heard));
            }
        }
        let bytes = traffic.counts().since(before).bytes as f64 / IDLE as f64;
        let minutes = started.elapsed().as_secs_f64() / 60.0;
        self.note(Figure::IdleBytes, row, bytes / minutes);
        Ok(())
    }

    fn note_load(&self, row: Row, rate: u32, lane: &Measured) {
        let bytes = lane.per_message(lane.steady.bytes);
        self.note_at(Figure::Bytes, row, rate, bytes);
        self.note_at(Figure::Tail, row, rate, lane.percentile(99).as_secs_f64());
        if let Some(cpu) = lane.cpu {
            self.note_at(Figure::Cpu, row, rate, cpu.as_secs_f64());
        }
    }

    fn note(&self, figure: Figure, row: Row, value: f64) {
        self.note_at(figure, row, 0, value);
    }

    fn note_at(&self, figure: Figure, row: Row, rate: u32, value: f64) {
        let mut values = self.values.lock().expect(UNPOISONED);
        values.entry((figure, row, rate)).or_default().push(value);
    }

    fn spreads(&self) -> BTreeMap<(Figure, Row, u32), Spread> {
        let values = mem::take(&mut *self.values.lock().expect(UNPOISONED));
        let spreads = values.into_iter();
        spreads
            .map(|(key, values)| (key, Spread::of(&values)))
            .collect()
    }
}

const UNPOISONED: &str = "nothing panics under this lock";

fn subscription(row: Row, server: &Process) -> Subscription {
    Subscription {
        interval: row.interval(),
        ..Subscription::new(server.addr(), "compare")
    }
}

/// Clients that wait, each in a task that ends when its client receives something. Their first polls are
/// spread over `spread`, so that a window of any length has its share of polls.
async fn waiting(
    technique: Technique,
    to: &Subscription,
    count: usize,
    spread: Duration,
) -> io::Result<JoinSet<io::Result<Option<News>>>> {
    let subscribing = (0..count).map(|_| subscribed(technique, to.clone()));
    let mut waiting = JoinSet::new();
    for (mut client, number) in try_join_all(subscribing).await?.into_iter().zip(0..) {
        let begin = spread.mul_f64(f64::from(number) / count as f64);
        waiting.spawn(async move {
            sleep(begin).await;
            client.try_next().await
        });
    }
    Ok(waiting)
}
