//! The answer that goes on: replay, live, heartbeat, end.
//!
//! A subscriber has no queue. It pulls a page when hyper asks for more body, which hyper does only
//! when the socket takes bytes; a slow reader costs its cursor and nothing else.

use std::{convert::Infallible, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use common::{After, FeedError, PageLimit, Topics};
use futures_util::{Stream, stream::unfold};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use tracing::warn;

use crate::{App, event};

/// The body of an event stream.
pub(crate) type EventBody =
    StreamBody<Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>>;

/// The body that delivers `topics` from `after` on. `place` is the subscriber's permit.
pub(crate) fn body(
    app: &Arc<App>,
    topics: Topics,
    after: After,
    place: OwnedSemaphorePermit,
) -> EventBody {
    let subscriber = Subscriber {
        app: app.clone(),
        topics,
        after,
        state: State::Opening,
        _place: place,
    };
    let blocks = unfold(subscriber, async |mut subscriber| {
        let blocks = subscriber.next().await?;
        Some((Ok(Frame::data(blocks)), subscriber))
    });
    StreamBody::new(Box::pin(blocks))
}

/// One open stream.
struct Subscriber {
    app: Arc<App>,
    topics: Topics,
    /// Everything up to here was handed to the connection.
    after: After,
    state: State,
    /// Freed when the stream ends, however it ends.
    _place: OwnedSemaphorePermit,
}

enum State {
    Opening,
    Live,
    Ended,
}

impl Subscriber {
    /// The next whole blocks; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        match self.state {
            State::Opening => Some(self.open()),
            State::Live => Some(self.live().await),
            State::Ended => None,
        }
    }

    fn open(&mut self) -> Bytes {
        self.state = State::Live;
        let start = self.app.feed.position(&self.topics, &self.after);
        if let (After::Latest, Some(start)) = (&self.after, start) {
            self.after = start.into();
        }
        event::opening(self.retry(), start).into()
    }

    async fn live(&mut self) -> Bytes {
        let news = self
            .app
            .feed
            .next(&self.topics, &self.after, PageLimit::default());
        let page = match timeout(self.app.config.heartbeat, news).await {
            Ok(page) => page,
            // Silence. The page is empty, or else news that came this very moment.
            Err(_) => {
                self.app
                    .feed
                    .read(&self.topics, &self.after, PageLimit::default())
                    .await
            }
        };
        match page {
            Ok(page) => {
                self.after = page.next.into();
                if page.is_news() {
                    event::page(&page).into()
                } else {
                    event::checkpoint(page.next).into()
                }
            }
            Err(error) => self.end(&error),
        }
    }

    /// A stream ends between two blocks, and the client is told when to come again.
    fn end(&mut self, error: &FeedError) -> Bytes {
        if *error != FeedError::Closed {
            warn!(%error, "the feed failed a stream");
        }
        self.state = State::Ended;
        event::farewell(self.retry()).into()
    }

    fn retry(&self) -> Duration {
        jittered(self.app.config.retry)
    }
}

/// Up to half as much again, so that clients that lost the same server do not come back together.
pub(crate) fn jittered(retry: Duration) -> Duration {
    retry.mul_f64(rand::random_range(1.0..=1.5))
}
