//! The client's parser, to the letter of the HTML Standard (§9.2.6, "Interpreting an event stream").
//!
//! Feed it bytes as they come, cut anywhere, and take the events out. It keeps what a client needs
//! to reconnect: the last event id and the reconnection time.
//!
//! ```
//! let mut parser = sse::parse::Parser::default();
//! assert!(parser.feed(b"retry: 2000\nid: e-1\nda").is_empty());
//! assert_eq!(parser.feed(b"ta: hello\n\n")[0].data, "hello");
//! assert_eq!(parser.last_event_id(), "e-1");
//! ```

use std::{mem::take, time::Duration};

/// A parser in the middle of a stream. Make one for each connection, with the previous one's
/// [`Parser::last_event_id`]. A block that is unfinished when the connection ends is discarded, as the
/// standard demands.
#[derive(Debug, Default)]
pub struct Parser {
    /// The bytes of a line that has not ended.
    line: Vec<u8>,
    /// The last byte was a CR. A LF that follows belongs to it.
    after_cr: bool,
    /// The first line has ended. Only that line may begin with a byte order mark.
    begun: bool,
    event: String,
    data: String,
    /// The `id` of the block that has not ended.
    id: String,
    last_event_id: String,
    retry: Option<Duration>,
}

/// A block with data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its `event` field, or `message`.
    pub event: String,
    /// Its `data` fields, joined by LF.
    pub data: String,
    /// The last event id when it was dispatched.
    pub id: String,
}

impl Parser {
    /// A parser for a connection that was opened with this `Last-Event-ID`.
    pub fn resuming(last_event_id: &str) -> Self {
        Self {
            id: last_event_id.to_owned(),
            last_event_id: last_event_id.to_owned(),
            ..Self::default()
        }
    }

