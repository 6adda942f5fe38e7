//! One lane: messages published to one server, and what arrived at its clients.
//!
//! The first message only warms up. A client counts from its arrival to the arrival of the last message.
//! So connecting is not counted, and a value per message does not depend on the number of messages.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    StreamExt, TryStreamExt,
    future::{ready, try_join_all},
};
use serde_json::json;
use tokio::time::{self, sleep_until, timeout};

use crate::{
    Technique,
    clients::{Client, Heard, Publisher, Subscription, subscribe},
    process::Process,
    traffic::{Counts, Traffic},
};

/// How late a message may be, beyond the gap between two messages and the interval of polls.
const PATIENCE: Duration = Duration::from_secs(5);

/// A run of messages.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many, after the one for warming up; at least one.
    pub messages: usize,
    /// The average time between two messages.
    pub gap: Duration,
    /// When the first is due. It waits until all clients have subscribed.
    pub start: time::Instant,
    /// How many clients. Polls are spread over the interval.
    pub clients: usize,
}

impl Plan {
    /// When message `seq` is published. Steps of the golden ratio spread the messages evenly over
    /// every interval, so that they do not run in step with the polls.
    fn due(&self, seq: usize) -> time::Instant {
        const GOLDEN: f64 = 0.618_033_988_749_895;
        let seq = seq as f64;
        self.start + self.gap.mul_f64(seq + (seq * GOLDEN).fract())
    }

    /// When polling client `number` begins.
    fn begin(&self, interval: Duration, number: usize) -> time::Instant {
        self.start + interval.mul_f64(number as f64 / self.clients as f64)
    }

    /// The messages, and the one for warming up.
    fn all(&self) -> usize {
        self.messages + 1
    }
}

/// The result of a run, over all clients.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// From before the publishing POST is written until a client has the message; sorted.
    pub latencies: Vec<Duration>,
    /// Messages that were counted.
    pub counted: u64,
    /// What the clients counted while these arrived.
    pub steady: Counts,
    /// The server's processor time per delivery, publishing included.
    pub cpu: Option<Duration>,
}

impl Measured {
    /// The latency that `percent` of all messages have at most, by nearest rank.
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.latencies.len() * percent).div_ceil(100);
        self.latencies[rank.max(1) - 1]
    }

    /// This count, divided by the messages.
    pub fn per_message(&self, count: u64) -> f64 {
        count as f64 / self.counted.max(1) as f64
    }

    /// Adds what a client has. Fails unless that is each message once, and in order if `ordered`.
    fn add(&mut self, client: &Arrivals, sent: &[Instant], ordered: bool) -> Result<(), String> {
        let mut seqs: Vec<usize> = client.came.iter().map(|(seq, _)| *seq).collect();
        if !ordered {
            seqs.sort_unstable();
        }
        if !seqs.iter().copied().eq(0..sent.len()) {
            let count = sent.len();
            return Err(format!(
                "{count} messages were sent, and these came: {seqs:?}"
            ));
        }
        let after_warm_up = client.came.iter().filter(|(seq, _)| *seq > 0);
        let latencies = after_warm_up.map(|(seq, at)| at.duration_since(sent[*seq]));
        self.latencies.extend(latencies);
        self.counted += client.counted;
        self.steady = self.steady.plus(client.steady);
        Ok(())
    }
}

/// What one client received and counted.
#[derive(Debug, Default)]
struct Arrivals {
    /// The numbers of the messages in the order of their arrival, and when they came.
    came: Vec<(usize, Instant)>,
    counted: u64,
    steady: Counts,
}

/// Publishes to `server` by `plan`, and receives with clients that subscribe by `to`. So a test can put a
/// proxy in between.
///
/// # Errors
/// If a connection fails, or a message was missing, repeated or, where order is kept, out of it.
pub async fn measure(
    technique: Technique,
    server: SocketAddr,
    to: Subscription,
    process: Option<&Process>,
    plan: &Plan,
) -> io::Result<Measured> {
    let subscribing = (0..plan.clients).map(|_| counted(technique, to.clone(), plan.clients));
    let clients = try_join_all(subscribing).await?;
    // Subscribing may have taken longer than planned.
    let mut plan = plan.clone();
    plan.start = plan.start.max(time::Instant::now());
    let patience = PATIENCE + plan.gap * 2 + to.interval;
    let listening = clients.into_iter().enumerate().map(|(number, client)| {
        let begin = match technique {
            Technique::ShortPolling => plan.begin(to.interval, number),
            _ => time::Instant::now(),
        };
        listen(client, plan.all(), begin, patience)
    });
    let publishing = publish(Publisher::new(server), &to.topics, process, &plan);
    let ((sent, before), arrivals) = tokio::try_join!(publishing, try_join_all(listening))?;
    let spent = process.and_then(Process::cpu_time).zip(before);
    let mut measured = Measured::default();
    for client in arrivals {
        measured
            .add(&client, &sent, technique.keeps_order())
            .map_err(|wrong| io::Error::other(format!("{technique}: {wrong}")))?;
    }
    measured.latencies.sort_unstable();
    let deliveries = measured.latencies.len() as u32;
    measured.cpu = spent.map(|(after, before)| after.saturating_sub(before) / deliveries);
    Ok(measured)
}

