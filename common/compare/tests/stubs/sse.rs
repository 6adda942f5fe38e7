//! What the copied files of sse leave to the copier, in as few lines as compile.

extern crate self as common;

use std::{fmt, str::FromStr};

pub mod event;
pub mod parse;
pub mod stream;
pub mod http {
    pub mod problem;
    pub mod query;
    pub use problem::Problem;
}
pub use http::problem::Problem;
pub use http::query::Query;

/// Your log.
#[derive(Debug)]
pub struct Feed;

impl Feed {
    /// What is newer than the position, now.
    pub async fn read(&self, _: &Topics, _: &After, _: PageLimit) -> Result<Page, FeedError> {
        Err(FeedError::Closed)
    }

    /// The same, but waits for news. It registers its wait before it reads, so that it misses nothing.
    pub async fn next(&self, _: &Topics, _: &After, _: PageLimit) -> Result<Page, FeedError> {
        Err(FeedError::Closed)
    }

    /// Whether `next` waits no more.
    pub fn is_closed(&self) -> bool {
        true
    }

    /// Where reading starts. `None` if the log cannot continue there: then the page has a gap.
    pub fn position(&self, _: &Topics, _: &After) -> Option<Cursor> {
        None
    }
}

#[derive(Debug, PartialEq)]
pub enum FeedError {
    /// `next` returns it to end every stream.
    Closed,
}

pub struct Page {
    pub messages: Vec<own::Message>,
    /// Where the next read starts.
    pub next: Cursor,
    pub then: After,
    /// The topics' last message up to `next`.
    pub last: Cursor,
    pub more: bool,
    pub gap: Option<own::Gap>,
}

impl Page {
    /// Whether there is a message or a gap.
    pub fn is_news(&self) -> bool {
        !self.messages.is_empty()
    }
}

mod own {
    pub struct Message {
        pub id: u64,
        /// One line.
        pub json: Vec<u8>,
    }

    pub struct Gap;

    impl Gap {
        pub fn to_json(&self) -> String {
            String::new()
        }
    }
}

/// A position. Its `Display` is the `id` on the wire.
#[derive(Debug, Clone, Copy)]
pub struct Cursor {
    /// One life of your log.
    pub epoch: u64,
    /// The number within it.
    pub seq: u64,
}

#[derive(Debug, Clone)]
pub enum After {
    Latest,
    Cursor(Cursor),
}

impl After {
    /// Takes anything: an error would end a browser's EventSource for good.
    pub fn lenient(_: &str) -> Self {
        Self::Latest
    }
}

impl From<Cursor> for After {
    fn from(cursor: Cursor) -> Self {
        Self::Cursor(cursor)
    }
}

#[derive(Clone, Copy)]
pub struct PageLimit {
    pub messages: usize,
    pub bytes: usize,
    pub newest: bool,
}

pub struct Newest;

impl FromStr for Newest {
    type Err = &'static str;

    fn from_str(_: &str) -> Result<Self, Self::Err> {
        Ok(Self)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Topics;

impl FromStr for After {
    type Err = &'static str;

    fn from_str(_: &str) -> Result<Self, Self::Err> {
        Ok(Self::Latest)
    }
}

impl FromStr for Topics {
    type Err = &'static str;

    fn from_str(_: &str) -> Result<Self, Self::Err> {
        Ok(Self)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.seq.fmt(f)
    }
}

impl fmt::Display for FeedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the feed is closed")
    }
}
