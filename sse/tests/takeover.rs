//! The contract on which an open stream leaves hyper: nothing of an earlier answer is lost.
#![allow(clippy::unwrap_used, reason = "a test")]

mod setup;

use common::{Feed, Retention, harness::Wire};
use setup::{config, start, start_with};

const PAGE: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const STREAM: &str = "GET /topics/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// Enough pages to fill the socket's buffers and hyper's while nobody reads.
const PAGES: usize = 2_000;

#[tokio::test]
async fn a_stream_behind_answers_that_the_client_has_not_read_follows_them_whole() {
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config()).await;
    let mut wire = Wire::connect_narrow(server.addr(), 4_096).await;
    // The server stops reading when it cannot write, so the requests are written beside the reading.
    let requests = [PAGE.repeat(PAGES).as_str(), STREAM].concat();
    let mut sent = 0;
    while sent < requests.len() {
        let end = requests.len().min(sent + 4_096);
        wire.send(&requests[sent..end]).await;
        sent = end;
        if sent > 40_000 && sent < requests.len() {
            for _ in 0..4_096 / PAGE.len() {
                assert_eq!(
                    wire.read_response().await.header("content-type"),
                    Some("text/html; charset=utf-8")
                );
            }
        }
    }
    let mut head = wire.read_head().await;
    let mut rest = 0;
    while head.contains("text/html") {
        let length: usize = head
            .split("content-length: ")
            .nth(1)
            .unwrap()
            .split("\r\n")
            .next()
            .unwrap()
            .parse()
            .unwrap();
        wire.read_exact(length).await;
        rest += 1;
        head = wire.read_head().await;
    }
    assert!(
        rest > 100,
        "the answers were still to be written when the stream was asked for"
    );
    assert!(head.contains("text/event-stream"), "{head}");
    wire.read_until(": hello\n").await;
    server.post("/topics/a", "after all of it").await;
    wire.read_until("\"data\":\"after all of it\"}\n\n").await;
    drop(wire);
    server.stop().await;
}

#[tokio::test]
async fn what_the_client_says_during_a_stream_is_thrown_away() {
    let server = start(config()).await;
    let mut wire = server.wire().await;
    wire.send([STREAM, "GET / HTTP/1.1\r\n"].concat()).await;
    wire.read_until(": hello\n").await;
    wire.send("x".repeat(5_000)).await;
    server.post("/topics/a", "news").await;
    wire.read_until("\"data\":\"news\"}\n\n").await;
    drop(wire);
    server.stop().await;
}

#[tokio::test]
async fn a_request_may_come_byte_by_byte_and_after_others() {
    let server = start(config()).await;
    let mut wire = server.wire().await;
    wire.send_bytewise([PAGE, STREAM].concat()).await;
    assert_eq!(wire.read_response().await.status, 200);
    wire.read_until(": hello\n").await;
    drop(wire);
    server.stop().await;
}
