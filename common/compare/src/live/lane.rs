//! One technique on the page: its server, its client, and what the page shows of them.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::task::AbortOnDropHandle;

use super::RETAIN;
use crate::{
    Follower, Heard, Knobs, Process, Publisher, Subscription, Technique, report::Unit,
    table::value, traffic::Traffic,
};

const TOPIC: &str = "live";
/// Until an endpoint is called again.
const RETRY: Duration = Duration::from_secs(1);
/// How often a receiver asks after its endpoint.
const CHECK: Duration = Duration::from_millis(500);
/// How many messages a lane lists.
const LINES: usize = 20;
const UNPOISONED: &str = "nothing panics under this lock";

/// A server and its client.
pub(super) struct Lane {
    pub(super) technique: Technique,
    addr: SocketAddr,
    /// Locked during a restart, so that two of them do not overlap.
    pub(super) process: tokio::sync::Mutex<Process>,
    pub(super) follower: Follower,
    traffic: Arc<Traffic>,
    story: Arc<Mutex<Story>>,
    /// Writes the story.
    _listening: AbortOnDropHandle<()>,
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
    latency: Option<Duration>,
    /// The messages, newest first.
    lines: VecDeque<String>,
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
            check: CHECK,
            ..Subscription::new(process.addr(), TOPIC)
        };
        let traffic = to.traffic.clone();
        let (follower, hearing) = Follower::start(technique, to).await?;
        let story = Arc::<Mutex<Story>>::default();
        Ok(Self {
            technique,
            addr: process.addr(),
            process: tokio::sync::Mutex::new(process),
            follower,
            traffic,
            _listening: AbortOnDropHandle::new(tokio::spawn(listen(hearing, story.clone()))),
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

    /// What the page shows; its script knows these names.
    pub(super) fn shown(&self) -> Value {
        let counts = self.traffic.counts();
        let story = self.story.lock().expect(UNPOISONED);
        let latency = story
            .latency
            .map(|time| value(time.as_secs_f64(), Unit::Time));
        json!({
            "technique": self.technique,
            "name": self.technique.title(),
            "state": self.follower.state(),
            "received": story.received,
            "gaps": story.gaps,
            "last_gap": story.last_gap,
            "latency": latency,
            "requests": counts.requests,
            "connections": counts.connections,
            "bytes": value(counts.bytes as f64, Unit::Bytes),
            "lines": story.lines,
        })
    }
}

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
        match heard {
            Heard::Message(message) => {
                self.received += 1;
                let number = message.data["number"].as_u64().unwrap_or_default();
                let sent = self.sent.remove(&number);
                self.latency = sent.map(|sent| now - sent).or(self.latency);
                self.lines.push_front(format!("{number} · {}", message.id));
                self.lines.truncate(LINES);
            }
            Heard::Gap(gap) => {
                self.gaps += 1;
                let text = format!("gap, {}: {} … {}", gap.reason, gap.requested, gap.resumed);
                self.last_gap = Some(text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Gap, Message};

    #[test]
    fn a_story_has_the_latency_of_what_came_and_the_last_gap() {
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
        assert_eq!(story.latency, Some(Duration::from_millis(7)));
        assert_eq!((story.received, story.gaps), (1, 1));
        assert_eq!(story.last_gap.as_deref(), Some("gap, trimmed: e-1 … e-9"));
        assert_eq!(story.lines[0], "1 · e-1");
        assert!(story.sent.is_empty());
    }
}
