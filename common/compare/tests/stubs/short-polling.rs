//! What the copy set of short polling leaves to the copier.

extern crate self as common;

use std::{convert::Infallible, str::FromStr};

use bytes::Bytes;

pub mod conditional;
pub mod hint;
pub mod poll;
/// What is copied from `common`.
pub mod http {
    pub mod problem;
    pub mod query;
    pub use problem::Problem;
}

pub use http::problem::Problem;
pub use http::query::Query;

/// A log that is always empty.
#[derive(Debug)]
pub struct Feed;

impl Feed {
    pub async fn read(&self, _: &Topics, _: &After, _: PageLimit) -> Result<Page, Problem> {
        let page = Page {
            messages: Vec::new(),
            last: "e-0",
            gap: None,
            published: None,
        };
        Ok(page)
    }
}

pub struct Page {
    pub messages: Vec<log::Message>,
    pub last: &'static str,
    pub gap: Option<log::Gap>,
    pub published: Option<tokio::time::Instant>,
}

impl Page {
    pub fn is_news(&self) -> bool {
        !self.messages.is_empty() || self.gap.is_some()
    }

    pub fn to_json(&self) -> Bytes {
        Bytes::from_static(b"{}")
    }
}

pub mod log {
    //! What is in a page. The copied files do not name it.

    pub struct Message {
        pub id: u64,
    }

    pub struct Gap;

    impl Gap {
        pub fn to_json(&self) -> String {
            String::new()
        }
    }
}

pub enum After {
    Earliest,
    Later(String),
}

impl FromStr for After {
    type Err = Infallible;

    fn from_str(cursor: &str) -> Result<Self, Infallible> {
        Ok(Self::Later(cursor.to_owned()))
    }
}

#[derive(Default)]
pub struct PageLimit(pub usize);

impl FromStr for PageLimit {
    type Err = std::num::ParseIntError;

    fn from_str(limit: &str) -> Result<Self, Self::Err> {
        limit.parse().map(Self)
    }
}

pub struct Topics(pub String);

impl FromStr for Topics {
    type Err = Infallible;

    fn from_str(topics: &str) -> Result<Self, Infallible> {
        Ok(Self(topics.to_owned()))
    }
}
