//! HTTP/1.1 to the letter, with plain hyper and with the takeover.

mod setup;

use std::time::Duration;

use harness::{
    TestServer,
    contract::{is_not_confused, speaks_http},
};
use setup::start;
use short_polling::Config;

/// Without room for a subscriber, so that every answer ends.
async fn server(takeover: bool) -> TestServer {
    let mut config = Config {
        takeover,
        ..Config::default()
    };
    config.server.read_timeout = Duration::from_secs(2); // shorter than a test's patience
    start(config).await
}

async fn both() -> Vec<TestServer> {
    vec![server(false).await, server(true).await]
}

#[tokio::test(start_paused = true)]
async fn wrong_and_unusual_requests_are_answered_as_the_rfc_says() {
    speaks_http(both().await).await;
}

#[tokio::test(start_paused = true)]
async fn random_requests_are_answered_the_same_with_and_without_the_takeover() {
    is_not_confused(both().await).await;
}
