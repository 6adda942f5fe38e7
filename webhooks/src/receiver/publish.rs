//! The receiver's built-in effects: publish each event, and count it. Pass your own to `run_with`.

use common::{Data, Draft, Feed, IdempotencyKey, Topic};
use rusqlite::Connection;

use super::{
    inbox::{InTransaction, StoredEvent},
    work::Effects,
};

/// Publishes each event to this feed, on the topic `webhook` or `webhook.SOURCE`, and counts it in the inbox.
#[derive(Debug)]
pub struct Publish(pub Feed);

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
    // Here, because the inbox does not know which tables the effects need.
    database
        .prepare_cached(
            "CREATE TABLE IF NOT EXISTS counts
             (source TEXT, type TEXT, events INTEGER, PRIMARY KEY (source, type)) STRICT",
        )?
        .execute([])?;
    database
        .prepare_cached(
            "INSERT INTO counts VALUES (?1, ?2, 1) ON CONFLICT DO UPDATE SET events = events + 1",
        )?
        .execute([source, kind])
        .map(drop)
}

/// `webhook`, or `webhook.SOURCE`.
fn topic(event: &StoredEvent) -> Topic {
    let topic = match event.source.as_str() {
        "standard" => "webhook".to_owned(),
        source => format!("webhook.{source}"),
    };
    topic.parse().expect("a source's name is a topic's word")
}

/// `{"id":"…","payload":…}`.
fn draft(event: &StoredEvent) -> Draft {
    let payload = payload_json(&event.payload);
    let id = Data::text(&event.id);
    let data = format!(r#"{{"id":{},"payload":{}}}"#, id.as_str(), payload.as_str());
    Draft {
        kind: event.kind.parse().unwrap_or_default(),
        // One level deeper than the payload: if that is over the nesting limit, the payload goes alone.
        data: Data::json(data.as_bytes()).unwrap_or(payload),
    }
}

/// The payload as it came, without the line breaks between its tokens. If it is not JSON, or common parsers
/// refuse it, it becomes a string (see [`Data::json`]).
pub(super) fn payload_json(payload: &[u8]) -> Data {
    Data::json(payload).unwrap_or_else(|_| Data::text(&String::from_utf8_lossy(payload)))
}
