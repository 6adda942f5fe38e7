//! The answer that goes on: replay, live, heartbeat, end.
//!
//! A subscriber has no queue. It pulls a page when the connection asks for more, which it does only
//! when the socket takes bytes; a slow reader costs its cursor and nothing else.

use std::{convert::Infallible, pin::Pin, str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use common::{After, Cursor, FeedError, PageLimit, Topics};
use futures_util::{Stream, stream::unfold};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep},
};
use tracing::warn;

use crate::{App, event};

/// One write: enough messages to be worth it, and all that a reader who stalls keeps of the feed in
/// memory, if no message is longer.
const PAGE: PageLimit = PageLimit {
    messages: 100,
    bytes: 8 * 1_024,
};

/// What a client asked for.
pub(crate) struct Subscription {
    pub(crate) topics: Topics,
    pub(crate) after: After,
    pub(crate) heartbeat: Heartbeat,
}

/// How a stream breaks its silence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Heartbeat {
    /// A block of an id alone: fires no event.
    #[default]
    Checkpoint,
    /// An event named `heartbeat`.
    Event,
}

impl FromStr for Heartbeat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "event" {
            Ok(Self::Event)
        } else {
            Err("the one other heartbeat is event")
        }
    }
}

/// One open stream.
pub(crate) struct Subscriber {
    app: Arc<App>,
    /// What is still asked for: its `after` is what was handed to the connection last.
    subscription: Subscription,
    state: State,
    /// Rings at the end of the silence, or before it.
    alarm: Pin<Box<Sleep>>,
    /// Freed when the stream ends, however it ends.
    _place: OwnedSemaphorePermit,
}

enum State {
    Opening,
    Live,
    Ended,
}

impl Subscriber {
    /// A stream that begins. `place` is its permit.
    pub(crate) fn new(
        app: &Arc<App>,
        subscription: Subscription,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            app: app.clone(),
            subscription,
            state: State::Opening,
            alarm: Box::pin(sleep(app.config.heartbeat)),
            _place: place,
        }
    }

    /// The next whole blocks; `None` ends the stream. Whoever asks has written the last ones.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        match self.state {
            State::Opening => Some(self.open()),
            State::Live => Some(self.live().await),
            State::Ended => None,
        }
    }

    fn open(&mut self) -> Vec<u8> {
        self.state = State::Live;
        let Subscription { topics, after, .. } = &mut self.subscription;
        let start = self.app.feed.position(topics, after);
        if let (After::Latest, Some(start)) = (&after, start) {
            *after = start.into();
        }
        event::opening(self.retry(), start).into()
    }

    async fn live(&mut self) -> Vec<u8> {
        let told = match self.news().await {
            Some(told) => told,
            None => self.checkpoint().await,
        };
        match told {
            Ok((blocks, next)) => {
                self.subscription.after = next.into();
                blocks
            }
            // Boxed: a stream that lives need not hold the room for its end.
            Err(error) => Box::pin(self.end(&error)).await,
        }
    }

    /// Waits for a page: its blocks, and the position after them. `None` is silence for too long.
    async fn news(&mut self) -> Option<Result<(Vec<u8>, Cursor), FeedError>> {
        let Subscription { topics, after, .. } = &self.subscription;
        let news = self.app.feed.next(topics, after, PAGE);
        tokio::select! {
            biased; // Who was woken was most likely woken by news.
            page = news => Some(page.map(|page| (event::page(&page), page.next))),
            () = silence(&mut self.alarm, self.app.config.heartbeat) => None,
        }
    }

    /// Breaks the silence with the feed's position; or with news that came this very moment, which
    /// the position must not skip.
    async fn checkpoint(&self) -> Result<(Vec<u8>, Cursor), FeedError> {
        let Subscription {
            topics,
            after,
            heartbeat,
        } = &self.subscription;
        let page = self.app.feed.read(topics, after, PAGE).await?;
        let blocks = match heartbeat {
            _ if page.is_news() => event::page(&page),
            Heartbeat::Checkpoint => event::checkpoint(page.next).into(),
            Heartbeat::Event => event::heartbeat(page.next).into(),
        };
        Ok((blocks, page.next))
    }

    /// A stream ends between two blocks, and the client is told when to come again. Not all at
    /// once: whoever takes the clients over has to accept every one of them.
    async fn end(&mut self, error: &FeedError) -> Vec<u8> {
        if *error != FeedError::Closed {
            warn!(%error, "the feed failed a stream");
        }
        let config = &self.app.config;
        let open = config.max_subscribers - self.app.subscribers.available_permits();
        sleep(spread(open, config.drain).mul_f64(rand::random())).await;
        self.state = State::Ended;
        event::farewell(self.retry()).into()
    }

    fn retry(&self) -> Duration {
        jittered(self.app.config.retry)
    }
}

/// Resolves after so much time. The alarm is put off when it rings too early, and not at every
/// message: that would cost as much as the message.
async fn silence(alarm: &mut Pin<Box<Sleep>>, limit: Duration) {
    let end = Instant::now() + limit;
    loop {
        alarm.as_mut().await;
        if Instant::now() >= end {
            return;
        }
        alarm.as_mut().reset(end);
    }
}

