//! Asks again as soon as it has its answer: there is always one request under way.

use std::io;

use hyper::{Request, StatusCode};

use super::{Connection, Message, Page, TOPIC, expect};

/// How long the server may wait with its answer, in seconds.
const WAIT: u32 = 25;

#[derive(Debug)]
pub(crate) struct LongPolling {
    connection: Connection,
    after: String,
}

impl LongPolling {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection,
            after: "earliest".to_owned(),
        }
    }

    pub(super) async fn next(&mut self) -> io::Result<Vec<Message>> {
        loop {
            let path = format!("/topics/{TOPIC}?after={}&wait={WAIT}", self.after);
            let (head, body) = self.connection.exchange(Request::get(path), "").await?;
            expect(StatusCode::OK, head.status, &body)?;
            let page = Page::parse(&body)?;
            self.after = page.next;
            if !page.messages.is_empty() {
                return Ok(page.messages);
            }
        }
    }
}
