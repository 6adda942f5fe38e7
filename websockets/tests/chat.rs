//! A session on plain hyper, and a message that is not stored.
#![allow(clippy::unwrap_used, reason = "a test")]

mod setup;

#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/chat.rs"]
mod chat;

use std::io;

use common::{Drained, Feed};
use harness::{End, TestServer, handshake};
use serde_json::json;
use setup::{ask, data, feed, frame, is_alive, is_live, live};
use tokio::time::Instant;

async fn start(feed: Feed) -> TestServer {
    TestServer::start(async |listener, shutdown| {
        let served = chat::serve(listener, feed, shutdown).await;
        let (finished, cut) = (0, 0); // It does not count them.
        served
            .map(|()| Drained { finished, cut })
            .map_err(io::Error::other)
    })
    .await
}

#[tokio::test]
async fn typing_reaches_the_others_in_the_room_and_is_not_stored() {
    let server = start(feed()).await;
    let mut ann = server.websocket("/topics/room").await;
    let mut bob = server.websocket("/topics/room").await;
    let mut elsewhere = server.websocket("/topics/other").await;
    for session in [&mut ann, &mut bob, &mut elsewhere] {
        live(session).await;
    }
    ann.send_text(r#"{"typing":{}}"#).await;
    assert_eq!(frame(&mut bob).await, json!({"typing": {"topic": "room"}}));
    assert!(is_alive(&mut ann).await && is_alive(&mut elsewhere).await);
    let publish = json!({"publish": {"topic": "room", "data": "hello", "ref": 1}});
    assert_eq!(ask(&mut ann, publish).await["ack"]["ref"], 1);
    assert_eq!(data(&mut bob).await, "hello");
    let mut late = server.websocket("/topics/room?after=earliest").await;
    frame(&mut late).await; // subscribed
    assert_eq!(data(&mut late).await, "hello");
    is_live(&mut late).await;
    for bad in [json!({"typing": {"topic": "other"}}), json!({"typing": []})] {
        let error = ask(&mut bob, bad).await;
        assert_eq!(error["error"]["status"], 400);
    }
    drop((ann, bob, elsewhere, late));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_each_session_with_1012_and_waits_for_it_and_no_longer() {
    let server = start(feed()).await;
    let mut session = server.websocket("/topics/room").await;
    live(&mut session).await;
    let mut idle = server.wire().await;
    idle.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(idle.read_response().await.status, 404);
    let begun = Instant::now();
    tokio::join!(server.stop(), async move {
        assert_eq!(session.expect_close().await.0, 1012);
        session.close(1012, "").await;
        assert_eq!(session.wire().closed().await, (End::Eof, Vec::new()));
        assert_eq!(idle.closed().await, (End::Eof, Vec::new()));
    });
    assert_eq!(begun.elapsed().as_secs(), 0);
}

#[tokio::test]
async fn a_foreign_page_and_a_wrong_room_are_refused() {
    let server = start(feed()).await;
    let foreign = [("Origin", "https://evil.example")];
    for (path, fields, status) in [
        ("/topics/room", &foreign[..], 403),
        ("/topics/a,b", &[], 400),
        ("/", &[], 404),
    ] {
        let mut wire = server.wire().await;
        wire.send(handshake("localhost", path, fields)).await;
        assert_eq!(wire.read_response().await.status, status, "{path}");
    }
    server.stop().await;
}
