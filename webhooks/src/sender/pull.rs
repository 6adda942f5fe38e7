//! Pulling, for an endpoint without an address that the sender can reach.
//!
//! An endpoint is called or it pulls, never both: only a disabled endpoint may pull. In `after` it names
//! the last message that it has. This is also the acknowledgement: messages up to there are not kept for
//! it, and are not delivered when it is enabled again.

use std::{sync::Arc, time::Duration};

use common::{After, Cursor, Feed, FeedError, Page, PageLimit, Problem, Query};
use hyper::{StatusCode, Uri};
use tokio::time::{Instant, timeout_at};

use super::endpoint::Endpoint;

/// The longest wait: shorter than the usual timeout of a proxy.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The parameters of a pull.
pub(crate) struct Pull {
    endpoint: Arc<Endpoint>,
    after: After,
    wait: Duration,
}

impl Pull {
    /// Reads `after`, by default the endpoint's position, and `wait`, in seconds.
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

    /// The position in `after`, if it is one of this feed.
    pub(crate) fn acknowledged(&self, feed: &Feed) -> Option<u64> {
        match &self.after {
            After::Cursor(_) => Some(feed.position(&self.endpoint.topics, &self.after)?.seq),
            _ => None,
        }
    }

    /// The endpoint's next messages, as soon as there are some. Empty when the time is over.
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
