//! HTTP/1.1 to the letter.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use std::time::Duration;

use harness::{
    TestServer,
    contract::{is_not_confused, speaks_http},
};
use setup::{local, start};

async fn server() -> TestServer {
    let mut config = local();
    config.server.read_timeout = Duration::from_secs(2); // shorter than a test's patience
    start(config).await
}

#[tokio::test(start_paused = true)]
async fn wrong_and_unusual_requests_are_answered_as_the_rfc_says() {
    speaks_http(vec![server().await]).await;
}

#[tokio::test(start_paused = true)]
async fn random_requests_get_documented_answers_however_they_are_cut() {
    is_not_confused(vec![server().await]).await;
}
