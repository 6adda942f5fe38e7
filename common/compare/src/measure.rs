//! One lane: a run of messages published to one server, and what came of it at its client.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::time::{self, sleep_until, timeout};

use crate::{
    Technique,
    clients::{Client, Publisher, Subscription},
    traffic::Traffic,
};

/// How long nothing may come, beyond the gap between two messages and the interval of polls, until
/// what is not there counts as missing.
const PATIENCE: Duration = Duration::from_secs(5);

/// A run of messages.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many, at least one.
    pub messages: usize,
    /// Between two of them, on average.
    pub gap: Duration,
    /// When the first is due.
    pub start: time::Instant,
    /// Between two polls of the short-polling client.
    pub interval: Duration,
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
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Of which technique.
    pub technique: Technique,
    /// From just before the publishing POST is written until the client has the message; sorted.
    pub latencies: Vec<Duration>,
    /// HTTP requests on the receiving side, whoever sent them.
    pub requests: u64,
    /// Bytes on the receiving side's sockets in both directions. Only what the programs write and
    /// read: TCP's own packets, such as those that make a connection, are not in it.
    pub bytes: u64,
}

impl Measured {
    /// The latency that `percent` of all messages have at most.
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.latencies.len() * percent).div_ceil(100);
        self.latencies[rank.max(1) - 1]
    }

    /// Requests per message.
    pub fn requests_per_message(&self) -> f64 {
        self.requests as f64 / self.latencies.len() as f64
    }

    /// Bytes on the wire per message.
    pub fn bytes_per_message(&self) -> f64 {
        self.bytes as f64 / self.latencies.len() as f64
    }
}

/// Publishes by `plan` to the `server` of `technique` and receives through its client.
///
/// `reroute` is told the address where the one who takes connections listens, and gives the one to
/// connect to: there a test puts its proxy. For webhooks it is the receiver who listens. Publishing
/// goes to the server directly.
///
/// # Errors
/// If a connection fails, or if a message was missing, repeated or, where order is kept, out of it.
pub async fn measure(
    technique: Technique,
    server: SocketAddr,
    reroute: impl AsyncFnOnce(SocketAddr) -> SocketAddr,
    plan: &Plan,
) -> io::Result<Measured> {
    let traffic = Arc::<Traffic>::default();
    let subscription = Subscription {
        server,
        interval: plan.interval,
        traffic: traffic.clone(),
    };
    let mut client = Client::subscribe(technique, subscription, reroute).await?;
    let publisher = Publisher::connect(server).await?;
    let (sent, arrivals) = tokio::try_join!(publish(publisher, plan), receive(&mut client, plan))?;
    client.close().await?;
    let order: Vec<usize> = arrivals.iter().map(|(seq, _)| *seq).collect();
    check(&order, plan.messages, technique.keeps_order())
        .map_err(|wrong| io::Error::other(format!("{technique}: {wrong}")))?;
    let latency = |(seq, at): &(usize, Instant)| at.duration_since(sent[*seq]);
    let mut latencies: Vec<Duration> = arrivals.iter().map(latency).collect();
    latencies.sort_unstable();
    Ok(Measured {
        technique,
        latencies,
        requests: traffic.requests(),
        bytes: traffic.bytes(),
    })
}

/// When each message was sent.
async fn publish(mut publisher: Publisher, plan: &Plan) -> io::Result<Vec<Instant>> {
    let mut sent = Vec::with_capacity(plan.messages);
    for seq in 0..plan.messages {
        sleep_until(plan.due(seq)).await;
        sent.push(Instant::now());
        publisher.publish(seq).await?;
    }
    Ok(sent)
}

/// The numbers that came and when, in their order, until there are enough or nothing more comes.
async fn receive(client: &mut Client, plan: &Plan) -> io::Result<Vec<(usize, Instant)>> {
    let patience = PATIENCE + plan.gap * 2 + plan.interval;
    let mut arrivals = Vec::with_capacity(plan.messages);
    while arrivals.len() < plan.messages {
        let Ok(messages) = timeout(patience, client.next()).await else {
            break;
        };
        let messages = messages?;
        let now = Instant::now();
        plan.delivered.fetch_add(messages.len(), Relaxed);
        arrivals.extend(messages.iter().map(|message| (message.seq(), now)));
    }
    Ok(arrivals)
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
            technique: Technique::Sse,
            latencies: (1..=count).map(Duration::from_millis).collect(),
            requests: 1,
            bytes: 1,
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
}