/// The body of an event stream, for hyper.
pub(crate) type EventBody =
    StreamBody<Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>>;

/// The stream as hyper wants it.
pub(crate) fn body(subscriber: Subscriber) -> EventBody {
    let blocks = unfold(subscriber, async |mut subscriber| {
        let blocks = subscriber.next().await?;
        Some((Ok(Frame::data(blocks.into())), subscriber))
    });
    StreamBody::new(Box::pin(blocks))
}

/// The time over which so many streams end: a thousand a second, but the last one by half of the
/// drain, so that there is time to write.
fn spread(open: usize, drain: Duration) -> Duration {
    let open = u32::try_from(open).unwrap_or(u32::MAX);
    Duration::from_millis(1).saturating_mul(open).min(drain / 2)
}

/// Up to half as much again, so that clients that lost the same server do not come back together.
pub(crate) fn jittered(retry: Duration) -> Duration {
    retry.mul_f64(rand::random_range(1.0..=1.5))
}

#[cfg(test)]
mod tests {
    use common::{Data, Draft, Feed, Retention};
    use http_body_util::BodyExt;
    use tokio::time::{Instant, advance};

    use super::*;
    use crate::Config;

    const HEARTBEAT: Duration = Duration::from_secs(15);

    async fn publish(feed: &Feed, text: &str) -> Cursor {
        let draft = Draft::new(Data::text(text));
        feed.publish("a".parse().unwrap(), draft).await.unwrap().id
    }

    /// A subscriber to the topic `a`, and its server.
    fn subscriber(feed: &Feed) -> (Subscriber, Arc<App>) {
        let app = Arc::new(App::new(feed, Config::default(), "[::]:0".parse().unwrap()));
        let subscription = Subscription {
            topics: "a".parse().unwrap(),
            after: feed.head().into(),
            heartbeat: Heartbeat::Checkpoint,
        };
        let place = app.subscribers.clone().try_acquire_owned().unwrap();
        (Subscriber::new(&app, subscription, place), app)
    }

    /// Its stream, past the opening block.
    async fn open(feed: &Feed) -> (EventBody, Arc<App>) {
        let (subscriber, app) = subscriber(feed);
        let mut body = body(subscriber);
        assert!(block(&mut body).await.starts_with(": hello\n"));
        (body, app)
    }

    async fn block(body: &mut EventBody) -> String {
        let frame = body.frame().await.expect("the stream goes on").unwrap();
        String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_heartbeat_comes_after_fifteen_seconds_of_silence_and_traffic_puts_it_off() {
        let feed = Feed::new(Retention::default());
        let (mut body, _app) = open(&feed).await;
        let start = Instant::now();
        assert_eq!(block(&mut body).await, format!("id: {}\n\n", feed.head()));
        assert_eq!(start.elapsed().as_secs(), HEARTBEAT.as_secs());
        advance(Duration::from_secs(10)).await;
        let id = publish(&feed, "news").await;
        assert!(
            block(&mut body)
                .await
                .starts_with(&format!("id: {id}\ndata: "))
        );
        assert_eq!(start.elapsed().as_secs(), 25);
        assert_eq!(block(&mut body).await, format!("id: {id}\n\n"));
        assert_eq!(start.elapsed().as_secs(), 40);
    }

    #[tokio::test]
    async fn what_is_published_as_the_heartbeat_falls_due_is_sent_and_not_skipped() {
        let feed = Feed::new(Retention::default());
        let (subscriber, _app) = subscriber(&feed);
        let id = publish(&feed, "news").await;
        let (blocks, next) = subscriber.checkpoint().await.unwrap();
        assert!(blocks.starts_with(format!("id: {id}\ndata: ").as_bytes()));
        assert_eq!(next, id);
    }

    #[tokio::test(start_paused = true)]
    async fn many_streams_end_over_half_of_the_drain() {
        let feed = Feed::new(Retention::default());
        let (mut body, app) = open(&feed).await;
        // As if nearly all places were taken.
        app.subscribers.try_acquire_many(9_990).unwrap().forget();
        let start = Instant::now();
        app.feed.close();
        assert!(
            block(&mut body)
                .await
                .starts_with(": the server is going away\nretry: ")
        );
        assert!(
            start.elapsed() <= Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
        assert!(body.frame().await.is_none());
    }

    #[test]
    fn few_streams_end_at_once_and_many_over_half_of_the_drain() {
        let drain = Duration::from_secs(10);
        assert_eq!(spread(0, drain), Duration::ZERO);
        assert_eq!(spread(20, drain), Duration::from_millis(20));
        assert_eq!(spread(5_000, drain), Duration::from_secs(5));
        assert_eq!(spread(usize::MAX, drain), Duration::from_secs(5));
    }

    #[test]
    fn a_retry_is_up_to_half_as_long_again() {
        let retry = Duration::from_secs(2);
        let drawn: Vec<Duration> = (0..1_000).map(|_| jittered(retry)).collect();
        assert!(
            drawn
                .iter()
                .all(|drawn| (retry..=retry * 3 / 2).contains(drawn))
        );
        assert!(drawn.iter().max() > drawn.iter().min());
    }
}
