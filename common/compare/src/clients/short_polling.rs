//! Asks at fixed times, and sends the `ETag` of what it has.

use std::{io, time::Duration};

use hyper::{
    Request, StatusCode,
    header::{ETAG, HeaderValue, IF_NONE_MATCH},
};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{Connection, Heard, Page, Subscription, expect};

#[derive(Debug)]
pub struct ShortPolling {
    connection: Connection,
    to: Subscription,
    etag: Option<HeaderValue>,
    /// At the subscription's interval; the server's `X-Poll-Interval` is ignored.
    polls: Interval,
}

impl ShortPolling {
    pub(super) async fn open(to: Subscription) -> io::Result<Self> {
        // tokio panics at an interval of zero.
        let mut polls = interval(to.interval.max(Duration::from_millis(1)));
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            connection: to.connect().await?,
            to,
            etag: None,
            polls,
        })
    }

    pub(super) fn after(&self) -> &str {
        &self.to.after
    }

    pub(super) async fn next(&mut self) -> io::Result<Vec<Heard>> {
        loop {
            self.polls.tick().await;
            let heard = self.poll().await?;
            if !heard.is_empty() {
                return Ok(heard);
            }
            self.to.traffic.empty();
        }
    }

    async fn poll(&mut self) -> io::Result<Vec<Heard>> {
        let mut request = Request::get(self.to.path(""));
        if let Some(etag) = &self.etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let (head, body) = self.connection.exchange(request, "").await?;
        if head.status == StatusCode::NOT_MODIFIED {
            return Ok(Vec::new());
        }
        expect(StatusCode::OK, head.status, &body)?;
        let page: Page = serde_json::from_slice(&body)?;
        self.etag = head.headers.get(ETAG).cloned();
        if page.more {
            self.polls.reset_immediately();
        }
        Ok(page.turn(&mut self.to.after))
    }
}
