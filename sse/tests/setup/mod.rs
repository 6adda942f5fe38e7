//! A server for a test, and its knobs.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::time::Duration;

use common::{Feed, Retention};
use harness::{
    Block, EventReader, PATIENCE, TestServer,
    contract::{ALLOWED_ORIGIN, MAX_MESSAGE, READ_TIMEOUT},
};
use sse::{Config, run};
use tokio::time::timeout;

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

/// The opening block of a stream that has nothing to replay. Also reads the block after it, which says
/// that the stream is live.
pub(crate) async fn live(stream: &mut EventReader) -> Block {
    let opening = stream.next().await.expect("the stream opens");
    let live = stream.next().await.expect("the stream goes on");
    assert_eq!(
        live.fields,
        [("id".into(), opening.id().expect("a position").into())]
    );
    opening
}

/// The output of `future`, which must be ready within a test's patience. For a loop: each turn has a limit, but
/// the loop as a whole has none.
pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    let done = timeout(PATIENCE, future).await;
    done.expect("it happens in time")
}
