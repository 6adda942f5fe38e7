//! The wait: one race of news, deadline and drain.
//!
//! A fourth runner is not seen below: the client. When it leaves, hyper drops the future of its
//! answer, and the wait with it, which frees its place in the feed and its permit. Leaving is
//!
//! - a FIN, also of one direction: who will send nothing more is taken for gone (a half-close looks
//!   the same as a close until something is written to it);
//! - an RST.
//!
//! Not leaving is a second request that is pipelined behind the first: its bytes are kept, and it
//! is answered in its turn. But with bytes unread hyper looks no further, and whoever pipelines and
//! leaves is not missed before the wait is over. That is one reason why every wait has a deadline;
//! a client that vanished without a FIN is the other.

use std::{str::FromStr, time::Duration};

use common::{Cursor, Feed, FeedError, Page, PageLimit, Topics};
use tokio::time::sleep;

/// The longest wait that a client may ask for, in seconds: proxies give up after 60.
const LONGEST: u64 = 55;

/// `wait=`: seconds, 0 to 55. 0 is a short poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait(pub(crate) Duration);

impl FromStr for Wait {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seconds = text.parse().ok().filter(|seconds| *seconds <= LONGEST);
        seconds
            .map(|seconds| Self(Duration::from_secs(seconds)))
            .ok_or_else(|| format!("a wait is a whole number of seconds from 0 to {LONGEST}"))
    }
}

/// Waits until `topics` have news after `after`, for at most `time`. The page is empty if the time
/// was up or the server drains.
///
/// # Errors
/// The feed's, but for [`FeedError::Closed`], which is the drain.
pub(crate) async fn wait(
    feed: &Feed,
    topics: &Topics,
    after: Cursor,
    limit: PageLimit,
    time: Duration,
) -> Result<Page, FeedError> {
    let after = after.into();
    let news = tokio::select! {
        news = feed.next(topics, &after, limit) => Some(news),
        () = sleep(time) => None,
    };
    match news {
        // The deadline, or the drain: an empty page, or else news that came this very moment.
        None | Some(Err(FeedError::Closed)) => feed.read(topics, &after, limit).await,
        Some(news) => news,
    }
}

/// Up to a sixteenth less than `time`, by `random` from 0 to 1. Never more: the client's own timer,
/// and each proxy's, counts from what was asked for.
pub(crate) fn shortened(time: Duration, random: f64) -> Duration {
    time.mul_f64(1.0 - random / 16.0)
}
