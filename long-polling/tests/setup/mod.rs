//! A server for a test, and its knobs.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::time::Duration;

use common::{Data, Draft, Feed, Retention};
use harness::{
    PATIENCE, TestServer,
    contract::{ALLOWED_ORIGIN, MAX_MESSAGE, READ_TIMEOUT},
};
use long_polling::{Config, run};
use tokio::{task::yield_now, time::timeout};

/// The defaults. With `TAKEOVER=off` in the environment the whole suite runs on plain hyper.
pub(crate) fn config() -> Config {
    let takeover = std::env::var("TAKEOVER").map_or(true, |value| value != "off");
    Config {
        takeover,
        ..Config::default()
    }
}

/// A server with a new feed.
pub(crate) async fn start(config: Config) -> TestServer {
    start_with(Feed::new(Retention::default()), config).await
}

/// A server with this feed.
pub(crate) async fn start_with(feed: Feed, config: Config) -> TestServer {
    TestServer::start(|listener, shutdown| run(listener, feed, config, shutdown)).await
}

/// Small limits and short times, so that a test reaches them.
pub(crate) fn small() -> Config {
    let mut config = config();
    config.server.max_message = MAX_MESSAGE;
    config.server.allow_origin = vec![ALLOWED_ORIGIN.parse().expect("an origin")];
    config.server.read_timeout = Duration::from_secs_f64(READ_TIMEOUT);
    config
}

/// Returns when this many polls wait. Asks again and again, because the feed sends no event for it.
pub(crate) async fn until_waiting(feed: &Feed, polls: usize) {
    let waiting = async {
        while feed.waiters() != polls {
            yield_now().await;
        }
    };
    let waited = timeout(PATIENCE, waiting).await;
    waited.unwrap_or_else(|_| panic!("{} polls wait and not {polls}", feed.waiters()));
}

/// The output of `future`, which must be ready within a test's patience. For a loop: each turn has a limit, but
/// the loop as a whole has none.
pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    let done = timeout(PATIENCE, future).await;
    done.expect("it happens in time")
}

/// Publishes on the feed itself.
pub(crate) async fn publish(feed: &Feed, topic: &str, data: &str) -> String {
    let topic = topic.parse().expect("a topic");
    let published = feed.publish(topic, Draft::new(Data::text(data))).await;
    published.expect("a feed in memory takes it").id.to_string()
}
