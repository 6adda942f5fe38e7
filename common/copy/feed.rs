//! What the copied files need from your log, in the fewest lines that compile. An item that only some techniques
//! need names them.

use std::{fmt, str::FromStr};

use tokio::time::Instant;

/// Your log. Clones share it.
#[derive(Debug, Clone)]
pub struct Feed;

impl Feed {
    /// What is newer than the position, now.
    pub async fn read(&self, _: &Topics, _: &After, _: PageLimit) -> Result<Page, FeedError> {
        Err(FeedError::Closed)
    }

    /// The same, but waits for news. It registers its wait before it reads, so that it misses nothing.
    /// For long-polling and sse.
    pub async fn next(&self, _: &Topics, _: &After, _: PageLimit) -> Result<Page, FeedError> {
        Err(FeedError::Closed)
    }

    /// Whether the server drains: `next` waits no more. For long-polling.
    pub fn is_closed(&self) -> bool {
        true
    }

    /// Where reading starts. `None` if the log cannot continue there: then the next page has a gap. For sse.
    pub fn position(&self, _: &Topics, _: &After) -> Option<Cursor> {
        None
    }
}

#[derive(Debug, PartialEq)]
pub enum FeedError {
    /// `next` returns it to end every wait and every stream.
    Closed,
}

impl fmt::Display for FeedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the feed is closed")
    }
}

pub struct Page {
    pub messages: Vec<Message>,
    /// What the position asked for and the log cannot give. It comes before the messages.
    pub gap: Option<Gap>,
    /// Whether another read from `next` returns more at once.
    pub more: bool,
    /// Where the client's next read starts.
    pub next: Cursor,
    /// Where this reader's next read starts: after `next`, or with the rest of `after=last`. For sse.
    pub then: After,
    /// The topics' last message up to `next`. For short-polling, as the `ETag`, and sse.
    pub last: Cursor,
    /// When one of the topics was last published to. For short-polling.
    pub published: Option<Instant>,
}

impl Page {
    /// Whether there is a message or a gap.
    pub fn is_news(&self) -> bool {
        !self.messages.is_empty() || self.gap.is_some()
    }

    /// The body of an answer. For short-polling and long-polling.
    pub fn into_json(self) -> Pieces {
        String::new()
    }
}

/// The body of an answer. The feed's own shares the bytes of the messages.
pub type Pieces = String;

pub struct Message {
    pub id: Cursor,
    /// One line.
    pub json: Vec<u8>,
}

pub struct Gap;

impl Gap {
    pub fn to_json(&self) -> String {
        String::new()
    }
}

/// A position.
#[derive(Debug, Clone, Copy, Hash)]
pub struct Cursor {
    /// One life of your log.
    pub epoch: u64,
    /// The number within it.
    pub seq: u64,
}

impl fmt::Display for Cursor {
    /// The `id` on the wire.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

/// `after=`
#[derive(Debug, Clone)]
pub enum After {
    Earliest,
    Latest,
    Cursor(Cursor),
}

impl After {
    /// Accepts any text, because an error would end a browser's EventSource for good. For sse.
    pub fn lenient(_: &str) -> Self {
        Self::Latest
    }
}

impl From<Cursor> for After {
    fn from(cursor: Cursor) -> Self {
        Self::Cursor(cursor)
    }
}

/// How much one page may carry: `limit=`
#[derive(Debug, Clone, Copy, Default)]
pub struct PageLimit {
    pub messages: usize,
    pub bytes: usize,
    /// Only the newest message of each topic.
    pub newest: bool,
}

impl PageLimit {
    /// No limit for `after=last`, because a poll cannot continue within it. For short-polling and long-polling.
    pub fn of_poll(self, _: &After) -> Self {
        self
    }
}

/// `newest=1`
pub struct Newest;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Topics;

macro_rules! parsed {
    ($name:ty, $value:expr) => {
        impl FromStr for $name {
            type Err = &'static str;

            fn from_str(_: &str) -> Result<Self, Self::Err> {
                Ok($value)
            }
        }
    };
}

parsed!(After, Self::Latest);
parsed!(Newest, Self);
parsed!(PageLimit, Self::default());
parsed!(Topics, Self);
