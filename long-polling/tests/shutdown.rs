//! The drain: every wait is answered at once, a request in flight is finished, and a connection that
//! does not end is cut.

mod setup;

use std::time::Duration;

use common::{Feed, Retention};
use harness::{End, TestServer, Wire};
use setup::{config, in_time, publish, start, start_with, until_waiting};

const HALF: &str = "POST /topics/news HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nha";

#[tokio::test]
async fn a_server_without_connections_ends_at_once() {
    let server = start(config()).await;
    let drained = server.stop().await;
    assert_eq!((drained.finished, drained.cut), (0, 0));
}

#[tokio::test]
async fn every_wait_is_answered_at_once_and_its_connection_closed() {
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config()).await;
    let next = publish(&feed, "other", "x").await;
    let mut waiting = vec![];
    for _ in 0..20 {
        let mut wire = server.wire().await;
        wire.send("GET /topics/news?wait=55 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        waiting.push(wire);
    }
    until_waiting(&feed, 20).await;
    server.shut_down();
    for mut wire in waiting {
        let answer = wire.read_response().await;
        assert_eq!(
            (answer.status, answer.header("connection")),
            (200, Some("close"))
        );
        let empty = format!(r#"{{"messages":[],"next":"{next}","more":false,"gap":null}}"#);
        assert_eq!(answer.text(), empty);
        assert_eq!(wire.closed().await, (End::Eof, Vec::new()));
    }
    assert_eq!(feed.waiters(), 0);
    let drained = server.stop().await;
    assert_eq!((drained.finished, drained.cut), (20, 0));
}

#[tokio::test]
async fn servers_that_share_a_feed_drain_one_by_one() {
    let feed = Feed::new(Retention::default());
    let one = start_with(feed.clone(), config()).await;
    let two = start_with(feed.clone(), config()).await;
    let get = async |server: &TestServer| server.get("/topics/news?wait=55").await.json();
    let publish = async {
        until_waiting(&feed, 2).await;
        one.shut_down();
        until_waiting(&feed, 1).await;
        publish(&feed, "news", "late").await;
    };
    let (of_one, of_two, ()) = tokio::join!(get(&one), get(&two), publish);
    assert_eq!(of_one["messages"], serde_json::json!([]));
    assert_eq!(of_two["messages"][0]["data"], "late");
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_newcomer_is_refused() {
    let server = start(config()).await;
    let mut idle = server.wire().await;
    idle.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(idle.read_response().await.text(), "ok\n");
    server.shut_down();
    assert_eq!(idle.closed().await, (End::Eof, Vec::new()));
    assert!(Wire::try_connect(server.addr()).await.is_err());
    let drained = server.stop().await;
    assert_eq!((drained.finished, drained.cut), (1, 0));
}

#[tokio::test]
async fn a_publish_in_flight_is_finished() {
    let server = start(config()).await;
    let mut wire = in_flight(&server).await;
    server.shut_down();
    wait_until_refused(&server).await;
    wire.send("lf").await;
    let answer = wire.read_response().await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (201, Some("close"))
    );
    assert_eq!(wire.closed().await, (End::Eof, Vec::new()));
    let drained = server.stop().await;
    assert_eq!((drained.finished, drained.cut), (1, 0));
}

#[tokio::test]
async fn what_does_not_end_within_the_drain_is_cut() {
    let mut config = config();
    config.server.drain = Duration::from_millis(50);
    let server = start(config).await;
    let mut wire = in_flight(&server).await;
    let drained = server.stop().await;
    assert_eq!((drained.finished, drained.cut), (0, 1));
    wire.closed().await;
}

/// A connection with half of a second request. The answer to the first shows that the server has read
/// it.
async fn in_flight(server: &TestServer) -> Wire {
    let mut wire = server.wire().await;
    wire.send(format!(
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n{HALF}"
    ))
    .await;
    assert_eq!(wire.read_response().await.status, 200);
    wire
}

async fn wait_until_refused(server: &TestServer) {
    in_time(async {
        while Wire::try_connect(server.addr()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