/// Each of several clients counts by itself. A single one counts in `to.traffic`, where a test can read it.
async fn counted(
    technique: Technique,
    mut to: Subscription,
    clients: usize,
) -> io::Result<(Client, Arc<Traffic>)> {
    if clients > 1 {
        to.traffic = Arc::default();
    }
    let traffic = to.traffic.clone();
    Ok((subscribed(technique, to).await?, traffic))
}

/// A client that says only what it heard, and not that its position moved.
pub(super) async fn subscribed(technique: Technique, to: Subscription) -> io::Result<Client> {
    let client = subscribe(technique, to).await?;
    let heard = client.try_filter(|news| ready(!news.heard.is_empty()));
    Ok(heard.boxed())
}

/// Returns when each message was sent, and the server's processor time after warming up.
async fn publish(
    mut publisher: Publisher,
    topic: &str,
    process: Option<&Process>,
    plan: &Plan,
) -> io::Result<(Vec<Instant>, Option<Duration>)> {
    let (mut sent, mut cpu) = (Vec::with_capacity(plan.all()), None);
    for seq in 0..plan.all() {
        sleep_until(plan.due(seq)).await;
        // The server's start and the first message are not counted.
        if seq == 1 {
            cpu = process.and_then(Process::cpu_time);
        }
        sent.push(Instant::now());
        let data = json!({ "seq": seq, "status": "success" });
        publisher.publish(topic, &data).await?;
    }
    Ok((sent, cpu))
}

/// Receives until there are enough messages, or nothing more comes.
async fn listen(
    (mut client, traffic): (Client, Arc<Traffic>),
    messages: usize,
    begin: time::Instant,
    patience: Duration,
) -> io::Result<Arrivals> {
    sleep_until(begin).await;
    let mut arrivals = Arrivals::default();
    let mut warm = None;
    while arrivals.came.len() < messages {
        let Ok(news) = timeout(patience, client.try_next()).await else {
            break;
        };
        let (news, now) = (news?.ok_or(io::ErrorKind::UnexpectedEof)?, Instant::now());
        for heard in &news.heard {
            arrivals.came.push((number(heard)?, now));
        }
        match warm {
            None => warm = Some(traffic.counts()),
            Some(_) => arrivals.counted += news.heard.len() as u64,
        }
    }
    arrivals.steady = traffic.counts().since(warm.unwrap_or_default());
    Ok(arrivals)
}

/// These clients are never so slow that messages are trimmed: a gap is an error.
fn number(heard: &Heard) -> io::Result<usize> {
    let number = match heard {
        Heard::Gap(_) => None,
        Heard::Message(message) => message.data["seq"].as_u64(),
    };
    match number {
        Some(seq) => Ok(seq as usize),
        None => Err(io::Error::other(format!("unexpected: {heard:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_must_come_once_and_in_order_where_that_is_kept() {
        let now = Instant::now();
        let added = |seqs: &[usize], ordered| {
            let client = Arrivals {
                came: seqs.iter().map(|seq| (*seq, now)).collect(),
                ..Arrivals::default()
            };
            Measured::default().add(&client, &[now; 3], ordered)
        };
        assert_eq!(added(&[0, 1, 2], true), Ok(()));
        assert_eq!(added(&[1, 0, 2], false), Ok(()));
        for wrong in [&[0, 2][..], &[0, 1, 1, 2], &[0, 2, 1], &[0, 1, 3], &[]] {
            let error = added(wrong, true).unwrap_err();
            assert_eq!(
                error,
                format!("3 messages were sent, and these came: {wrong:?}")
            );
        }
        assert!(added(&[0, 1, 1], false).is_err());
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let measured = |count: u64| Measured {
            latencies: (1..=count).map(Duration::from_millis).collect(),
            ..Measured::default()
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
        };
        let begin = plan.begin(Duration::from_secs(2), 3);
        assert_eq!(begin - start, Duration::from_millis(1_500));
    }
}
