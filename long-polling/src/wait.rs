//! The wait: one race of news, deadline and drain.
//!
//! A fourth runner is not seen below: the client. When it leaves, whoever polls the future of its
//! answer drops it (hyper, or `takeover.rs`), and the wait with it, which frees its place in the feed
//! and its permit. Leaving is
//!
//! - a FIN, also of one direction: who will send nothing more is taken for gone (a half-close looks
//!   the same as a close until something is written to it);
//! - an RST.
//!
//! Not leaving is a second request that is pipelined behind the first: its bytes are kept, and it
//! is answered in its turn. But with bytes unread hyper looks no further, and whoever pipelines and
//! leaves is not missed before the wait is over; `takeover.rs` reads on, and misses at once whoever
//! pipelined no more than it keeps. That is one reason why every wait has a deadline; a client that
//! vanished without a FIN is the other.

use std::{str::FromStr, time::Duration};

use common::{After, Feed, FeedError, Page, PageLimit, Topics};
use tokio::time::sleep;

/// The longest wait that a client may ask for, in seconds: proxies give up after 60.
const LONGEST: u64 = 55;

/// `wait=`: seconds, 0 to 55. 0 is a short poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait(pub(crate) Duration);

impl FromStr for Wait {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Only as it would be printed: no sign, no zero in front.
        let is_one = |seconds: &u64| *seconds <= LONGEST && seconds.to_string() == text;
        let seconds = text.parse().ok().filter(is_one);
        seconds
            .map(|seconds| Self(Duration::from_secs(seconds)))
            .ok_or_else(|| format!("a wait is a whole number of seconds from 0 to {LONGEST}"))
    }
}

/// `--wait`, in the same words.
pub(crate) fn knob(text: &str) -> Result<Duration, String> {
    text.parse().map(|Wait(time)| time)
}

/// Waits until `topics` have news after `after`, for at most `time`. The page is empty if the time
/// was up or the server drains.
///
/// # Errors
/// The feed's, but for [`FeedError::Closed`], which is the drain.
pub(crate) async fn wait(
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
    match news {
        // The deadline, or the drain: an empty page, or else news that came this very moment.
        None | Some(Err(FeedError::Closed)) => feed.read(topics, after, limit).await,
        Some(news) => news,
    }
}

/// Up to a sixteenth less than `time`, by `random` from 0 to 1. Never more: the client's own timer,
/// and each proxy's, counts from what was asked for.
pub(crate) fn shortened(time: Duration, random: f64) -> Duration {
    time.mul_f64(1.0 - random / 16.0)
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
