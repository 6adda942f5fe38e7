//! One lane: a run of messages published to one server, and what came of it at its clients.
//!
//! The first message is for warming up. What a client counts begins when it has that one and ends
//! when it has the last: so connecting is not in it, and what is said of a message holds however
//! long the run is.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{self, sleep_until, timeout},
};

use crate::{
    Technique,
    clients::{Client, Heard, Publisher, Receiver, Subscription},
    process::Process,
    traffic::{Counts, Traffic},
};

/// How long nothing may come, beyond the gap between two messages and the interval of polls, until
/// what is not there counts as missing.
const PATIENCE: Duration = Duration::from_secs(5);
/// Each server has a feed of its own, so one topic is enough.
const TOPIC: &str = "compare";

/// A run of messages.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many, after the one that warms up; at least one.
    pub messages: usize,
    /// Between two of them, on average.
    pub gap: Duration,
    /// When the one that warms up is due, or later, when all have subscribed.
    pub start: time::Instant,
    /// Who listens, each on its own. Those who poll ask at times spread over the interval.
    pub clients: usize,
    /// Between two polls.
    pub interval: Duration,
    /// Whether polls, and a receiver's answers, keep their connection.
    pub keep_alive: bool,
    /// Counts up with each message that arrives.
    pub delivered: Arc<AtomicUsize>,
}

impl Plan {
    /// When message `seq` is published. Steps of the golden ratio spread the messages evenly over
    /// every interval, so that they do not run in step with the polls.
    fn due(&self, seq: usize) -> time::Instant {
        const GOLDEN: f64 = 0.618_033_988_749_895;
        let seq = seq as f64;
        self.start + self.gap.mul_f64(seq + (seq * GOLDEN).fract())
    }

    /// When client `number` begins.
    fn begin(&self, technique: Technique, number: usize) -> time::Instant {
        match technique {
            Technique::ShortPolling => {
                self.start + self.interval.mul_f64(number as f64 / self.clients as f64)
            }
            _ => time::Instant::now(),
        }
    }

    /// All of them, with the one that warms up.
    fn all(&self) -> usize {
        self.messages + 1
    }
}

/// Where a lane leads: a test puts its proxy in between.
#[derive(Debug, Clone)]
pub struct Way {
    /// Where to publish.
    pub server: SocketAddr,
    /// Where to subscribe.
    pub subscribe: SocketAddr,
    /// Who is called by webhooks; `None` is somebody new for each client.
    pub receiver: Option<Arc<Receiver>>,
    /// What counts, if not a new one for each client.
    pub traffic: Option<Arc<Traffic>>,
}

impl From<SocketAddr> for Way {
    /// Directly.
    fn from(server: SocketAddr) -> Self {
        Self {
            server,
            subscribe: server,
            receiver: None,
            traffic: None,
        }
    }
}

/// What came of a run, over all clients.
#[derive(Debug, Clone)]
pub struct Measured {
    /// From just before the publishing POST is written until a client has the message; sorted.
    pub latencies: Vec<Duration>,
    /// Messages that were counted.
    pub counted: u64,
    /// What the clients counted with them.
    pub steady: Counts,
    /// What they counted in all, connecting and leaving included.
    pub whole: Counts,
    /// The server's processor time from the first message after the one that warms up, publishing
    /// included, for each delivery.
    pub cpu: Option<Duration>,
}

/// What one client has.
#[derive(Debug, Default)]
struct Arrivals {
    /// The numbers that came and when, in their order.
    came: Vec<(usize, Instant)>,
    counted: u64,
    steady: Counts,
    whole: Counts,
}

impl Measured {
    /// The latency that `percent` of all messages have at most, by nearest rank.
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.latencies.len() * percent).div_ceil(100);
        self.latencies[rank.max(1) - 1]
    }

    /// One of the counts for each message.
    pub fn per_message(&self, count: u64) -> f64 {
        count as f64 / self.counted.max(1) as f64
    }
}

