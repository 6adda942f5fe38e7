//! The response that stays open: replay, live, heartbeats, end.
//!
//! A subscriber has no queue. It pulls a page when the connection asks for more, and the connection
//! asks only when the socket takes bytes. So a slow reader costs its cursor and one page.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use common::{After, Cursor, Feed, FeedError, Newest, Page, PageLimit, Problem, Query, Topics};
use futures_util::stream::unfold;
use http_body_util::{BodyExt, Either, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response,
    body::Frame,
    header::{self, HeaderName, HeaderValue},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, trace, warn};

use crate::event;

/// The most that one write carries. A stalled reader holds at most this much of the feed in memory,
/// or one message if that is longer.
const PAGE: PageLimit = PageLimit {
    messages: 100,
    bytes: 8 * 1_024,
    newest: false,
};

/// The limits and times of a server's streams.
#[derive(Debug, Clone, Copy)]
pub struct StreamLimits {
    /// How many streams may be open at one time.
    pub streams: usize,
    /// A stream that was silent for this long gets a heartbeat, so that proxies and clients know
    /// that it is alive.
    pub heartbeat: Duration,
    /// How long a client waits before it reconnects. Each stream gets a random value, up to 50 %
    /// longer.
    pub retry: Duration,
    /// A stream ends at this age, or up to a tenth earlier.
    pub age: Duration,
    /// At shutdown, streams end over up to half of this time.
    pub drain: Duration,
}

/// What all streams of a server share.
#[derive(Debug)]
pub struct Streams {
    pub(crate) feed: Feed,
    limits: StreamLimits,
    /// One permit for each stream that may still open.
    slots: Arc<Semaphore>,
}

/// The body of an answer: complete, or a stream.
pub type AnswerBody = Either<Full<Bytes>, Subscriber>;

impl Streams {
    /// Streams of `feed`. They end when it is closed.
    pub fn new(feed: Feed, limits: StreamLimits) -> Self {
        Self {
            feed,
            limits,
            slots: Arc::new(Semaphore::new(limits.streams)),
        }
    }

    /// How many streams are open.
    pub fn open(&self) -> usize {
        self.limits.streams - self.slots.available_permits()
    }

    /// Answers a request for `topics`: where to start is in `Last-Event-ID`, `lastEventId=` or
    /// `after=`; `newest=1` asks for only the newest message of each topic on a page, and
    /// `heartbeat=event` for heartbeats that a page can see.
    ///
    /// # Errors
    /// 400 if the topics or a parameter do not parse.
    pub fn subscribe<B>(
        self: &Arc<Self>,
        topics: &str,
        request: &Request<B>,
    ) -> Result<Response<AnswerBody>, Problem> {
        let newest: Option<Newest> = Query::of(request.uri()).get("newest")?;
        let subscription = Subscription {
            topics: topics.parse().map_err(Problem::bad_request)?,
            newest: newest.is_some(),
            heartbeat_events: heartbeat_events(request)?,
        };
        let after = requested_after(request)?;
        let body = if request.method() == Method::HEAD {
            Either::Left(Full::default())
        } else if let Ok(slot) = self.slots.clone().try_acquire_owned() {
            Either::Right(Subscriber {
                reader: Reader::new(self.clone(), subscription, after),
                slot,
                state: State::Opening,
            })
        } else {
            Either::Left(Full::from(self.refusal()))
        };
        let mut response = Response::new(body);
        // Otherwise hyper would add `keep-alive` for a client of HTTP/1.0 that asks for it.
        *response.version_mut() = request.version();
        response.headers_mut().extend(fields());
        Ok(response)
    }

    /// The body of a 200, because any other status would stop a browser's EventSource for good.
    fn refusal(&self) -> String {
        info!("a stream is refused: at the subscriber limit");
        trace!(count.refused = 1);
        event::farewell("at the subscriber limit", self.retry())
    }

    fn retry(&self) -> Duration {
        jittered(self.limits.retry)
    }
}

