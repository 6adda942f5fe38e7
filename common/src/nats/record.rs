//! A message as the stream stores it: `{"type":"T","timestamp":"…","data":…}`. The id and
//! the topic are not in it: they are the sequence and the subject. So every process builds the same JSON.

use std::time::SystemTime;

use bytes::Bytes;

use crate::feed::{Cursor, Data, Draft, Message, Topic, timestamp};

use super::shape::STREAM;

/// A message as the stream has it.
#[derive(Debug, PartialEq)]
pub(super) struct Record {
    pub(super) topic: Topic,
    pub(super) draft: Draft,
    pub(super) published: SystemTime,
}

pub(super) fn encode(draft: &Draft, published: SystemTime) -> Bytes {
    let Draft { kind, data } = draft;
    let timestamp = timestamp(published);
    format!(r#"{{"type":"{kind}","timestamp":"{timestamp}","data":{data}}}"#).into()
}

impl Record {
    /// Accepts exactly what [`encode`] writes. Other programs may publish to the stream's subjects, but readers
    /// must get only what this program would have accepted.
    pub(super) fn decode(subject: &str, payload: &[u8]) -> Result<Self, String> {
        let topic = subject
            .strip_prefix(STREAM)
            .and_then(|rest| rest.strip_prefix('.'))
            .ok_or("its subject belongs to another stream")?;
        let parts = str::from_utf8(payload).ok().and_then(parts);
        let (kind, timestamp, data) = parts.ok_or("it is not in the feed's format")?;
        Ok(Self {
            topic: topic.parse().map_err(|error| format!("{error}"))?,
            draft: Draft {
                kind: kind.parse().map_err(|error| format!("{error}"))?,
                data: Data::json(data.as_bytes()).map_err(|error| error.to_string())?,
            },
            published: humantime::parse_rfc3339(timestamp).map_err(|error| error.to_string())?,
        })
    }

    pub(super) fn message(self, id: Cursor) -> Message {
        Message::encode(id, self.topic, self.draft, self.published)
    }
}

/// Split by hand: a JSON parser would lose the spaces around the data, which must stay byte for byte.
fn parts(record: &str) -> Option<(&str, &str, &str)> {
    let rest = record.strip_prefix(r#"{"type":""#)?.strip_suffix('}')?;
    let (kind, rest) = rest.split_once(r#"","timestamp":""#)?;
    let (timestamp, data) = rest.split_once(r#"","data":"#)?;
    Some((kind, timestamp, data))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_record_is_the_documented_bytes_and_comes_back_as_it_was() {
        let published = UNIX_EPOCH + Duration::from_millis(1_795_456_551_123);
        for data in [r#" {"a" : 1}	"#, r#"{"timestamp":"","data":""}"#, "null"] {
            let draft = Draft {
                kind: "a.b".parse().unwrap(),
                data: Data::json(data.as_bytes()).unwrap(),
            };
            let payload = encode(&draft, published);
            let bytes =
                format!(r#"{{"type":"a.b","timestamp":"2026-11-23T17:55:51.123Z","data":{data}}}"#);
            assert_eq!(payload, bytes);
            let topic = "x.y".parse().unwrap();
            let record = Record {
                topic,
                draft,
                published,
            };
            assert_eq!(Record::decode("FEED.x.y", &payload), Ok(record));
        }
    }

    #[test]
    fn what_this_program_would_not_have_taken_is_no_record() {
        let good = r#"{"type":"t","timestamp":"2026-11-23T17:55:51.123Z","data":1}"#;
        assert!(Record::decode("FEED.a", good.as_bytes()).is_ok());
        for (subject, payload) in [
            ("FEED", good),
            ("FEEDa", good),
            ("FEED.a b", good),
            ("FEED.a", ""),
            ("FEED.a", "hello"),
            (
                "FEED.a",
                r#"{"type":"","timestamp":"2026-11-23T17:55:51.123Z","data":1}"#,
            ),
            ("FEED.a", r#"{"type":"t","timestamp":"now","data":1}"#),
            (
                "FEED.a",
                r#"{"type":"t","timestamp":"2026-11-23T17:55:51.123Z","data":1,"x":2}"#,
            ),
            (
                "FEED.a",
                r#"{"type":"t","timestamp":"2026-11-23T17:55:51.123Z","data":"\ud800"}"#,
            ),
        ] {
            assert!(
                Record::decode(subject, payload.as_bytes()).is_err(),
                "{subject} {payload}"
            );
        }
    }
}