/// Publishes by `plan` to the server of `technique` and receives through its clients.
///
/// # Errors
/// If a connection fails, or if a message was missing, repeated or, where order is kept, out of it.
pub async fn measure(
    technique: Technique,
    way: impl Into<Way>,
    process: Option<&Process>,
    plan: &Plan,
) -> io::Result<Measured> {
    let way = way.into();
    let subscribe = |_| subscribe(technique, way.clone(), plan);
    let subscribed = try_join_all((0..plan.clients).map(subscribe)).await?;
    // However long that took: nothing is published to nobody.
    let start = plan.start.max(time::Instant::now());
    let plan = &Plan {
        start,
        ..plan.clone()
    };
    let mut clients = JoinSet::new();
    for (number, (client, traffic)) in subscribed.into_iter().enumerate() {
        let begin = plan.begin(technique, number);
        clients.spawn(listen(client, traffic, plan.clone(), begin));
    }
    let published = publish(Publisher::new(way.server), process, plan);
    let (published, arrivals) = tokio::try_join!(published, all(clients))?;
    let (sent, cpu_before) = published;
    let spent = process.and_then(Process::cpu_time).zip(cpu_before);
    let mut measured = Measured {
        latencies: Vec::new(),
        counted: 0,
        steady: Counts::default(),
        whole: Counts::default(),
        cpu: None,
    };
    for client in arrivals {
        let order: Vec<usize> = client.came.iter().map(|(seq, _)| *seq).collect();
        check(&order, plan.all(), technique.keeps_order())
            .map_err(|wrong| io::Error::other(format!("{technique}: {wrong}")))?;
        let after_warm_up = client.came.iter().filter(|(seq, _)| *seq > 0);
        let latency = |(seq, at): &(usize, Instant)| at.duration_since(sent[*seq]);
        measured.latencies.extend(after_warm_up.map(latency));
        measured.counted += client.counted;
        measured.steady = measured.steady + client.steady;
        measured.whole = measured.whole + client.whole;
    }
    measured.latencies.sort_unstable();
    let deliveries = measured.latencies.len() as u32;
    measured.cpu = spent.map(|(after, before)| after.saturating_sub(before) / deliveries);
    Ok(measured)
}

/// When each message was sent, and the server's processor time when that began.
async fn publish(
    mut publisher: Publisher,
    process: Option<&Process>,
    plan: &Plan,
) -> io::Result<(Vec<Instant>, Option<Duration>)> {
    let (mut sent, mut cpu) = (Vec::with_capacity(plan.all()), None);
    for seq in 0..plan.all() {
        sleep_until(plan.due(seq)).await;
        if seq == 1 {
            cpu = process.and_then(Process::cpu_time);
        }
        sent.push(Instant::now());
        let data = json!({ "seq": seq, "status": "success" });
        publisher.publish(TOPIC, &data).await?;
    }
    Ok((sent, cpu))
}

async fn all(mut clients: JoinSet<io::Result<Arrivals>>) -> io::Result<Vec<Arrivals>> {
    let mut all = Vec::with_capacity(clients.len());
    while let Some(arrivals) = clients.join_next().await {
        all.push(arrivals??);
    }
    Ok(all)
}

async fn subscribe(
    technique: Technique,
    way: Way,
    plan: &Plan,
) -> io::Result<(Client, Arc<Traffic>)> {
    let traffic = way.traffic.unwrap_or_default();
    let to = Subscription {
        interval: plan.interval,
        keep_alive: plan.keep_alive,
        receiver: way.receiver,
        traffic: traffic.clone(),
        ..Subscription::new(way.subscribe, TOPIC)
    };
    Ok((Client::subscribe(technique, to).await?, traffic))
}

async fn listen(
    mut client: Client,
    traffic: Arc<Traffic>,
    plan: Plan,
    begin: time::Instant,
) -> io::Result<Arrivals> {
    sleep_until(begin).await;
    let mut arrivals = receive(&mut client, &traffic, &plan).await?;
    client.close().await?;
    arrivals.whole = traffic.counts();
    Ok(arrivals)
}