/// Where to start. The first of these that is there and not empty: `Last-Event-ID`, which a browser sends
/// when it reconnects; the last `lastEventId=`, for polyfills that cannot set a header field; `after=`.
/// Without any of them the stream starts at the head.
///
/// A malformed id is read leniently and becomes a gap: an error status would stop an EventSource for good.
fn requested_after<B>(request: &Request<B>) -> Result<After, Problem> {
    let query = Query::of(request.uri());
    let queried = query.get("after")?;
    let field = request.headers().get("last-event-id");
    let parameters = query.values("lastEventId").rev().map(str::as_bytes);
    let mut ids = field
        .map(HeaderValue::as_bytes)
        .into_iter()
        .chain(parameters);
    // Before its first event a browser sends no id. Some polyfills send an empty one.
    match ids.find(|id| !id.is_empty()) {
        Some(id) => Ok(After::lenient(&String::from_utf8_lossy(id))),
        None => Ok(queried.unwrap_or(After::Latest)),
    }
}

fn heartbeat_events<B>(request: &Request<B>) -> Result<bool, Problem> {
    let queried: Option<String> = Query::of(request.uri()).get("heartbeat")?;
    match queried.as_deref() {
        None => Ok(false),
        Some("event") => Ok(true),
        Some(_) => Err(Problem::bad_request("heartbeat must be event or absent")),
    }
}

/// The header fields. They stop caches and proxies from holding events back.
fn fields() -> [(HeaderName, HeaderValue); 5] {
    [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store, no-transform"),
        (HeaderName::from_static("x-accel-buffering"), "no"), // nginx
        (HeaderName::from_static("incremental"), "?1"),       // draft-ietf-httpbis-incremental
        // A stream is the last answer on its connection. A refused client is disconnected too: otherwise
        // its idle connection would count against the limit.
        (header::CONNECTION, "close"),
    ]
    .map(|(name, value)| (name, HeaderValue::from_static(value)))
}

/// What a client asks for, without the position where it starts. Streams with equal subscriptions can share
/// their pages.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subscription {
    topics: Topics,
    /// Whether a page has only the newest message of each topic.
    newest: bool,
    /// Whether heartbeats are events.
    heartbeat_events: bool,
}

/// One open stream.
#[derive(Debug)]
pub struct Subscriber {
    /// Reads the feed.
    pub reader: Reader,
    /// Freed when the stream ends, however it ends.
    pub slot: OwnedSemaphorePermit,
    pub(crate) state: State,
}

#[derive(Debug)]
pub(crate) enum State {
    Opening,
    Open,
    Ended,
}

impl Subscriber {
    /// Waits for the next whole blocks. `None` ends the stream. Call it only when the previous blocks
    /// are written: that is the backpressure.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        match self.state {
            State::Opening => Some(self.open()),
            State::Open => Some(self.read_on().await),
            State::Ended => None,
        }
    }

    fn open(&mut self) -> Vec<u8> {
        self.state = State::Open;
        let start = self.reader.start();
        event::opening(self.reader.streams.retry(), start).into()
    }

    async fn read_on(&mut self) -> Vec<u8> {
        match self.reader.next().await {
            Ok(Some(blocks)) => {
                trace!(count.deliveries = self.reader.messages);
                blocks
            }
            Ok(None) => self.farewell("the stream is at its greatest age"),
            // Boxed, so that a waiting stream does not reserve memory for it.
            Err(error) => Box::pin(self.end(&error)).await,
        }
    }

    /// Ends the stream because the feed has. Each stream waits for a random time first, so that the next
    /// server need not accept all clients at once.
    async fn end(&mut self, error: &FeedError) -> Vec<u8> {
        if *error != FeedError::Closed {
            warn!(%error, "the feed failed a stream");
        }
        let streams = &self.reader.streams;
        let time = spread(streams.open(), streams.limits.drain);
        sleep(time.mul_f64(rand::random())).await;
        self.farewell("the server is going away")
    }

    /// Ends the stream between two blocks and tells the client when to reconnect.
    fn farewell(&mut self, reason: &str) -> Vec<u8> {
        self.state = State::Ended;
        event::farewell(reason, self.reader.streams.retry()).into()
    }
}

/// Reads the pages of a subscription. A clone goes on from the same position.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(crate) streams: Arc<Streams>,
    /// What it reads.
    pub subscription: Subscription,
    /// The position after the last blocks: the next read starts there.
    pub(crate) after: After,
    /// The number of the topics' last message up to that position.
    pub last: u64,
    /// How many messages the last blocks hold.
    pub messages: usize,
    /// Whether it has read all there was, and waits for news. Otherwise [`Reader::next`] reads a page without
    /// waiting, and the last such page ends with a heartbeat.
    pub is_live: bool,
    /// When the stream ends because of its age. Without this, a proxy that reads on after its own client has
    /// left would keep the slot forever.
    pub end_at: Instant,
    /// When a heartbeat is due, if nothing is sent before.
    heartbeat_at: Instant,
}

