//! A client that leaves, in any way, frees its slot at once and disturbs no other client.

mod setup;

use common::Feed;
use harness::{End, Frame, TestServer, WsWire, handshake};
use setup::{config, data, feed, live, publish, start, start_with, until_waiters};

/// Two sessions of one topic. The second one stays.
async fn two() -> (TestServer, Feed, WsWire, WsWire) {
    let feed = feed();
    let server = start_with(feed.clone(), config()).await;
    let (leaves, mut stays) = (
        server.websocket("/topics/a").await,
        server.websocket("/topics/a").await,
    );
    live(&mut stays).await;
    until_waiters(&feed, 2).await;
    (server, feed, leaves, stays)
}

/// The other session is served, and the server drains without cutting a connection.
async fn goes_on(server: TestServer, feed: Feed, mut stays: WsWire) {
    until_waiters(&feed, 1).await;
    publish(&feed, "a", "still here").await;
    assert_eq!(data(&mut stays).await, "still here");
    drop(stays);
    let drained = server.stop().await;
    assert_eq!(drained.cut, 0);
}

#[tokio::test]
async fn a_reset_ends_the_session() {
    let (server, feed, leaves, stays) = two().await;
    leaves.into_wire().reset();
    goes_on(server, feed, stays).await;
}

#[tokio::test]
async fn a_reset_before_the_101_frees_the_slot() {
    let server = start(config()).await;
    for _ in 0..20 {
        let mut leaves = server.wire().await;
        leaves.send(handshake("localhost", "/topics/a", &[])).await;
        leaves.reset();
    }
    // Accepted after the others.
    assert_eq!(server.get("/healthz").await.status, 200);
    let drained = server.stop().await;
    assert_eq!(drained.cut, 0);
}

#[tokio::test]
async fn an_end_of_file_without_a_close_frame_ends_the_session() {
    let (server, feed, mut leaves, stays) = two().await;
    live(&mut leaves).await;
    leaves.wire().half_close().await;
    // No close frame comes.
    assert_eq!(leaves.wire().closed().await, (End::Eof, Vec::new()));
    goes_on(server, feed, stays).await;
}

#[tokio::test]
async fn a_close_is_answered_with_its_code_and_the_server_closes_first() {
    for (code, reason) in [(1000, "done"), (1001, ""), (3000, "ours"), (4999, "last")] {
        let (server, feed, mut leaves, stays) = two().await;
        live(&mut leaves).await;
        leaves.close(code, reason).await;
        assert_eq!(leaves.expect_close().await, (code, reason.into()));
        assert_eq!(leaves.wire().closed().await, (End::Eof, Vec::new()));
        drop(leaves);
        goes_on(server, feed, stays).await;
    }
}

#[tokio::test]
async fn a_close_without_a_code_is_answered_without_one() {
    let (server, feed, mut leaves, stays) = two().await;
    live(&mut leaves).await;
    leaves.send_frame(Frame::client(8, "")).await;
    assert_eq!(leaves.expect_close().await, (1005, String::new()));
    drop(leaves);
    goes_on(server, feed, stays).await;
}

#[tokio::test]
async fn what_comes_after_the_close_is_not_acted_upon() {
    let (server, feed, mut leaves, stays) = two().await;
    live(&mut leaves).await;
    let publish = Frame::text(r#"{"publish":{"topic":"a","data":1,"ref":1}}"#);
    let bytes = [Frame::close(1000, "").encode(), publish.encode()].concat();
    leaves.send_raw(bytes).await;
    assert_eq!(leaves.expect_close().await.0, 1000);
    assert_eq!(leaves.wire().closed().await, (End::Eof, Vec::new()));
    assert_eq!(feed.counts().messages, 0);
    drop(leaves);
    goes_on(server, feed, stays).await;
}

#[tokio::test]
async fn sessions_that_come_and_go_leave_no_waiter() {
    let feed = feed();
    let server = start_with(feed.clone(), config()).await;
    for _ in 0..10 {
        let mut sessions = Vec::new();
        for n in 0..20 {
            sessions.push(server.websocket(&format!("/topics/t{n},all")).await);
        }
        until_waiters(&feed, 20).await;
        publish(&feed, "all", "x").await;
        for session in &mut sessions {
            live(session).await;
            assert_eq!(data(session).await, "x");
        }
        drop(sessions);
        until_waiters(&feed, 0).await;
    }
    server.stop().await;
}
