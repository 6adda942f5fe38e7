//! Asks at fixed times, and says what it has already.

use std::{io, time::Duration};

use hyper::{
    Request, StatusCode,
    header::{ETAG, HeaderValue, IF_NONE_MATCH},
};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{Connection, Message, Page, TOPIC, expect};

#[derive(Debug)]
pub(crate) struct ShortPolling {
    connection: Connection,
    after: String,
    etag: Option<HeaderValue>,
    /// By our interval, whatever the server's `X-Poll-Interval` asks for.
    polls: Interval,
}

impl ShortPolling {
    pub(super) fn new(connection: Connection, between: Duration) -> Self {
        // An interval of zero would be a panic: as fast as it gets, then.
        let mut polls = interval(between.max(Duration::from_millis(1)));
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            connection,
            after: "earliest".to_owned(),
            etag: None,
            polls,
        }
    }

    pub(super) async fn next(&mut self) -> io::Result<Vec<Message>> {
        loop {
            self.polls.tick().await;
            let messages = self.poll().await?;
            if !messages.is_empty() {
                return Ok(messages);
            }
        }
    }

    async fn poll(&mut self) -> io::Result<Vec<Message>> {
        let mut request = Request::get(format!("/topics/{TOPIC}?after={}", self.after));
        if let Some(etag) = &self.etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let (head, body) = self.connection.exchange(request, "").await?;
        if head.status == StatusCode::NOT_MODIFIED {
            return Ok(Vec::new());
        }
        expect(StatusCode::OK, head.status, &body)?;
        let page = Page::parse(&body)?;
        self.after = page.next;
        self.etag = head.headers.get(ETAG).cloned();
        if page.more {
            self.polls.reset_immediately();
        }
        Ok(page.messages)
    }
}
