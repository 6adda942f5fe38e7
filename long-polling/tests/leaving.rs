//! What counts as leaving and what does not. A client that leaves frees its wait and its slot.

mod setup;

use std::time::Duration;

use common::{Feed, Retention};
use harness::{TestServer, Wire};
use long_polling::Config;
use setup::{config, publish, start_with, until_waiting};

const GET: &str = "GET /topics/news HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn a_client_that_closes_has_left() {
    leaves(async |wire| drop(wire)).await;
}

#[tokio::test]
async fn a_client_that_resets_has_left() {
    leaves(async |wire| wire.reset()).await;
}

#[tokio::test]
async fn a_client_that_shuts_its_sending_side_has_left() {
    leaves(async |mut wire| {
        wire.half_close().await;
        assert!(wire.closed().await.1.is_empty());
    })
    .await;
}

/// The wait, and the only slot, are free again after `leave`.
async fn leaves(leave: impl AsyncFn(Wire)) {
    let (feed, server) = server(Duration::from_secs(25)).await;
    for _ in 0..3 {
        let mut wire = server.wire().await;
        wire.send(GET).await;
        until_waiting(&feed, 1).await;
        leave(wire).await;
        until_waiting(&feed, 0).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_pipelined_second_poll_is_answered_in_its_turn() {
    let (feed, server) = server(Duration::from_secs(25)).await;
    let mut wire = server.wire().await;
    wire.send(GET).await;
    until_waiting(&feed, 1).await;
    wire.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    publish(&feed, "news", "hello").await;
    assert!(wire.read_response().await.text().contains("hello"));
    assert_eq!(wire.read_response().await.text(), "ok\n");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_pipelines_and_leaves_is_missed_when_the_wait_is_over_at_the_latest() {
    let (feed, server) = server(Duration::from_millis(100)).await;
    let mut wire = server.wire().await;
    wire.send(GET).await;
    until_waiting(&feed, 1).await;
    wire.send(GET).await;
    drop(wire);
    until_waiting(&feed, 0).await;
    server.stop().await;
}

async fn server(wait: Duration) -> (Feed, TestServer) {
    let feed = Feed::new(Retention::default());
    let config = Config {
        max_subscribers: 1,
        wait,
        ..config()
    };
    let server = start_with(feed.clone(), config).await;
    (feed, server)
}
