//! One read of the feed, and the JSON of it that every wire shares.

use std::{str::FromStr, sync::Arc};

use serde_json::json;
use tokio::time::Instant;
use tracing::{info, trace};

use super::{
    cursor::{After, Cursor, whole_number},
    message::{Message, Topics},
    pieces::Pieces,
};

/// How much one page may carry. A page always admits one message, or a large one would block its
/// reader forever.
#[derive(Debug, Clone, Copy)]
pub struct PageLimit {
    /// At most this many messages, at least one. Default 100.
    pub messages: usize,
    /// At most this many bytes of messages. Default 1 MiB.
    pub bytes: usize,
    /// Only the newest message of each topic. Skipped messages are no gap, because the reader asked for
    /// that. A gap still tells of a topic whose newest message was dropped. Default `false`.
    pub newest: bool,
}

impl Default for PageLimit {
    fn default() -> Self {
        Self {
            messages: 100,
            bytes: 1 << 20,
            newest: false,
        }
    }
}

impl PageLimit {
    /// For a reader that continues after [`Page::next`] and not with [`Page::then`]. Its page of
    /// [`After::Last`] has no limit, because `next` cannot name the rest of one. Such a page has at most one
    /// message for each topic of the request.
    #[must_use]
    pub fn of_poll(self, after: &After) -> Self {
        let (messages, bytes) = match after {
            After::Last => (usize::MAX, usize::MAX),
            _ => (self.messages, self.bytes),
        };
        Self {
            messages,
            bytes,
            ..self
        }
    }
}

impl FromStr for PageLimit {
    type Err = &'static str;

    /// `limit=`: messages, from 1 to 500.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match whole_number(text) {
            Some(messages @ 1..=500) => Ok(Self {
                messages,
                ..Self::default()
            }),
            _ => Err("a limit is a whole number from 1 to 500"),
        }
    }
}

/// The value of `newest=`, which can only be `1`. It sets [`PageLimit::newest`].
#[derive(Debug, Clone, Copy)]
pub struct Newest;

impl FromStr for Newest {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        (text == "1").then_some(Self).ok_or("it is 1 or absent")
    }
}

/// What is newer than a cursor. Two pages are equal if a client cannot tell them apart.
#[derive(Debug, Clone)]
pub struct Page {
    /// In the feed's order, oldest first.
    pub messages: Vec<Arc<Message>>,
    /// Where the next read starts. If the limit cut the page, its last message. Otherwise the end of what
    /// was read: the feed's head at that moment, or the start of the next gap.
    pub next: Cursor,
    /// Where the same reader continues: after `next`, or with the rest of [`After::Last`] if this page
    /// could not hold all of it. Not on the wire.
    pub then: After,
    /// The topics' last message up to `next`, on this page or an earlier one. Unlike `next` it does not
    /// move when other topics get messages. Not on the wire.
    pub last: Cursor,
    /// Whether another read from `next` returns more at once.
    pub more: bool,
    /// What the cursor asked for and the feed cannot give. It comes before the messages.
    pub gap: Option<Gap>,
    /// When one of the topics was last published to, whether or not that message is on this page. Exact
    /// for messages of this process. For messages from a file or another server it is computed from
    /// their timestamps. `None` if the feed has none of the topics. Not on the wire.
    pub published: Option<Instant>,
}

impl PartialEq for Page {
    /// Compares all but `then` and `published`, which are this process's own view.
    fn eq(&self, other: &Self) -> bool {
        self.next == other.next
            && self.last == other.last
            && self.more == other.more
            && self.gap == other.gap
            && self.messages == other.messages
    }
}

impl Page {
    /// Whether there is anything for a waiting reader.
    pub fn is_news(&self) -> bool {
        !self.messages.is_empty() || self.gap.is_some()
    }

    /// Logs the page's gap. Every page goes through here, so no loss is silent.
    pub fn log_gap(self) -> Self {
        if let Some(gap) = &self.gap {
            info!("gap {}", gap.to_json());
            trace!(count.gaps = gap.reason.as_str());
        }
        self
    }

    /// The answer of a poll, exactly `{"messages":[…],"next":"…","more":false,"gap":null}`.
    pub fn into_json(self) -> Pieces {
        trace!(count.deliveries = self.messages.len());
        let gap = self.gap.as_ref().map_or("null".into(), Gap::to_json);
        let (next, more) = (self.next, self.more);
        let end = format!("],\"next\":\"{next}\",\"more\":{more},\"gap\":{gap}}}");
        Pieces::of_page(self.messages, &end)
    }
}

/// History that the cursor asked for and the feed cannot give: the messages of `topics` in
/// (`requested`, `resumed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Why.
    pub reason: Reason,
    /// The topics that lost something. The request's other topics lost nothing.
    pub topics: Topics,
    /// The position that the reader asked for, as the reader wrote it.
    pub requested: String,
    /// Delivery goes on after this position.
    pub resumed: Cursor,
}

impl Gap {
    /// `{"reason":"trimmed","topics":["a"],"requested":"…","resumed":"…"}`, the same on every wire.
    pub fn to_json(&self) -> String {
        format!(
            "{{\"reason\":\"{}\",\"topics\":{},\"requested\":{},\"resumed\":\"{}\"}}",
            self.reason.as_str(),
            json!(
                self.topics
                    .iter()
                    .map(|topic| topic.as_str())
                    .collect::<Vec<_>>()
            ),
            json!(self.requested),
            self.resumed,
        )
    }
}

/// Why the feed cannot go on where a cursor stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The cursor is beyond the head, for example after an old copy was restored. Every topic restarts
    /// at its earliest message.
    Ahead,
    /// The cursor is of another epoch, or not a cursor at all. Every topic restarts at its earliest
    /// message.
    Foreign,
    /// The cursor is older than what is kept.
    Trimmed,
}

impl Reason {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ahead => "ahead",
            Self::Foreign => "foreign",
            Self::Trimmed => "trimmed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_whole_number_from_1_to_500() {
        for (text, limit) in [("1", 1), ("100", 100), ("500", 500)] {
            assert_eq!(
                text.parse::<PageLimit>().map(|limit| limit.messages),
                Ok(limit)
            );
        }
        for bad in [
            "",
            "0",
            "501",
            "+5",
            "007",
            "-1",
            "1.0",
            "99999999999999999999",
        ] {
            assert!(bad.parse::<PageLimit>().is_err(), "{bad}");
        }
    }
}
