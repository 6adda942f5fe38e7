//! The way out for who has no address that we can reach: it fetches what it would have been called about.
//!
//! Either it is called or it fetches, never both: fetching is for an endpoint that is disabled. It names
//! the last message that it has by `after`, which is also the acknowledgement: what lies before need not
//! be kept for it any more, and is not delivered when it is enabled again.

use std::{sync::Arc, time::Duration};

use common::{After, Cursor, Feed, FeedError, Page, PageLimit, Problem, Query};
use hyper::{StatusCode, Uri};
use tokio::time::{Instant, timeout_at};

use super::endpoint::Endpoint;

/// The longest wait: shorter than proxies are patient.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// What is asked for.
pub(crate) struct Pull {
    endpoint: Arc<Endpoint>,
    after: After,
    wait: Duration,
}

impl Pull {
    /// Reads `after`, by default what the endpoint has got, and `wait`, in seconds.
    pub(crate) fn parse(endpoint: Arc<Endpoint>, uri: &Uri) -> Result<Self, Problem> {
        let query = Query::of(uri);
        let wait = Duration::from_secs(query.get("wait")?.unwrap_or(0));
        let after: Option<After> = query.get("after")?;
        let status = endpoint.status();
        if status.disabled.is_none() {
            let detail = "the endpoint is called: disable it to fetch instead";
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        let has = Cursor {
            seq: status.recorded,
            ..status.after
        };
        drop(status);
        Ok(Self {
            endpoint,
            after: after.unwrap_or(has.into()),
            wait: wait.min(MAX_WAIT),
        })
    }

    /// What the asker has, as far as this feed knows it.
    pub(crate) fn acknowledged(&self, feed: &Feed) -> Option<u64> {
        match &self.after {
            After::Cursor(_) => Some(feed.position(&self.endpoint.topics, &self.after)?.seq),
            _ => None,
        }
    }

    /// The messages that the endpoint wants, as soon as there are some, or none when the time is over.
    pub(crate) async fn page(self, feed: &Feed) -> Result<Page, FeedError> {
        let deadline = Instant::now() + self.wait;
        let (topics, limit) = (&self.endpoint.topics, PageLimit::default());
        let mut after = match self.after {
            After::Latest => feed.head().into(),
            after => after,
        };
        loop {
            let news = timeout_at(deadline, feed.next(topics, &after, limit)).await;
            let (mut page, over) = match news {
                Ok(Ok(page)) => (page, false),
                Err(_) | Ok(Err(FeedError::Closed)) => {
                    (feed.read(topics, &after, limit).await?, true)
                }
                Ok(Err(error)) => return Err(error),
            };
            page.messages.retain(|message| self.endpoint.wants(message));
            if over || page.is_news() {
                return Ok(page);
            }
            after = page.then;
        }
    }
}
