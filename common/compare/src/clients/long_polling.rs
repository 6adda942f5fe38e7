//! Asks again as soon as it has its answer, so one request is always open.

use std::io;

use hyper::StatusCode;

use super::{Connection, Heard, Page, Subscription, expect};

/// How long the server may wait with its answer, in seconds.
const WAIT: u32 = 25;

#[derive(Debug)]
pub struct LongPolling {
    connection: Connection,
    to: Subscription,
}

impl LongPolling {
    pub(super) async fn open(to: Subscription) -> io::Result<Self> {
        let connection = to.connect().await?;
        Ok(Self { connection, to })
    }

    pub(super) fn after(&self) -> &str {
        &self.to.after
    }

    pub(super) async fn next(&mut self) -> io::Result<Vec<Heard>> {
        loop {
            let path = self.to.path(&format!("&wait={WAIT}"));
            let (head, body) = self.connection.get(&path).await?;
            expect(StatusCode::OK, head.status, &body)?;
            let page: Page = serde_json::from_slice(&body)?;
            let heard = page.turn(&mut self.to.after);
            if !heard.is_empty() {
                return Ok(heard);
            }
            self.to.traffic.empty();
        }
    }
}
