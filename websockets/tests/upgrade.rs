//! Before and after an upgrade: no earlier answer on the connection is lost, and no frame that came with
//! the handshake.
#![allow(clippy::unwrap_used, reason = "a test")]

mod setup;

use harness::{Frame, Wire, WsWire, handshake};
use serde_json::json;
use setup::{ask, config, frame, live, start};

const PAGE: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// Enough pages to fill the socket's buffers while the client does not read: 10 MiB.
const PAGES: usize = 1_000;

#[tokio::test]
async fn a_session_behind_answers_that_the_client_has_not_read_follows_them_whole() {
    let server = start(config()).await;
    let mut wire = Wire::connect_narrow(server.addr(), 4_096).await;
    let path = "x".repeat(14_000);
    let early = format!("POST /{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx");
    let upgrade = handshake("localhost", "/topics/a", &[]);
    wire.send([PAGE.repeat(PAGES), early, upgrade].concat())
        .await;
    for _ in 0..PAGES {
        assert_eq!(wire.read_response().await.status, 200);
    }
    let answer = wire.read_response().await;
    assert!(answer.status == 404 && answer.text().contains(&path[..99]));
    let mut session = WsWire::on_wire(wire).await;
    assert!(live(&mut session).await["subscribed"]["next"].is_string());
    server.post("/topics/a", "after all of it").await;
    let message = frame(&mut session).await;
    assert_eq!(message["message"]["data"], "after all of it");
    drop(session);
    server.stop().await;
}

#[tokio::test]
async fn frames_that_come_with_the_handshake_are_the_first_of_the_session() {
    let server = start(config()).await;
    let mut wire = server.wire().await;
    let upgrade = handshake("localhost", "/topics", &[]).into_bytes();
    let first = Frame::text(r#"{"ping":{}}"#).encode();
    let second = Frame::text(r#"{"subscribe":{"topics":["a"],"ref":1}}"#).encode();
    wire.send([&upgrade[..], &first, &second[..20]].concat())
        .await;
    let mut session = WsWire::on_wire(wire).await;
    assert_eq!(frame(&mut session).await, json!({"pong": {}}));
    session.send_raw(&second[20..]).await;
    assert_eq!(live(&mut session).await["subscribed"]["ref"], 1);
    assert_eq!(
        ask(&mut session, json!({"ping": {}})).await,
        json!({"pong": {}})
    );
    drop(session);
    server.stop().await;
}

#[tokio::test]
async fn a_handshake_may_come_byte_by_byte_and_after_others() {
    let server = start(config()).await;
    let mut wire = server.wire().await;
    let upgrade = handshake("localhost", "/topics", &[]);
    wire.send_bytewise([PAGE, &upgrade].concat()).await;
    assert_eq!(wire.read_response().await.status, 200);
    let mut session = WsWire::on_wire(wire).await;
    assert_eq!(
        ask(&mut session, json!({"ping": {}})).await,
        json!({"pong": {}})
    );
    drop(session);
    server.stop().await;
}
