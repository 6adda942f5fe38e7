//! One poll: answered at once, answered after a wait, or refused.
//!
//! The wait is a race of news, deadline and drain. A reset of the connection also ends the wait, but not
//! here: `serve_unbuffered` drops the answer's future. That frees the wait's entry in the feed, and its
//! slot. Plain hyper does not read while it waits, and sees a reset only when it writes.
//!
//! A FIN does not end the wait. A client that sends no more may still want its answer (RFC 9112 §9.6), and a
//! client that closed the connection looks the same until something is written. So a client that left
//! keeps its slot until the deadline. That is why every wait has one.

use std::{str::FromStr, time::Duration};

use common::{
    After, Feed, FeedError, Newest, Page, PageLimit, Pieces, Problem, Query, Topics, retry_after,
};
use hyper::{
    Method, Request, Response,
    header::{self, HeaderValue},
};
use tokio::{sync::Semaphore, time::sleep};
use tracing::{debug, trace};

/// What all polls of a server share.
#[derive(Debug)]
pub struct Polls {
    feed: Feed,
    /// How many polls may wait at one time.
    limit: usize,
    /// One permit for each poll that may still begin to wait.
    slots: Semaphore,
    /// How long a poll waits if its request has no `wait=`.
    wait: Duration,
}

/// What one client asks for.
#[derive(Debug)]
pub struct Poll {
    topics: Topics,
    after: After,
    limit: PageLimit,
    /// How long the poll may wait.
    time: Duration,
}

impl Polls {
    /// Polls of `feed`. At most `limit` of them wait at one time, each for `wait` by default.
    pub fn new(feed: Feed, limit: usize, wait: Duration) -> Self {
        Self {
            feed,
            limit,
            slots: Semaphore::new(limit),
            wait,
        }
    }

    /// Reads a request for `topics`: `after=`, `limit=`, `newest=` and `wait=`. The result borrows nothing of the
    /// request, so that the caller can drop it, and with it hyper's buffer, before the wait.
    ///
    /// # Errors
    /// 400 if the topics or a parameter do not parse.
    pub fn parse<B>(&self, topics: &str, request: &Request<B>) -> Result<Poll, Problem> {
        let topics = topics.parse().map_err(Problem::bad_request)?;
        let query = Query::of(request.uri());
        let Wait(time) = query.get("wait")?.unwrap_or(Wait(self.wait));
        // A HEAD gets no page, so it has nothing to wait for.
        let at_once = request.method() == Method::HEAD;
        let after = query.get("after")?.unwrap_or(After::Earliest);
        let limit: PageLimit = query.get("limit")?.unwrap_or_default();
        Ok(Poll {
            topics,
            limit: PageLimit {
                newest: query.get::<Newest>("newest")?.is_some(),
                ..limit.of_poll(&after)
            },
            after,
            time: if at_once { Duration::ZERO } else { time },
        })
    }

    /// What is newer than the poll's cursor, as soon as there is something or the wait is over.
    /// The poll is borrowed: a value moved across an await is stored twice in the future
    /// (rust-lang/rust#62958), and many polls wait here.
    ///
    /// # Errors
    /// 503 if too many polls wait, or the feed fails.
    pub async fn answer(&self, poll: &mut Poll) -> Result<Response<Pieces>, Problem> {
        let now = self.feed.read(&poll.topics, &poll.after, poll.limit);
        // `latest` becomes an ordinary position: the head at this moment.
        poll.after = match now.await.map_err(unavailable)? {
            page if page.is_news() || poll.time.is_zero() => return Ok(self.page(page)),
            empty => empty.next.into(),
        };
        let Ok(_slot) = self.slots.try_acquire() else {
            return Err(self.refusal());
        };
        let time = shortened(poll.time, rand::random());
        let page = wait(&self.feed, &poll.topics, &poll.after, poll.limit, time).await;
        Ok(self.page(page.map_err(unavailable)?))
    }

