//! An open stream is taken out of hyper, and no byte of an earlier answer is lost.
#![allow(clippy::unwrap_used, reason = "a test")]

mod setup;

use harness::Wire;
use setup::{config, start};

const PAGE: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const STREAM: &str = "GET /topics/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// Enough pages to fill the socket's buffers while the client does not read, 10 MiB.
const PAGES: usize = 1_500;

#[tokio::test]
async fn a_stream_behind_an_answer_that_the_client_has_not_read_follows_it_whole() {
    let server = start(config()).await;
    let mut wire = Wire::connect_narrow(server.addr(), 4_096).await;
    let path = "x".repeat(14_000);
    let early = format!("POST /{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx");
    wire.send([PAGE.repeat(PAGES).as_str(), &early, STREAM].concat())
        .await;
    for _ in 0..PAGES {
        assert_eq!(wire.read_response().await.status, 200);
    }
    let answer = wire.read_response().await;
    assert!(answer.status == 404 && answer.text().contains(&path[..99]));
    assert!(wire.read_head().await.contains("text/event-stream"));
    wire.read_until(": hello\n").await;
    server.post("/topics/a", "after all of it").await;
    wire.read_until("\"data\":\"after all of it\"}").await;
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
