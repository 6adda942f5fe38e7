//! What happened, in the order in which it happened: a feed, read by the page as an event stream.

use std::time::SystemTime;

use common::{Data, Draft, Feed, Retention};
use serde_json::{Value, json};

use crate::Technique;

/// How many events of each kind are kept for a page that opens: about half a minute of traffic.
const EVENTS: usize = 500;

/// A kind of event is a topic, so that traffic does not trim what the buttons did. The page's script
/// knows the kinds and the names in their data.
pub(super) struct Log {
    pub(super) feed: Feed,
    /// The lane whose events these are, if it is one lane's.
    lane: Option<Technique>,
}

impl Log {
    pub(super) fn new() -> Self {
        let feed = Feed::new(Retention {
            messages: EVENTS,
            ..Retention::default()
        });
        Self { feed, lane: None }
    }

    /// The same log, with the lane's name in each event.
    pub(super) fn of_lane(&self, technique: Technique) -> Self {
        Self {
            feed: self.feed.handle(),
            lane: Some(technique),
        }
    }

    /// Publishes an event of this kind, with its time in milliseconds.
    pub(super) async fn tell(&self, kind: &str, mut data: Value) {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        data["at"] = json!(now.as_secs_f64() * 1_000.0);
        if let Some(lane) = self.lane {
            data["lane"] = json!(lane);
        }
        let topic = kind.parse().expect("every kind is a topic");
        let draft = Draft::new(Data::stored(&data.to_string()));
        // A feed in memory fails only when it is closed.
        let _ = self.feed.publish(topic, draft).await;
    }
}