impl Reader {
    fn new(streams: Arc<Streams>, subscription: Subscription, after: After) -> Self {
        let StreamLimits { heartbeat, age, .. } = streams.limits;
        let now = Instant::now();
        Self {
            streams,
            subscription,
            after,
            last: 0,
            messages: 0,
            is_live: false,
            end_at: now + shortened(age),
            heartbeat_at: now + heartbeat,
        }
    }

    /// Where it starts. `latest` means this moment, not the moment of the first read.
    fn start(&mut self) -> Option<Cursor> {
        let feed = &self.streams.feed;
        let start = feed.position(&self.subscription.topics, &self.after);
        if let (After::Latest, Some(start)) = (&self.after, start) {
            self.after = start.into();
        }
        start
    }

    /// The next blocks: what there is, then news, or a heartbeat after a long silence. `None` once the stream is
    /// at its greatest age. Cancel-safe: dropping the future loses nothing.
    ///
    /// # Errors
    /// Those of the feed.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, FeedError> {
        if Instant::now() >= self.end_at {
            return Ok(None);
        }
        if self.is_live {
            let news = self.news().await;
            if news.is_some() || Instant::now() < self.heartbeat_at {
                return news.transpose();
            }
        }
        // Boxed, because it is rare: a waiting stream does not reserve memory for it.
        Box::pin(self.read_now()).await.map(Some)
    }

    /// Waits for a page and returns its blocks. `None` when a heartbeat is due, or the stream must end.
    async fn news(&mut self) -> Option<Result<Vec<u8>, FeedError>> {
        let (topics, limit) = (&self.subscription.topics, self.limit());
        let news = self.streams.feed.next(topics, &self.after, limit);
        let page = tokio::select! {
            biased; // News first: it is the usual reason for a wake-up.
            page = news => page,
            () = sleep_until(self.heartbeat_at.min(self.end_at)) => return None,
        };
        Some(page.map(|page| self.advance(&page, None)))
    }

    /// A page without waiting. If that is everything, a heartbeat with the feed's position follows. The first
    /// such heartbeat tells a client that it is live. After a silence the page is empty, unless news came
    /// at the same moment.
    async fn read_now(&mut self) -> Result<Vec<u8>, FeedError> {
        let (topics, limit) = (&self.subscription.topics, self.limit());
        let page = self.streams.feed.read(topics, &self.after, limit).await?;
        let heartbeat = (!page.more).then(|| self.heartbeat(page.next));
        Ok(self.advance(&page, heartbeat))
    }

    fn heartbeat(&self, position: Cursor) -> String {
        match self.subscription.heartbeat_events {
            true => event::heartbeat(position),
            false => event::checkpoint(position),
        }
    }

    /// Moves to the end of a page, and returns the page's blocks.
    fn advance(&mut self, page: &Page, heartbeat: Option<String>) -> Vec<u8> {
        self.after = page.then.clone();
        self.last = page.last.seq;
        self.messages = page.messages.len();
        self.is_live |= !page.more;
        self.heartbeat_at = Instant::now() + self.streams.limits.heartbeat;
        event::page(page, heartbeat)
    }

    fn limit(&self) -> PageLimit {
        let newest = self.subscription.newest;
        PageLimit { newest, ..PAGE }
    }
}

/// The time over which this many streams end: a thousand a second, but at most half of the drain,
/// so that there is time to write.
fn spread(open: usize, drain: Duration) -> Duration {
    let open = u32::try_from(open).unwrap_or(u32::MAX);
    Duration::from_millis(1).saturating_mul(open).min(drain / 2)
}

/// Up to 50 % longer, so that clients that lost the same server do not reconnect together.
fn jittered(retry: Duration) -> Duration {
    retry.mul_f64(rand::random_range(1.0..=1.5))
}

/// Up to a tenth less, so that streams that began together do not end together.
fn shortened(age: Duration) -> Duration {
    age.mul_f64(rand::random_range(0.9..=1.0))
}

/// Turns an answer into a body for hyper, which polls it when the socket can take more bytes.
pub fn body(answer: AnswerBody) -> UnsyncBoxBody<Bytes, Infallible> {
    match answer {
        Either::Left(whole) => whole.boxed_unsync(),
        Either::Right(subscriber) => {
            let blocks = unfold(subscriber, async |mut subscriber| {
                let blocks = subscriber.next().await?;
                Some((Ok(Frame::data(blocks.into())), subscriber))
            });
            StreamBody::new(blocks).boxed_unsync()
        }
    }
}

