//! One technique on the page: its server, its client, and what the page shows of them.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::{sync::mpsc::UnboundedReceiver, task::JoinHandle};

use super::RETAIN;
use crate::{
    Follower, Heard, Knobs, Process, Publisher, Subscription, Technique, report::Unit,
    table::value, traffic::Traffic,
};

const TOPIC: &str = "live";
/// Between two polls.
const INTERVAL: Duration = Duration::from_secs(1);
/// Until a client reconnects, or is called again.
const RETRY: Duration = Duration::from_secs(1);
/// How often a receiver asks after its endpoint.
const CHECK: Duration = Duration::from_millis(500);
/// How many latencies are kept, for the median.
const REMEMBERED: usize = 50;
/// How many lines a lane shows.
const LINES: usize = 20;

/// A server and its client.
pub(super) struct Lane {
    pub(super) technique: Technique,
    addr: SocketAddr,
    /// Locked during a restart, so that two of them do not overlap.
    process: tokio::sync::Mutex<Process>,
    follower: Follower,
    traffic: Arc<Traffic>,
    story: Arc<Mutex<Story>>,
    /// Writes the story.
    listening: JoinHandle<()>,
}

/// What was sent and what arrived.
#[derive(Debug, Default)]
struct Story {
    published: u64,
    /// When each message was sent that has not arrived yet.
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
    /// Whether it is a gap.
    gap: bool,
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

    /// Publishes the next number. It is dropped while the server is down.
    pub(super) async fn publish(&self) {
        let number = self.story.lock().expect(UNPOISONED).sends();
        // A connection for each message: a kept one would break when the server restarts.
        let data = json!({ "number": number });
        let published = Publisher::new(self.addr).publish(TOPIC, &data).await;
        if published.is_err() {
            self.story.lock().expect(UNPOISONED).sent.remove(&number);
        }
    }

    /// The server's feed is in memory, so a new epoch begins.
    pub(super) async fn restart(&self) -> io::Result<()> {
        self.process.lock().await.restart().await
    }

    pub(super) fn pause(&self, paused: bool) {
        self.follower.pause(paused);
    }

    /// What the page shows; its script knows these names.
    pub(super) fn shown(&self) -> Value {
        let counts = self.traffic.counts();
        let story = self.story.lock().expect(UNPOISONED);
        let time = |latency: Duration| value(latency.as_secs_f64(), Unit::Time);
        let mut latencies = Vec::from(story.latencies.clone());
        latencies.sort_unstable();
        json!({
            "technique": self.technique,
            "name": self.technique.title(),
            "direction": self.technique.direction(),
            "state": self.follower.state(),
            "received": story.received,
            "gaps": story.gaps,
            "last_gap": story.last_gap,
            "latency": story.latencies.front().copied().map(time),
            "median": latencies.get(latencies.len() / 2).copied().map(time),
            "requests": counts.requests,
            "connections": counts.connections,
            "bytes": value(counts.bytes as f64, Unit::Bytes),
            "lines": story.lines,
        })
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
