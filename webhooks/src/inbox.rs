//! What the receiver got, each event once.
//!
//! A sender repeats what it was not sure of, so an event may arrive any number of times. Its
//! `webhook-id` is signed and the same each time: it is the key under which the event is published to
//! a feed, and a key that is known publishes nothing. From there any technique can carry it on.
//!
//! The feed lives in memory: it remembers the keys of 24 hours, at most 100,000, and a restart
//! forgets all. Whoever needs more stores the event and syncs it to disk before the 200.

use bytes::Bytes;
use common::{After, Data, Draft, Feed, FeedError, IdempotencyKey, Page, PageLimit, Topic};
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::{info, warn};

use crate::verify::{Verified, standard::Event};

/// The topic of all that was received.
const TOPIC: &str = "webhook";

/// The events, oldest first.
pub(crate) struct Inbox {
    feed: Feed,
    topic: Topic,
}

impl Inbox {
    pub(crate) fn new(feed: Feed) -> Self {
        let topic = TOPIC.parse().expect("the constant is a topic");
        Self { feed, topic }
    }

    /// Keeps an event, unless it is there already. Either way the sender has done its duty.
    ///
    /// # Errors
    /// If the event could not be kept, and has to be sent again.
    pub(crate) async fn store(&self, event: &Verified<Event<Bytes>>) -> Result<(), FeedError> {
        let id = &event.id;
        let key: IdempotencyKey = id.parse().expect("a verified id is a key: visible ASCII");
        let published = self
            .feed
            .publish_once(self.topic.clone(), draft(event), key);
        match published.await {
            Ok(published) if published.duplicate => info!(id, "a repeat"),
            Ok(_) => info!(id, secret = event.secret, "received"),
            // Genuine, and against the scheme. To be told so would not help its sender.
            Err(FeedError::KeyReused(_)) => warn!(id, "the id of another event: dropped"),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What was received after a cursor.
    pub(crate) async fn read(&self, after: &After) -> Result<Page, FeedError> {
        let topics = self.topic.clone().into();
        self.feed.read(&topics, after, PageLimit::default()).await
    }
}

/// What of an event all attempts have in common: `{"id":"…","payload":…}`. A payload that is not
/// JSON is genuine all the same; it becomes a string.
fn draft(event: &Event<Bytes>) -> Draft {
    let payload = Data::json(&event.body)
        .unwrap_or_else(|_| Data::text(&String::from_utf8_lossy(&event.body)));
    let id = Data::text(&event.id);
    let data = format!(r#"{{"id":{},"payload":{}}}"#, id.as_str(), payload.as_str());
    Draft {
        kind: kind(&event.body).unwrap_or_default(),
        // Deeper by one than the payload, which may have been at the limit already.
        data: Data::json(data.as_bytes()).unwrap_or(payload),
    }
}

/// The payload's `type`, if it has one that can be a message's.
fn kind(payload: &[u8]) -> Option<common::MessageType> {
    #[derive(Deserialize)]
    struct Typed<'a> {
        #[serde(borrow)]
        r#type: &'a RawValue,
    }
    let typed: Typed<'_> = serde_json::from_slice(payload).ok()?;
    let kind: String = serde_json::from_str(typed.r#type.get()).ok()?;
    kind.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drafted(body: &[u8]) -> (String, String) {
        let event = Event {
            id: "msg_1".into(),
            timestamp: 0,
            body: Bytes::copy_from_slice(body),
            secret: 0,
        };
        let draft = draft(&event);
        (draft.kind.to_string(), draft.data.to_string())
    }

    #[test]
    fn any_genuine_payload_can_be_kept() {
        let nested = "[".repeat(128) + &"]".repeat(128);
        for (body, kind, payload) in [
            (
                r#"{"type":"a.b","data":1.0}"#,
                "a.b",
                r#"{"type":"a.b","data":1.0}"#,
            ),
            (
                r#"{"type":"not a type"}"#,
                "message",
                r#"{"type":"not a type"}"#,
            ),
            (r#"{"type":7}"#, "message", r#"{"type":7}"#),
            ("[1]", "message", "[1]"),
            ("", "message", r#""""#),
            ("{", "message", r#""{""#),
        ] {
            let expected = format!(r#"{{"id":"msg_1","payload":{payload}}}"#);
            assert_eq!(drafted(body.as_bytes()), (kind.into(), expected), "{body}");
        }
        assert_eq!(drafted(nested.as_bytes()).1, nested);
        assert_eq!(
            drafted(b"\xff").1,
            "{\"id\":\"msg_1\",\"payload\":\"\u{fffd}\"}"
        );
    }
}