    fn page(&self, page: Page) -> Response<Pieces> {
        let mut response = Response::new(page.into_json());
        response.headers_mut().extend([
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            ),
            // The same request may have another answer a moment later.
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ]);
        if self.feed.is_closed() {
            // The next poll has to go to another server.
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn refusal(&self) -> Problem {
        debug!("at the subscriber limit");
        trace!(count.refused = 1);
        let detail = format!("{} polls are waiting already", self.limit);
        // Kept open, the connections of refused clients would use up those that are left for others.
        let close = HeaderValue::from_static("close");
        Problem::unavailable(detail, retry_after()).with(header::CONNECTION, close)
    }
}

fn unavailable(error: FeedError) -> Problem {
    Problem::unavailable(error, retry_after())
}

/// Waits until `topics` have news after `after`, for at most `time`. The page is empty if the time
/// is up or the server drains.
async fn wait(
    feed: &Feed,
    topics: &Topics,
    after: &After,
    limit: PageLimit,
    time: Duration,
) -> Result<Page, FeedError> {
    let news = tokio::select! {
        news = feed.next(topics, after, limit) => Some(news),
        () = sleep(time) => None,
    };
    let outcome = match &news {
        Some(Ok(_)) => "news",
        Some(Err(_)) => "ended",
        None => "timeout",
    };
    trace!(count.waits = outcome);
    match news {
        // At the deadline or the drain: news may have come at the same moment.
        None | Some(Err(FeedError::Closed)) => feed.read(topics, after, limit).await,
        Some(news) => news,
    }
}

/// Up to a sixteenth less than `time`, so that clients spread. `random` is from 0 to 1. Never more than
/// `time`, because the timeouts of the client and of proxies are set for the time that was asked for.
fn shortened(time: Duration, random: f64) -> Duration {
    time.mul_f64(1.0 - random / 16.0)
}

/// The longest wait that a client may ask for, in seconds: proxies give up after 60.
const LONGEST: u64 = 55;

/// `wait=`: whole seconds, 0 to 55. 0 is a short poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait(pub Duration);

impl FromStr for Wait {
    type Err = String;

    /// Takes only the canonical form: no sign, no leading zero.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(seconds @ 0..=LONGEST) if text == u64::to_string(&seconds) => {
                Ok(Self(Duration::from_secs(seconds)))
            }
            _ => Err(format!(
                "a wait is a whole number of seconds from 0 to {LONGEST}"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
        task::{Context, Wake, Waker},
    };

    use common::{Data, Draft, Retention};
    use proptest::prelude::*;
    use tokio::time::{Instant, advance};

    use super::*;

    const TWENTY: Duration = Duration::from_secs(20);

    fn feed() -> Feed {
        Feed::new(Retention::default())
    }

    async fn publish(feed: &Feed, topic: &str) {
        let draft = Draft::new(Data::text("x"));
        feed.publish(topic.parse().unwrap(), draft).await.unwrap();
    }

    async fn wait_for_news(feed: &Feed, time: Duration) -> Page {
        let (topics, limit) = ("news".parse().unwrap(), PageLimit::default());
        wait(feed, &topics, &feed.head().into(), limit, time)
            .await
            .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_ends_a_wait_with_an_empty_page() {
        let (feed, started) = (feed(), Instant::now());
        assert!(!wait_for_news(&feed, TWENTY).await.is_news());
        assert_eq!(started.elapsed().as_secs(), 20);
        assert_eq!(feed.waiters(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn news_end_a_wait_at_once() {
        let (feed, started) = (feed(), Instant::now());
        let later = async {
            advance(TWENTY / 2).await;
            publish(&feed, "news").await;
        };
        let (page, ()) = tokio::join!(wait_for_news(&feed, TWENTY), later);
        assert_eq!(page.messages.len(), 1);
        assert_eq!(started.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn the_drain_ends_a_wait_at_once_with_an_empty_page() {
        let (feed, started) = (feed(), Instant::now());
        let later = async {
            advance(TWENTY / 2).await;
            feed.close();
        };
        let (page, ()) = tokio::join!(wait_for_news(&feed, TWENTY), later);
        assert!(!page.is_news());
        assert_eq!(started.elapsed().as_secs(), 10);
        assert_eq!(feed.waiters(), 0);
    }

    #[tokio::test]
    async fn a_client_that_leaves_frees_its_wait_at_once() {
        let (feed, mut task) = (feed(), Context::from_waker(Waker::noop()));
        {
            let mut wait = pin!(wait_for_news(&feed, TWENTY));
            assert!(wait.as_mut().poll(&mut task).is_pending());
            assert_eq!(feed.waiters(), 1);
        }
        assert_eq!(feed.waiters(), 0);
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[tokio::test]
    async fn traffic_on_other_topics_does_not_wake_a_wait() {
        let (feed, wakes) = (feed(), Arc::<Wakes>::default());
        let waker = wakes.clone().into();
        let mut task = Context::from_waker(&waker);
        let mut wait = pin!(wait_for_news(&feed, TWENTY));
        assert!(wait.as_mut().poll(&mut task).is_pending());
        for _ in 0..100 {
            publish(&feed, "other").await;
        }
        assert_eq!(wakes.0.load(SeqCst), 0);
        publish(&feed, "news").await;
        assert_eq!(wakes.0.load(SeqCst), 1);
        assert!(wait.as_mut().poll(&mut task).is_ready());
    }

    proptest! {
        #[test]
        fn the_jitter_only_shortens_and_by_a_sixteenth_at_most(seconds in 0..=LONGEST, random in 0.0..=1.0) {
            let asked = Duration::from_secs(seconds);
            let time = shortened(asked, random);
            prop_assert!(time <= asked && time >= asked * 15 / 16);
        }
    }
}
