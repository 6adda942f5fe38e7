//! Asks at fixed times, or again at once where the server holds its answer.

use std::{io, time::Duration};

use futures_util::{StreamExt, stream::try_unfold};
use hyper::{
    Request, StatusCode,
    header::{ETAG, HeaderValue, IF_NONE_MATCH},
};
use serde::Deserialize;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{Client, Connection, Gap, Heard, Message, News, Subscription, expect};

/// How long the server may hold its answer to a long poll, in seconds.
const WAIT: u32 = 25;

struct Polling {
    connection: Connection,
    to: Subscription,
    /// The ETag of the last page of short polling. A long poll has none.
    etag: Option<HeaderValue>,
    /// When short polling asks next; long polling asks at once. The server's `X-Poll-Interval` is ignored.
    polls: Option<Interval>,
}

/// The answer to a poll, the same for short and long polling.
#[derive(Debug, Deserialize)]
struct Page {
    messages: Vec<Message>,
    next: String,
    more: bool,
    gap: Option<Gap>,
}

/// Only connects. The first poll comes when the client is first asked for news.
pub(super) async fn short(to: Subscription) -> io::Result<Client> {
    // tokio panics at an interval of zero.
    let mut polls = interval(to.interval.max(Duration::from_millis(1)));
    // A client that was late does not poll twice to catch up.
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    open(to, Some(polls)).await
}

/// Only connects, like [`short`].
pub(super) async fn long(to: Subscription) -> io::Result<Client> {
    open(to, None).await
}

async fn open(to: Subscription, polls: Option<Interval>) -> io::Result<Client> {
    let polling = Polling {
        connection: to.connect().await?,
        to,
        etag: None,
        polls,
    };
    Ok(try_unfold(polling, Polling::next).boxed())
}

impl Polling {
    async fn next(mut self) -> io::Result<Option<(News, Self)>> {
        if let Some(polls) = &mut self.polls {
            polls.tick().await;
        }
        let heard = self.poll().await?;
        if heard.is_empty() {
            self.to.traffic.empty();
        }
        let after = self.to.after.clone();
        Ok(Some((News { heard, after }, self)))
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
            // The page was full, so there is more already.
            if page.more {
                polls.reset_immediately();
            }
        }
        self.to.after = page.next;
        let gap = page.gap.into_iter().map(Heard::Gap);
        Ok(gap
            .chain(page.messages.into_iter().map(Heard::Message))
            .collect())
    }
}
