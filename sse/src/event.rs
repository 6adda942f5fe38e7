//! The wire form of an event stream (HTML Standard §9.2.5), as pure functions.
//!
//! Nothing that is written here contains a line break: ids are cursors, and data is JSON on one line.
//! So no message can inject a field or split a block.

use std::{io::Write as _, time::Duration};

use common::{Cursor, Page};

/// The first block. The comment is there because some clients wait for a first byte. The `id` is
/// where the stream starts: a client that is cut off before the first message resumes there.
pub fn opening(retry: Duration, start: Option<Cursor>) -> String {
    let id = start.map_or(String::new(), |start| format!("id: {start}\n"));
    format!(": hello\n{}{id}\n", retry_field(retry))
}

/// The last block of a stream that the server ends, and the only one of a stream that it refuses.
pub fn farewell(reason: &str, retry: Duration) -> String {
    format!(": {reason}\n{}\n", retry_field(retry))
}

fn retry_field(retry: Duration) -> String {
    format!("retry: {}\n", retry.as_millis())
}

/// An id without data. It moves the client's `Last-Event-ID` and fires no event
/// (HTML §9.2.6, step 1 of dispatching comes before the return for empty data).
///
/// ```
/// let position = "m3k9qf-42".parse().unwrap();
/// assert_eq!(sse::event::checkpoint(position), "id: m3k9qf-42\n\n");
/// ```
pub fn checkpoint(position: Cursor) -> String {
    format!("id: {position}\n\n")
}

/// A checkpoint with an event, for pages. A script cannot see a bare checkpoint, so it could not tell
/// a dead connection from a quiet one.
pub fn heartbeat(position: Cursor) -> String {
    format!("event: heartbeat\nid: {position}\ndata: {{\"next\":\"{position}\"}}\n\n")
}

/// A page: its gap, then its messages, then `heartbeat`. Without a heartbeat, a position follows only after a gap.
///
/// Only the server's own events are named. A message has no `event:` line: with one it would not
/// reach `onmessage`, and a message of type `gap` or `error` would look like the server's event.
pub fn page(page: &Page, heartbeat: Option<String>) -> Vec<u8> {
    // Each message needs about 64 bytes more, for its `id:` and `data:`.
    let sizes = page.messages.iter().map(|message| message.json.len() + 64);
    let mut blocks = Vec::with_capacity(sizes.sum());
    if let Some(gap) = &page.gap {
        // Without an id: a client that is cut off before the messages below resumes at its old
        // position, and is told of the gap again.
        write!(blocks, "event: gap\ndata: {}\n\n", gap.to_json()).expect(INFALLIBLE);
    }
    for message in &page.messages {
        write!(blocks, "id: {}\ndata: ", message.id).expect(INFALLIBLE);
        blocks.extend_from_slice(&message.json);
        blocks.extend_from_slice(b"\n\n");
    }
    // After a gap a position is always needed: a client that is cut off later must not get the gap again.
    let position = heartbeat.or_else(|| page.gap.is_some().then(|| checkpoint(page.next)));
    blocks.extend_from_slice(position.unwrap_or_default().as_bytes());
    blocks
}

const INFALLIBLE: &str = "a Vec takes any bytes";

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Arc};

    use common::{Data, Draft, Feed, Gap, Message, PageLimit, Reason, Retention};
    use eventsource_stream::EventStream;
    use futures_util::{FutureExt, StreamExt, stream};
    use proptest::prelude::*;

    use super::*;
    use crate::parse::{Event, Parser};

    fn cursor(text: &str) -> Cursor {
        text.parse().unwrap()
    }

    #[test]
    fn the_blocks_are_the_documented_bytes() {
        let retry = Duration::from_millis(2_500);
        assert_eq!(
            opening(retry, Some(cursor("e-7"))),
            ": hello\nretry: 2500\nid: e-7\n\n"
        );
        assert_eq!(opening(retry, None), ": hello\nretry: 2500\n\n");
        assert_eq!(farewell("no room", retry), ": no room\nretry: 2500\n\n");
        assert_eq!(checkpoint(cursor("e-9")), "id: e-9\n\n");
        assert_eq!(
            heartbeat(cursor("e-9")),
            "event: heartbeat\nid: e-9\ndata: {\"next\":\"e-9\"}\n\n"
        );
    }

    #[test]
    fn a_gap_comes_before_the_data_and_its_position_after_it() {
        let gap = Gap {
            reason: Reason::Foreign,
            topics: "a".parse().unwrap(),
            requested: "x\n\0\u{2028}".into(),
            resumed: cursor("e-0"),
        };
        let page = Page {
            messages: Vec::new(),
            next: cursor("e-3"),
            then: cursor("e-3").into(),
            last: cursor("e-3"),
            more: false,
            gap: Some(gap),
            published: None,
        };
        let expected = concat!(
            "event: gap\n",
            r#"data: {"reason":"foreign","topics":["a"],"requested":"x\n\u0000"#,
            "\u{2028}",
            "\",\"resumed\":\"e-0\"}\n\n"
        );
        let (checkpoint, heartbeat) = (checkpoint(cursor("e-3")), heartbeat(cursor("e-3")));
        for (given, position) in [
            (None, &checkpoint),
            (Some(&checkpoint), &checkpoint),
            (Some(&heartbeat), &heartbeat),
        ] {
            let blocks = String::from_utf8(super::page(&page, given.cloned())).unwrap();
            assert_eq!(blocks, format!("{expected}{position}"));
        }
    }

    /// Publishes each text as a message of each type, and encodes the page.
    fn encoded(texts: &[String]) -> (Vec<Arc<Message>>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let feed = Feed::new(Retention::default());
            for (index, text) in texts.iter().enumerate() {
                let kind = ["message", "gap", "error", "open"][index % 4]
                    .parse()
                    .unwrap();
                feed.publish(
                    "t".parse().unwrap(),
                    Draft {
                        kind,
                        data: Data::text(text),
                    },
                )
                .await
                .unwrap();
            }
            let limit = PageLimit {
                messages: texts.len().max(1),
                bytes: usize::MAX,
                newest: false,
            };
            let page = feed
                .read(&"t".parse().unwrap(), &common::After::Earliest, limit)
                .await
                .unwrap();
            let bytes = super::page(&page, None);
            (page.messages, bytes)
        })
    }

    /// The same, by a parser from elsewhere.
    fn theirs(bytes: Vec<u8>) -> Vec<Event> {
        let stream = EventStream::new(stream::iter([Ok::<_, Infallible>(bytes)]));
        let ours = |event: eventsource_stream::Event| Event {
            event: event.event,
            data: event.data,
            id: event.id,
        };
        stream
            .map(|event| ours(event.unwrap()))
            .collect::<Vec<_>>()
            .now_or_never()
            .unwrap()
    }

    proptest! {
        /// Whatever was published, each message is one event of type `message`, and nothing else is.
        #[test]
        fn nothing_injects_a_field(texts in prop::collection::vec("(\r|\n|\r\n|\0|:|data: x|event: gap|id: 1|\\PC){0,12}", 0..5)) {
            let (messages, bytes) = encoded(&texts);
            let events = Parser::default().feed(&bytes);
            let expected: Vec<Event> = messages
                .iter()
                .map(|message| Event {
                    event: "message".into(),
                    data: str::from_utf8(&message.json).unwrap().into(),
                    id: message.id.to_string(),
                })
                .collect();
            prop_assert_eq!(&events, &expected);
            prop_assert_eq!(theirs(bytes), expected);
        }
    }
}
