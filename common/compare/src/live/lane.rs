//! One of the five: its server, its client, and what the page is shown of them.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::json;
use tokio::{sync::mpsc::UnboundedReceiver, task::JoinHandle};

use super::RETAIN;
use crate::{
    Follower, Heard, Knobs, Process, Publisher, Subscription, Technique, report::Unit,
    table::value, traffic::Traffic,
};

const TOPIC: &str = "live";
/// Between two polls.
const INTERVAL: Duration = Duration::from_secs(1);
/// Until who was cut off comes again, or is called again.
const RETRY: Duration = Duration::from_secs(1);
/// How often a receiver asks after its endpoint.
const CHECK: Duration = Duration::from_millis(500);
/// How many latencies are remembered, for the median.
const REMEMBERED: usize = 50;
/// How many lines.
const LINES: usize = 20;

/// A server and its client.
pub(super) struct Lane {
    pub(super) technique: Technique,
    addr: SocketAddr,
    process: tokio::sync::Mutex<Process>,
    follower: Follower,
    traffic: Arc<Traffic>,
    story: Arc<Mutex<Story>>,
    /// Keeps the story.
    listening: JoinHandle<()>,
}

/// What was sent and what came.
#[derive(Debug, Default)]
struct Story {
    published: u64,
    /// When each message was sent that has not come yet.
    sent: HashMap<u64, Instant>,
    received: u64,
    gaps: u64,
    last_gap: Option<String>,
    latencies: VecDeque<Duration>,
    /// Newest first.
    lines: VecDeque<Line>,
}

/// A line in the lane.
#[derive(Debug, Clone, Serialize)]
struct Line {
    text: String,
    /// It is a gap.
    gap: bool,
}

/// What the page is shown.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    technique: Technique,
    name: &'static str,
    direction: &'static str,
    state: &'static str,
    received: u64,
    gaps: u64,
    last_gap: Option<String>,
    /// The last one, and half of the last ones.
    latency: Option<String>,
    median: Option<String>,
    requests: u64,
    connections: u64,
    bytes: String,
    lines: Vec<Line>,
}

impl Lane {
    pub(super) async fn start(program: &Path, technique: Technique) -> io::Result<Self> {
        let knobs = Knobs {
            retain: RETAIN,
            retry: Some(RETRY),
            ..Knobs::default()
        };
        let process = Process::start(program, technique, knobs).await?;
        let to = Subscription {
            interval: INTERVAL,
            ..Subscription::new(process.addr(), TOPIC)
        };
        let traffic = to.traffic.clone();
        let (follower, hearing) = Follower::start(technique, to, CHECK).await?;
        let story = Arc::<Mutex<Story>>::default();
        Ok(Self {
            technique,
            addr: process.addr(),
            process: tokio::sync::Mutex::new(process),
            follower,
            traffic,
            listening: tokio::spawn(listen(hearing, story.clone())),
            story,
        })
    }

    /// Publishes the next number. While the server is down it is nobody's.
    pub(super) async fn publish(&self) {
        let number = self.story.lock().expect(UNPOISONED).sends();
        let data = json!({ "number": number });
        let published = Publisher::new(self.addr).publish(TOPIC, &data).await;
        if published.is_err() {
            self.story.lock().expect(UNPOISONED).sent.remove(&number);
        }
    }

    /// Another life of the server: its feed was in memory.
    pub(super) async fn restart(&self) -> io::Result<()> {
        self.process.lock().await.restart().await
    }

    pub(super) fn pause(&self, paused: bool) {
        self.follower.pause(paused);
    }

    pub(super) fn shown(&self) -> Shown {
        let rating = self.technique.rating();
        let counts = self.traffic.counts();
        let story = self.story.lock().expect(UNPOISONED);
        let time = |latency: Duration| value(latency.as_secs_f64(), Unit::Time);
        let mut latencies: Vec<Duration> = story.latencies.iter().copied().collect();
        latencies.sort_unstable();
        Shown {
            technique: self.technique,
            name: rating.name,
            direction: rating.direction,
            state: self.follower.state().as_str(),
            received: story.received,
            gaps: story.gaps,
            last_gap: story.last_gap.clone(),
            latency: story.latencies.front().copied().map(time),
            median: latencies.get(latencies.len() / 2).copied().map(time),
            requests: counts.requests,
            connections: counts.connections,
            bytes: value(counts.bytes as f64, Unit::Bytes),
            lines: story.lines.iter().cloned().collect(),
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

const UNPOISONED: &str = "nothing panics under this lock";

async fn listen(mut hearing: UnboundedReceiver<Heard>, story: Arc<Mutex<Story>>) {
    while let Some(heard) = hearing.recv().await {
        story.lock().expect(UNPOISONED).hears(heard, Instant::now());
    }
}

impl Story {
    fn sends(&mut self) -> u64 {
        self.published += 1;
        self.sent.insert(self.published, Instant::now());
        self.published
    }

    fn hears(&mut self, heard: Heard, now: Instant) {
        let line = match heard {
            Heard::Message(message) => {
                self.received += 1;
                let number = message.data["number"].as_u64().unwrap_or_default();
                let sent = self.sent.remove(&number);
                if let Some(sent) = sent {
                    self.latencies.push_front(now - sent);
                    self.latencies.truncate(REMEMBERED);
                }
                Line {
                    text: format!("{number} · {}", message.id),
                    gap: false,
                }
            }
            Heard::Gap(gap) => {
                self.gaps += 1;
                let text = format!("gap, {}: {} … {}", gap.reason, gap.requested, gap.resumed);
                self.last_gap = Some(text.clone());
                Line { text, gap: true }
            }
        };
        self.lines.push_front(line);
        self.lines.truncate(LINES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Gap, Message};

    #[test]
    fn a_story_has_the_latency_of_what_came_and_a_line_for_each_gap() {
        let mut story = Story::default();
        let number = story.sends();
        let sent = story.sent[&number];
        let message = Message {
            id: "e-1".to_owned(),
            topic: TOPIC.to_owned(),
            data: json!({ "number": number }),
        };
        story.hears(Heard::Message(message), sent + Duration::from_millis(7));
        story.hears(
            Heard::Gap(Gap {
                reason: "trimmed".to_owned(),
                topics: vec![TOPIC.to_owned()],
                requested: "e-1".to_owned(),
                resumed: "e-9".to_owned(),
            }),
            sent,
        );
        assert_eq!(story.latencies, [Duration::from_millis(7)]);
        assert_eq!((story.received, story.gaps), (1, 1));
        assert_eq!(story.lines[0].text, "gap, trimmed: e-1 … e-9");
        assert_eq!(story.lines[1].text, "1 · e-1");
        assert!(story.sent.is_empty());
    }
}
