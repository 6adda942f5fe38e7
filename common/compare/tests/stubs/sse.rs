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

#[derive(Debug)]
pub struct Feed;

impl Feed {
    pub async fn read(&self, _: &Topics, _: &After, _: PageLimit) -> Result<Page, FeedError> {
        Err(FeedError::Closed)
    }

    pub async fn next(&self, _: &Topics, _: &After, _: PageLimit) -> Result<Page, FeedError> {
        Err(FeedError::Closed)
    }

    pub fn position(&self, _: &Topics, _: &After) -> Option<Cursor> {
        None
    }
}

#[derive(Debug, PartialEq)]
pub enum FeedError {
    Closed,
}

pub struct Page {
    pub messages: Vec<own::Message>,
    pub next: Cursor,
    pub then: After,
    pub more: bool,
    pub gap: Option<own::Gap>,
}

impl Page {
    pub fn is_news(&self) -> bool {
        !self.messages.is_empty()
    }
}

mod own {
    pub struct Message {
        pub id: u64,
        pub json: Vec<u8>,
    }

    pub struct Gap;

    impl Gap {
        pub fn to_json(&self) -> String {
            String::new()
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Cursor(u64);

#[derive(Debug, Clone)]
pub enum After {
    Latest,
    Cursor(Cursor),
}

impl After {
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

#[derive(Debug)]
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
        self.0.fmt(f)
    }
}

impl fmt::Display for FeedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the feed is closed")
    }
}