    /// What to send as `Last-Event-ID` when the connection is lost. Empty if there is none.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// How long to wait before reconnecting, if the server said.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Takes the next bytes and returns the events that they complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for &byte in bytes {
            let follows_cr = take(&mut self.after_cr);
            match byte {
                b'\n' if follows_cr => {}
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    events.extend(self.end_line());
                }
                _ => self.line.push(byte),
            }
        }
        events
    }

    fn end_line(&mut self) -> Option<Event> {
        let bytes = take(&mut self.line);
        let text = String::from_utf8_lossy(&bytes);
        let line = match text.strip_prefix('\u{feff}') {
            Some(rest) if !self.begun => rest,
            _ => &text,
        };
        self.begun = true;
        match line.split_once(':') {
            None if line.is_empty() => return self.dispatch(),
            Some(("", _)) => {} // a comment
            Some((field, value)) => self.field(field, value.strip_prefix(' ').unwrap_or(value)),
            None => self.field(line, ""),
        }
        None
    }

    fn field(&mut self, field: &str, value: &str) {
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => self.data.extend([value, "\n"]),
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry = value.parse().ok().map(Duration::from_millis).or(self.retry);
            }
            _ => {}
        }
    }

    /// The end of a block. The id is taken before the data is checked: a block with only an `id`
    /// moves the client's position and fires no event.
    fn dispatch(&mut self) -> Option<Event> {
        self.last_event_id.clone_from(&self.id);
        let (event, mut data) = (take(&mut self.event), take(&mut self.data));
        data.pop()?; // The last line's LF. Without data there is no event.
        Some(Event {
            event: if event.is_empty() {
                "message".to_owned()
            } else {
                event
            },
            data,
            id: self.last_event_id.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The events as `event id data`.
    fn events(stream: &[u8]) -> Vec<String> {
        let shown = |event: Event| format!("{} {} {}", event.event, event.id, event.data);
        Parser::default()
            .feed(stream)
            .into_iter()
            .map(shown)
            .collect()
    }

    /// The byte streams of the web-platform-tests' `eventsource` cases, restated as data.
    #[test]
    fn the_streams_of_the_web_platform_tests() {
        let cases: &[(&str, &str, &[&str])] = &[
            (
                "format-bom",
                "\u{feff}data:1\n\n\u{feff}data:2\n\ndata:3\n\n",
                &["message  1", "message  3"],
            ),
            (
                "format-bom-2",
                "\u{feff}\u{feff}data:1\n\ndata:2\n\ndata:3\n\n",
                &["message  2", "message  3"],
            ),
            (
                "format-comments",
                "data:1\r:\0\n:\r\ndata:2\n:x\rdata:3\r:data:fail\n\n",
                &["message  1\n2\n3"],
            ),
            (
                "format-data-before-final-empty-line",
                "retry:1000\ndata:test1\n\nid:test\ndata:test2",
                &["message  test1"],
            ),
            (
                "format-field-data",
                "data:\n\ndata\ndata\n\ndata:test\n\n",
                &["message  ", "message  \n", "message  test"],
            ),
            (
                "format-field-event",
                "event:test\ndata:x\n\ndata:x\n\n",
                &["test  x", "message  x"],
            ),
            (
                "format-field-event-empty",
                "event: \ndata:data\n\n",
                &["message  data"],
            ),
            (
                "format-field-id",
                "id: \u{2026}\ndata:hello\n\n",
                &["message \u{2026} hello"],
            ),
            (
                "format-field-id-2",
                "id: 1\ndata:a\n\ndata:b\n\nid\ndata:c\n\n",
                &["message 1 a", "message 1 b", "message  c"],
            ),
            (
                "format-field-id-null",
                "id: \0\0\ndata:hello\n\n",
                &["message  hello"],
            ),
            (
                "format-field-parsing",
                "data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\rdata_5\ndata:3\rdata:\r\n data:32\ndata:4\n\n",
                &["message  \0\n 2\n1\n3\n\n4"],
            ),
            (
                "format-field-unknown",
                "data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\ndata:test\n\n",
                &["message  test\n\ntest"],
            ),
            (
                "format-leading-space",
                "data:\ttest\rdata: \ndata:test\n\n",
                &["message  \ttest\n\ntest"],
            ),
            (
                "format-newlines",
                "data:test\r\ndata\ndata:test\r\n\r",
                &["message  test\n\ntest"],
            ),
            ("format-null-character", "data:\0\n\n\n\n", &["message  \0"]),
            (
                "format-utf-8",
                "data:ok\u{2026}\n\n",
                &["message  ok\u{2026}"],
            ),
        ];
        for (name, stream, expected) in cases {
            assert_eq!(events(stream.as_bytes()), *expected, "{name}");
        }
    }

    #[test]
    fn retry_is_digits_only_and_the_last_one_counts() {
        let retry = |stream: &str| {
            let mut parser = Parser::default();
            parser.feed(stream.as_bytes());
            parser.retry().map(|retry| retry.as_millis())
        };
        assert_eq!(retry("retry:3000\n\n"), Some(3_000));
        assert_eq!(
            retry("retry:3000\nretry:1000x\nretry:\nretry:-1\nretry: 5 \n\n"),
            Some(3_000)
        );
        assert_eq!(retry("retry:1\nretry:2\n"), Some(2));
        assert_eq!(retry("retry:99999999999999999999999\n"), None);
    }

    #[test]
    fn an_id_alone_moves_the_position_and_fires_nothing() {
        let mut parser = Parser::resuming("e-1");
        assert_eq!(parser.last_event_id(), "e-1");
        assert!(parser.feed(b"id: e-9\n").is_empty());
        assert_eq!(parser.last_event_id(), "e-1", "the block has not ended");
        assert!(parser.feed(b"\n").is_empty());
        assert_eq!(parser.last_event_id(), "e-9");
        assert_eq!(parser.feed(b"data:x\n\n")[0].id, "e-9");
    }

    proptest! {
        #[test]
        fn a_stream_may_be_cut_anywhere(stream in "(data|id|event|retry|:|\u{feff}|[ a:1]|\r|\n|\r\n|é|\0){0,40}", size in 1..5usize) {
            let mut parser = Parser::default();
            let pieces: Vec<Event> = stream.as_bytes().chunks(size).flat_map(|piece| parser.feed(piece)).collect();
            prop_assert_eq!(pieces, Parser::default().feed(stream.as_bytes()));
        }

        #[test]
        fn any_bytes_are_parsed(stream: Vec<u8>) {
            Parser::default().feed(&stream);
        }
    }
}