/// Until there are enough or nothing more comes.
async fn receive(client: &mut Client, traffic: &Traffic, plan: &Plan) -> io::Result<Arrivals> {
    let patience = PATIENCE + plan.gap * 2 + plan.interval;
    let mut arrivals = Arrivals::default();
    let mut warm = None;
    while arrivals.came.len() < plan.all() {
        let Ok(heard) = timeout(patience, client.next()).await else {
            break;
        };
        let (heard, now) = (heard?, Instant::now());
        for heard in &heard {
            arrivals.came.push((number(heard)?, now));
        }
        plan.delivered.fetch_add(heard.len(), Relaxed);
        match warm {
            None => warm = Some(traffic.counts()),
            Some(_) => arrivals.counted += heard.len() as u64,
        }
    }
    arrivals.steady = traffic.counts() - warm.unwrap_or_default();
    Ok(arrivals)
}

/// A client of this run is never so slow that messages are trimmed.
fn number(heard: &Heard) -> io::Result<usize> {
    match heard {
        Heard::Gap(gap) => Err(io::Error::other(format!("a gap: {gap:?}"))),
        Heard::Message(message) => message.data["seq"]
            .as_u64()
            .map(|seq| seq as usize)
            .ok_or_else(|| io::Error::other(format!("not ours: {message:?}"))),
    }
}

/// Whether the numbers from 0 to `messages` came, each once. Names the first of what is wrong.
fn check(came: &[usize], messages: usize, ordered: bool) -> Result<(), String> {
    let mut seen = vec![false; messages];
    for seq in came {
        match seen.get_mut(*seq) {
            Some(seen) if !*seen => *seen = true,
            Some(_) => return Err(format!("message {seq} came twice")),
            None => return Err(format!("message {seq} was never published")),
        }
    }
    if let Some(seq) = seen.iter().position(|seen| !seen) {
        return Err(format!("message {seq} is missing"));
    }
    match came.windows(2).find(|pair| ordered && pair[0] > pair[1]) {
        Some(pair) => Err(format!("message {} came after {}", pair[1], pair[0])),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_missing_repeated_or_out_of_order_is_named() {
        assert_eq!(check(&[0, 1, 2], 3, true), Ok(()));
        assert_eq!(check(&[1, 0, 2], 3, false), Ok(()));
        let wrong = |came: &[usize]| check(came, 3, true).unwrap_err();
        assert_eq!(wrong(&[0, 2]), "message 1 is missing");
        assert_eq!(wrong(&[0, 1, 1, 2]), "message 1 came twice");
        assert_eq!(wrong(&[0, 2, 1]), "message 1 came after 2");
        assert_eq!(wrong(&[0, 1, 3]), "message 3 was never published");
        assert_eq!(wrong(&[]), "message 0 is missing");
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let measured = |count: u64| Measured {
            latencies: (1..=count).map(Duration::from_millis).collect(),
            counted: count,
            steady: Counts::default(),
            whole: Counts::default(),
            cpu: None,
        };
        for (count, percent, expected) in [
            (1, 50, 1),
            (1, 99, 1),
            (2, 50, 1),
            (100, 50, 50),
            (100, 99, 99),
            (10, 99, 10),
        ] {
            let latency = measured(count).percentile(percent);
            assert_eq!(latency.as_millis(), expected, "p{percent} of {count}");
        }
    }

    #[test]
    fn polls_begin_spread_over_the_interval() {
        let start = time::Instant::now();
        let plan = Plan {
            messages: 1,
            gap: Duration::ZERO,
            start,
            clients: 4,
            interval: Duration::from_secs(2),
            keep_alive: true,
            delivered: Arc::default(),
        };
        let begin = plan.begin(Technique::ShortPolling, 3);
        assert_eq!(begin - start, Duration::from_millis(1_500));
    }
}
