//! For minutes or hours, messages are published to each server while its connections are cut and its process
//! is killed, again and again. At the end every client has each acknowledged message or knows that it is
//! missing. The servers use no more memory and descriptors than before.
//!
//! `SOAK_SECONDS=3600 cargo test --release -p compare --test soak -- --ignored --nocapture` runs for
//! an hour. Without the variable it takes two minutes.

#![cfg(target_os = "linux")]

use std::{
    collections::BTreeSet,
    env,
    path::Path,
    time::{Duration, Instant},
};

use common::Cursor;
use compare::{Follower, Heard, Knobs, Process, Publisher, Subscription, Technique};
use harness::{Fault, FaultProxy, PATIENCE};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::{
    sync::mpsc::UnboundedReceiver,
    task::JoinSet,
    time::{self, sleep, timeout},
};

/// The duration without `SOAK_SECONDS`.
const SECONDS: u64 = 120;
/// Clients of each server.
const CLIENTS: usize = 5;
/// Messages between two disturbances.
const BURST: usize = 50;
/// The share of the time in which servers are killed. After that connections are only cut, so that a process
/// lives long enough to show growth.
const KILLS: f64 = 0.4;
/// How much a process may grow, in bytes: the allocator keeps some memory, and the feed fills.
const GROWTH: u64 = 4 << 20;

/// A client, its proxy, and all that it received.
struct Listener {
    /// Dropped, the client leaves.
    _follower: Follower,
    proxy: FaultProxy,
    hearing: UnboundedReceiver<Heard>,
    received: BTreeSet<Id>,
    /// The ends of each gap, in one epoch or in two.
    gaps: Vec<(Id, Id)>,
    twice: usize,
}

/// The index of an epoch, and the number in it.
type Id = (usize, u64);

/// One server under fire.
struct Siege {
    technique: Technique,
    process: Process,
    listeners: Vec<Listener>,
    epochs: Vec<String>,
    acknowledged: BTreeSet<Id>,
    random: StdRng,
    kills: usize,
    cuts: usize,
}

impl Siege {
    async fn begin(technique: Technique, seed: u64) -> Self {
        let knobs = Knobs {
            retain: 2_000,
            retry: Some(Duration::from_millis(50)),
            ..Knobs::default()
        };
        let program = Path::new(env!("CARGO_BIN_EXE_compare"));
        let process = Process::start(program, technique, knobs).await;
        let mut siege = Self {
            technique,
            process: process.expect("it starts"),
            listeners: Vec::new(),
            epochs: Vec::new(),
            acknowledged: BTreeSet::new(),
            random: StdRng::seed_from_u64(seed),
            kills: 0,
            cuts: 0,
        };
        for _ in 0..CLIENTS {
            let listener = siege.listener().await;
            siege.listeners.push(listener);
        }
        siege
    }

    async fn listener(&self) -> Listener {
        let server = self.process.addr();
        let to = Subscription {
            interval: Duration::from_millis(50),
            check: Duration::from_millis(100),
            ..Subscription::new(server, "soak")
        };
        let mut proxy = None;
        let to = to.through(self.technique, async |addr| {
            let started = FaultProxy::start(addr, Fault::Pass).await;
            Ok(proxy.insert(started).addr())
        });
        let to = to.await.expect("a port is free");
        let follower = Follower::start(self.technique, to).await;
        let (mut follower, hearing) = follower.expect("it starts");
        if self.technique == Technique::Webhooks {
            let open = timeout(PATIENCE, follower.reaches(compare::State::Open)).await;
            open.expect("it registers");
        }
        Listener {
            _follower: follower,
            proxy: proxy.expect("it was started"),
            hearing,
            received: BTreeSet::new(),
            gaps: Vec::new(),
            twice: 0,
        }
    }

    fn position(&mut self, text: &str) -> Option<Id> {
        let cursor: Cursor = text.parse().ok()?;
        let epoch = cursor.epoch.as_str();
        let known = self.epochs.iter().position(|known| known == epoch);
        let life = known.unwrap_or_else(|| {
            self.epochs.push(epoch.to_owned());
            self.epochs.len() - 1
        });
        Some((life, cursor.seq))
    }

    /// Publishes a message. While the server is down, it is not acknowledged.
    async fn publish(&mut self, publisher: &mut Publisher) {
        let number: u32 = self.random.random();
        if let Ok(id) = publisher.publish("soak", &json!(number)).await {
            let id = self.position(&id).expect("a server answers with an id");
            self.acknowledged.insert(id);
        }
        sleep(Duration::from_micros(self.random.random_range(0..4_000))).await;
    }

