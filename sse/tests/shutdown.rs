//! The drain: the listener closes, every stream ends with a whole block, and a stuck connection is cut.
#![allow(clippy::unwrap_used, reason = "a test")]

mod setup;

use std::time::Duration;

use common::{Drained, Feed, Retention};
use harness::{Ending, Wire};
use setup::{config, live, start, start_with};

/// More than a group writes at once.
const MANY: usize = 70;

#[tokio::test]
async fn every_stream_ends_with_a_whole_block_that_says_when_to_come_again() {
    let server = start(config()).await;
    let mut streams = Vec::new();
    for _ in 0..MANY {
        let mut stream = server.events("/topics/a").await;
        live(&mut stream).await;
        streams.push(stream);
    }
    let drained = server.stop().await;
    assert_eq!(
        drained,
        Drained {
            finished: MANY,
            cut: 0
        }
    );
    for mut stream in streams {
        let last = stream.next().await.unwrap();
        assert_eq!(last.comments, [" the server is going away"]);
        assert_eq!(last.fields[0].0, "retry");
        assert!(stream.next().await.is_none());
        assert_eq!(
            (stream.ending(), stream.unfinished()),
            (Some(Ending::Complete), String::new())
        );
    }
}

#[tokio::test]
async fn what_was_published_before_the_signal_is_delivered() {
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config()).await;
    let mut stream = server.events("/topics/a").await;
    live(&mut stream).await;
    assert_eq!(server.post("/topics/a", "last words").await.status, 201);
    server.stop().await;
    assert!(
        stream
            .next()
            .await
            .unwrap()
            .data()
            .unwrap()
            .contains("last words")
    );
}

#[tokio::test]
async fn idle_connections_close_and_newcomers_are_refused() {
    let server = start(config()).await;
    let addr = server.addr();
    let mut idle = server.wire().await;
    idle.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    idle.read_response().await;
    let silent = server.wire().await;
    assert_eq!(server.stop().await.cut, 0);
    assert_eq!(idle.closed().await.1, b"");
    drop(silent);
    assert!(Wire::try_connect(addr).await.is_err());
}

#[tokio::test]
async fn a_stream_that_takes_nothing_is_cut_at_the_deadline() {
    let feed = Feed::new(Retention::default());
    let mut config = config();
    config.server.drain = Duration::from_millis(200);
    let server = start_with(feed.clone(), config).await;
    let mut stalled = Wire::connect_narrow(server.addr(), 4_096).await;
    stalled
        .send("GET /topics/a?after=earliest HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    stalled.read_until(": hello\n").await;
    let client = harness::Client::keep_alive(server.addr()).await;
    for _ in 0..200 {
        client.post("/topics/a", "x".repeat(60_000)).send().await;
    }
    let drained = server.stop().await;
    assert_eq!(drained.cut, 1, "{drained:?}");
    let (_, rest) = stalled.closed().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "a cut is no end");
}
