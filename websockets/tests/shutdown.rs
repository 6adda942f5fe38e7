//! The drain: no newcomer is accepted, every session is told, and late connections are cut.

mod setup;

use std::time::Duration;

use harness::{End, Wire, handshake};
use serde_json::json;
use setup::{ask, config, data, feed, live, publish, start, start_with};

#[tokio::test]
async fn a_server_without_connections_ends_at_once() {
    let server = start(config()).await;
    let drained = server.stop().await;
    assert_eq!((drained.finished, drained.cut), (0, 0));
}

#[tokio::test]
async fn every_session_is_closed_with_1012_and_the_server_closes_first() {
    let server = start(config()).await;
    let mut sessions = Vec::new();
    for path in ["/topics", "/topics/a", "/topics/a,b?after=earliest"] {
        sessions.push(server.websocket(path).await);
    }
    live(&mut sessions[1]).await;
    live(&mut sessions[2]).await;
    server.shut_down();
    for session in &mut sessions {
        assert_eq!(
            session.expect_close().await,
            (1012, "the server restarts".into())
        );
        session.close(1012, "").await;
        assert_eq!(session.wire().closed().await, (End::Eof, Vec::new()));
    }
    assert!(Wire::try_connect(server.addr()).await.is_err());
    drop(sessions);
    let drained = server.stop().await;
    assert_eq!((drained.finished, drained.cut), (3, 0));
}

#[tokio::test]
async fn what_was_answered_before_the_drain_arrives_before_the_close() {
    let server = start(config()).await;
    let mut session = server.websocket("/topics").await;
    let publish = json!({"publish": {"topic": "a", "data": 1, "ref": 1}});
    assert!(ask(&mut session, publish).await["ack"].is_object());
    server.shut_down();
    assert_eq!(session.expect_close().await.0, 1012);
    session.close(1012, "").await;
    drop(session);
    server.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let server = start(config()).await;
    let mut idle = server.wire().await;
    idle.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(idle.read_response().await.text(), "ok\n");
    server.shut_down();
    assert_eq!(idle.closed().await, (End::Eof, Vec::new()));
    let drained = server.stop().await;
    assert_eq!((drained.finished, drained.cut), (1, 0));
}

#[tokio::test]
async fn what_does_not_end_within_the_drain_is_cut() {
    let mut config = config();
    // Enough to send a close frame on a busy machine.
    config.server.drain = Duration::from_millis(500);
    let server = start(config).await;
    let mut session = server.websocket("/topics").await;
    let drained = server.stop().await;
    assert_eq!((drained.finished, drained.cut), (0, 1));
    assert_eq!(session.expect_close().await.0, 1012);
    session.wire().closed().await;
}

#[tokio::test]
async fn a_client_that_comes_to_the_next_server_has_missed_nothing() {
    let feed = feed();
    let first = start_with(feed.clone(), config()).await;
    let mut session = first.websocket("/topics/a").await;
    live(&mut session).await;
    let last = publish(&feed, "a", "before").await.id;
    assert_eq!(data(&mut session).await, "before");
    first.shut_down();
    assert_eq!(session.expect_close().await.0, 1012);
    drop(session);
    first.stop().await;
    publish(&feed, "a", "in between").await;
    let second = start_with(feed.clone(), config()).await;
    let mut session = second.websocket(&format!("/topics/a?after={last}")).await;
    session.next_json().await;
    assert_eq!(data(&mut session).await, "in between");
    drop(session);
    second.stop().await;
}

#[tokio::test]
async fn a_handshake_in_flight_when_the_drain_begins_does_not_hold_it_up() {
    let server = start(config()).await;
    let mut wire = server.wire().await;
    let request = handshake("localhost", "/topics", &[]);
    let (beginning, _) = request.split_at(request.len() - 2);
    wire.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    wire.read_response().await;
    wire.send(beginning).await;
    let drained = server.stop().await;
    assert_eq!((drained.finished, drained.cut), (1, 0));
}
