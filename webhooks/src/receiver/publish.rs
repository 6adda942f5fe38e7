//! The receiver's built-in effects: publish each event, and count it. Replace them by your own.

use common::{Data, Draft, Feed, IdempotencyKey, Topic};
use rusqlite::Connection;

use super::{
    inbox::{InTransaction, StoredEvent},
    work::Effects,
};

/// Publishes to a feed.
pub(super) struct Publish(pub(super) Feed);

impl Effects for Publish {
    /// The effect outside the inbox: a message. Its idempotency key is the event's, so a second attempt
    /// publishes nothing new.
    async fn apply(&self, event: &StoredEvent) -> Result<InTransaction, String> {
        let parsed = event.key().parse::<IdempotencyKey>();
        let key = parsed.map_err(|error| error.to_string())?;
        let published = self.0.publish_once(topic(event), draft(event), key);
        published.await.map_err(|error| error.to_string())?;
        let (source, kind) = (event.source.clone(), event.kind.clone());
        Ok(Box::new(move |database| count(database, &source, &kind)))
    }
}

/// The effect inside the inbox: a counter. A test can see there that no event is counted twice.
fn count(database: &Connection, source: &str, kind: &str) -> rusqlite::Result<()> {
    // Creates the table at the first event, because the inbox does not know what these effects need.
    add_one(database, source, kind).or_else(|_| {
        database.execute_batch(
            "CREATE TABLE IF NOT EXISTS counts
             (source TEXT, type TEXT, events INTEGER, PRIMARY KEY (source, type)) STRICT",
        )?;
        add_one(database, source, kind)
    })
}

fn add_one(database: &Connection, source: &str, kind: &str) -> rusqlite::Result<()> {
    let mut count = database.prepare_cached(
        "INSERT INTO counts VALUES (?1, ?2, 1) ON CONFLICT DO UPDATE SET events = events + 1",
    )?;
    count.execute([source, kind]).map(drop)
}

/// `webhook`, or `webhook.SOURCE`.
fn topic(event: &StoredEvent) -> Topic {
    let topic = match event.source.as_str() {
        "standard" => "webhook".to_owned(),
        source => format!("webhook.{source}"),
    };
    topic.parse().expect("a source's name is a topic's word")
}

/// `{"id":"…","payload":…}`. A payload that is not JSON becomes a string.
fn draft(event: &StoredEvent) -> Draft {
    let payload = Data::json(&event.payload)
        .unwrap_or_else(|_| Data::text(&String::from_utf8_lossy(&event.payload)));
    let id = Data::text(&event.id);
    let data = format!(r#"{{"id":{},"payload":{}}}"#, id.as_str(), payload.as_str());
    Draft {
        kind: event.kind.parse().unwrap_or_default(),
        // One level deeper than the payload: if that is over the nesting limit, the payload goes alone.
        data: Data::json(data.as_bytes()).unwrap_or(payload),
    }
}
