//! Asks at fixed times, or again at once where the server holds its answer.

use std::{io, time::Duration};

use hyper::{
    Request, StatusCode,
    header::{ETAG, HeaderValue, IF_NONE_MATCH},
};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{Connection, Heard, Page, Subscription, expect};

/// How long the server may hold its answer, in seconds.
const WAIT: u32 = 25;

#[derive(Debug)]
pub struct Polling {
    connection: Connection,
    to: Subscription,
    /// Of the last page of short polling; a long poll has none.
    etag: Option<HeaderValue>,
    /// When to ask next; `None` is long polling. The server's `X-Poll-Interval` is ignored.
    polls: Option<Interval>,
}

impl Polling {
    pub(super) async fn short(to: Subscription) -> io::Result<Self> {
        // tokio panics at an interval of zero.
        let mut polls = interval(to.interval.max(Duration::from_millis(1)));
        // A client that was late does not poll twice to catch up.
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // They differ only in when they ask.
        let long = Self::long(to).await?;
        Ok(Self {
            polls: Some(polls),
            ..long
        })
    }

    pub(super) async fn long(to: Subscription) -> io::Result<Self> {
        Ok(Self {
            connection: to.connect().await?,
            to,
            etag: None,
            polls: None,
        })
    }

    pub(super) fn after(&self) -> &str {
        &self.to.after
    }

    pub(super) async fn next(&mut self) -> io::Result<Vec<Heard>> {
        loop {
            if let Some(polls) = &mut self.polls {
                polls.tick().await;
            }
            let heard = self.poll().await?;
            if !heard.is_empty() {
                return Ok(heard);
            }
            self.to.traffic.empty();
        }
    }

    async fn poll(&mut self) -> io::Result<Vec<Heard>> {
        let mut request = match self.polls {
            Some(_) => Request::get(self.to.path("")),
            None => Request::get(self.to.path(&format!("&wait={WAIT}"))),
        };
        if let Some(etag) = &self.etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let (head, body) = self.connection.exchange(request, "").await?;
        if head.status == StatusCode::NOT_MODIFIED {
            return Ok(Vec::new());
        }
        expect(StatusCode::OK, head.status, &body)?;
        let page: Page = serde_json::from_slice(&body)?;
        if let Some(polls) = &mut self.polls {
            self.etag = head.headers.get(ETAG).cloned();
            // A page was full: the rest is there already.
            if page.more {
                polls.reset_immediately();
            }
        }
        Ok(page.turn(&mut self.to.after))
    }
}
