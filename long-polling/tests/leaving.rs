//! What counts as leaving and what does not. A client that leaves frees its wait and its slot.

mod setup;

use std::time::Duration;

use common::{Feed, Retention};
use harness::{End, TestServer};
use long_polling::Config;
use setup::{config, publish, start_with, until_waiting};

const GET: &str = "GET /topics/news HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn a_client_that_resets_has_left() {
    if !config().takeover {
        return; // Plain hyper does not read while it waits, and so does not see it.
    }
    let (feed, server) = server(Duration::from_secs(25)).await;
    for sends_no_more in [false, true] {
        let mut wire = server.wire().await;
        wire.send(GET).await;
        until_waiting(&feed, 1).await;
        if sends_no_more {
            wire.half_close().await;
        }
        wire.reset();
        until_waiting(&feed, 0).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_sends_no_more_is_answered_when_its_wait_is_over() {
    let (feed, server) = server(Duration::from_millis(100)).await;
    let mut wire = server.wire().await;
    wire.send(GET).await;
    until_waiting(&feed, 1).await;
    wire.half_close().await;
    let answer = wire.read_response().await;
    assert!(answer.text().starts_with("{\"messages\":[],"));
    assert_eq!(wire.closed().await, (End::Eof, Vec::new()));
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_closes_keeps_its_slot_until_its_wait_is_over() {
    let (feed, server) = server(Duration::from_millis(100)).await;
    for _ in 0..3 {
        let mut wire = server.wire().await;
        wire.send(GET).await;
        until_waiting(&feed, 1).await;
        drop(wire);
        until_waiting(&feed, 0).await;
    }
    assert_eq!(server.stop().await.cut, 0);
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