    async fn burst(&mut self) {
        let mut publisher = Publisher::new(self.process.addr());
        for _ in 0..BURST {
            self.publish(&mut publisher).await;
        }
        self.take();
    }

    /// Cuts some of the connections, or kills the server.
    async fn disturb(&mut self, kill: bool) {
        if kill && self.random.random_bool(0.3) {
            self.kills += 1;
            self.process.kill().await.expect("it starts again");
            return;
        }
        for listener in &self.listeners {
            if self.random.random_bool(0.5) {
                self.cuts += 1;
                listener.proxy.drop_all();
            }
        }
    }

    fn take(&mut self) {
        let mut listeners = std::mem::take(&mut self.listeners);
        for listener in &mut listeners {
            while let Ok(heard) = listener.hearing.try_recv() {
                match heard {
                    Heard::Message(message) => {
                        let id = self.position(&message.id).expect("an id is a cursor");
                        listener.twice += usize::from(!listener.received.insert(id));
                    }
                    Heard::Gap(gap) => {
                        let from = self.position(&gap.requested);
                        let to = self.position(&gap.resumed);
                        listener.gaps.extend(from.zip(to));
                    }
                }
            }
        }
        self.listeners = listeners;
    }

    /// Messages that were acknowledged, but that a client neither received nor knows to be missing.
    fn unheard(&self) -> usize {
        let unheard = |listener: &Listener| {
            let named = |id: &Id| {
                let gaps = listener.gaps.iter();
                gaps.clone().any(|(from, to)| from < id && id <= to)
            };
            let ids = self.acknowledged.iter();
            ids.filter(|id| !listener.received.contains(id) && !named(id))
                .count()
        };
        self.listeners.iter().map(unheard).sum()
    }

    async fn catch_up(&mut self) {
        let deadline = time::Instant::now() + PATIENCE;
        loop {
            self.take();
            let unheard = self.unheard();
            if unheard == 0 {
                return;
            }
            let late = time::Instant::now() >= deadline;
            assert!(!late, "{}: {unheard} messages are lost", self.technique);
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn run(mut self, duration: Duration) {
        let started = Instant::now();
        while started.elapsed() < duration.mul_f64(KILLS) {
            self.burst().await;
            self.disturb(true).await;
        }
        self.catch_up().await;
        // From here on the process stays the same. Its feed is full before its memory is read.
        let (mut weight, mut rounds) = (None, 0);
        while started.elapsed() < duration || rounds < 2 {
            self.burst().await;
            self.disturb(false).await;
            rounds += 1;
            if started.elapsed() > duration.mul_f64(0.7) && weight.is_none() {
                self.catch_up().await;
                weight = Some(self.weigh().await);
            }
        }
        self.catch_up().await;
        self.tell(weight.unwrap_or_default(), self.weigh().await);
    }

    /// Memory and descriptors while nothing happens. The feed is full, so it does not grow.
    async fn weigh(&self) -> (u64, usize) {
        sleep(Duration::from_secs(1)).await;
        let process = &self.process;
        let weight = process.resident().zip(process.descriptors());
        weight.expect("there is a /proc")
    }

    fn tell(&self, (before, few): (u64, usize), (after, many): (u64, usize)) {
        let name = self.technique;
        let twice: usize = self.listeners.iter().map(|listener| listener.twice).sum();
        println!(
            "{name}: {} acknowledged, {} kills, {} cuts, {twice} twice; {} → {} KiB, {few} → {many} descriptors",
            self.acknowledged.len(),
            self.kills,
            self.cuts,
            before >> 10,
            after >> 10,
        );
        assert_eq!(twice, 0, "{name}");
        assert!(after <= before + GROWTH, "{name}: {before} → {after} bytes");
        // The sender of webhooks keeps up to this many connections to each endpoint for a while.
        let kept = if name == Technique::Webhooks { 8 } else { 0 };
        assert!(
            many <= few + (2 + kept) * CLIENTS,
            "{name}: {few} → {many} descriptors"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes two minutes; CI runs it"]
async fn nothing_is_lost_and_nothing_grows() {
    let seconds = env::var("SOAK_SECONDS").ok();
    let seconds = seconds.map_or(SECONDS, |text| text.parse().expect("a number of seconds"));
    let mut sieges = JoinSet::new();
    for (seed, technique) in (0..).zip(Technique::ALL) {
        let siege = Siege::begin(technique, seed).await;
        sieges.spawn(siege.run(Duration::from_secs(seconds)));
    }
    while let Some(siege) = sieges.join_next().await {
        siege.expect("nothing is lost");
    }
}
