//! A server for a test, and its knobs.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::time::Duration;

use common::{Feed, Retention};
use harness::{
    TestServer,
    contract::{ALLOWED_ORIGIN, MAX_MESSAGE, READ_TIMEOUT},
};
use short_polling::{Config, run};

/// A server with a new feed.
pub(crate) async fn start(config: Config) -> TestServer {
    start_with(Feed::new(Retention::default()), config).await
}

/// A server with this feed. With `TAKEOVER=off` in the environment the whole suite runs on plain hyper.
pub(crate) async fn start_with(feed: Feed, mut config: Config) -> TestServer {
    config.takeover &= std::env::var("TAKEOVER").map_or(true, |value| value != "off");
    TestServer::start(|listener, shutdown| run(listener, feed, config, shutdown)).await
}

/// Small limits and short times, so that a test reaches them.
pub(crate) fn small() -> Config {
    let mut config = Config::default();
    config.server.max_message = MAX_MESSAGE;
    config.server.allow_origin = vec![ALLOWED_ORIGIN.parse().expect("an origin")];
    config.server.read_timeout = Duration::from_secs_f64(READ_TIMEOUT);
    config
}
