//! What the copied files of long-polling leave to the copier, in as few lines as compile.

extern crate self as common;

use std::{fmt, str::FromStr};


pub mod wait;
pub mod http {
    pub mod problem;
    pub mod query;
    pub use problem::Problem;
}
pub use http::problem::Problem;
pub use http::problem::retry_after;
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

    /// Whether the server drains.
    pub fn is_closed(&self) -> bool {
        true
    }
}

#[derive(Debug)]
pub enum FeedError {
    /// `next` returns it to end every wait.
    Closed,
}

impl fmt::Display for FeedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("closed")
    }
}

pub struct Page {
    /// Where the next read starts.
    pub next: u64,
}

/// A body of your server. The feed's own shares the bytes of the messages.
pub type Pieces = String;

impl Page {
    /// Whether there is a message or a gap.
    pub fn is_news(&self) -> bool {
        false
    }

    /// The answer's body.
    pub fn into_json(self) -> Pieces {
        String::new()
    }
}

#[derive(Debug)]
pub enum After {
    Earliest,
}

impl From<u64> for After {
    fn from(_: u64) -> Self {
        Self::Earliest
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub struct PageLimit {
    pub messages: usize,
    pub newest: bool,
}

impl PageLimit {
    /// For `after=last`, which a poll cannot go on with: no limit.
    pub fn of_poll(self, _: &After) -> Self {
        self
    }
}

pub struct Newest;

#[derive(Debug)]
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

parsed!(After, Self::Earliest);
parsed!(Newest, Self);
parsed!(PageLimit, Self::default());
parsed!(Topics, Self);
