//! Asks again as soon as it has its answer: there is always one request under way.

use std::io;

use hyper::StatusCode;

use super::{Exchanges, Heard, Page, Subscription, expect};

/// How long the server may wait with its answer, in seconds.
pub(crate) const WAIT: u32 = 25;

#[derive(Debug)]
pub struct LongPolling {
    exchanges: Exchanges,
    to: Subscription,
}

impl LongPolling {
    pub(super) async fn open(to: Subscription) -> io::Result<Self> {
        let mut exchanges = to.exchanges();
        exchanges.connect().await?;
        Ok(Self { exchanges, to })
    }

    pub(super) fn after(&self) -> &str {
        &self.to.after
    }

    pub(super) async fn next(&mut self) -> io::Result<Vec<Heard>> {
        loop {
            let path = self.to.path(&format!("&wait={WAIT}"));
            let (head, body) = self.exchanges.fetch(&path).await?;
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