#[cfg(test)]
mod tests {
    use common::{Data, Draft, Retention};
    use tokio::time::advance;

    use super::*;

    type Body = UnsyncBoxBody<Bytes, Infallible>;

    const LIMITS: StreamLimits = StreamLimits {
        streams: 10_000,
        heartbeat: Duration::from_secs(15),
        retry: Duration::from_secs(2),
        age: Duration::from_secs(3_600),
        drain: Duration::from_secs(10),
    };

    async fn publish(feed: &Feed, text: &str) -> Cursor {
        let draft = Draft::new(Data::text(text));
        feed.publish("a".parse().unwrap(), draft).await.unwrap().id
    }

    /// A subscriber to the topic `a`.
    fn subscriber(feed: &Feed) -> Subscriber {
        let streams = Arc::new(Streams::new(feed.handle(), LIMITS));
        let request = Request::get("/").header("Last-Event-ID", feed.head().to_string());
        let answer = streams.subscribe("a", &request.body(()).unwrap()).unwrap();
        let Either::Right(subscriber) = answer.into_body() else {
            panic!("there are slots");
        };
        subscriber
    }

    /// Its stream, live.
    async fn open(feed: &Feed) -> (Body, Arc<Streams>) {
        let subscriber = subscriber(feed);
        let streams = subscriber.reader.streams.clone();
        let mut body = body(Either::Right(subscriber));
        assert!(block(&mut body).await.starts_with(": hello\n"));
        assert_eq!(block(&mut body).await, format!("id: {}\n\n", feed.head()));
        (body, streams)
    }

    async fn block(body: &mut Body) -> String {
        let frame = body.frame().await.expect("the stream goes on").unwrap();
        String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_heartbeat_comes_after_fifteen_seconds_of_silence_and_traffic_puts_it_off() {
        let feed = Feed::new(Retention::default());
        let (mut body, _) = open(&feed).await;
        let start = Instant::now();
        assert_eq!(block(&mut body).await, format!("id: {}\n\n", feed.head()));
        assert_eq!(start.elapsed().as_secs(), LIMITS.heartbeat.as_secs());
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
        let mut subscriber = subscriber(&feed);
        let id = publish(&feed, "news").await;
        let blocks = subscriber.reader.read_now().await.unwrap();
        assert!(blocks.starts_with(format!("id: {id}\ndata: ").as_bytes()));
        assert_eq!(subscriber.reader.after, id.into());
    }

    #[tokio::test(start_paused = true)]
    async fn at_its_greatest_age_a_stream_ends_like_in_a_drain_busy_or_not() {
        for busy in [false, true] {
            let (feed, begun) = (Feed::new(Retention::default()), Instant::now());
            let mut subscriber = subscriber(&feed);
            let end_at = subscriber.reader.end_at;
            let oldest = (LIMITS.age * 9 / 10)..=LIMITS.age;
            assert!(oldest.contains(&(end_at - begun)));
            subscriber.next().await.unwrap();
            let (mut position, mut last) = (feed.head(), next_text(&mut subscriber).await);
            while let Some(id) = last.strip_prefix("id: ") {
                assert!(Instant::now() < end_at + LIMITS.heartbeat, "it goes on");
                position = id.lines().next().unwrap().parse().unwrap();
                if busy {
                    publish(&feed, "news").await;
                    advance(Duration::from_secs(1)).await;
                }
                last = next_text(&mut subscriber).await;
            }
            assert!(last.starts_with(": the stream is at its greatest age\nretry: "));
            let late = Duration::from_millis(if busy { 1_000 } else { 1 });
            assert!(end_at.elapsed() <= late);
            // The client comes back for what was published at the last moment.
            assert_eq!(feed.head().seq - position.seq, u64::from(busy));
            assert!(subscriber.next().await.is_none());
        }
    }

    async fn next_text(subscriber: &mut Subscriber) -> String {
        String::from_utf8(subscriber.next().await.unwrap()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn many_streams_end_over_half_of_the_drain() {
        let feed = Feed::new(Retention::default());
        let (mut body, streams) = open(&feed).await;
        // As if nearly all slots were taken.
        streams.slots.try_acquire_many(9_990).unwrap().forget();
        let start = Instant::now();
        streams.feed.close();
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
