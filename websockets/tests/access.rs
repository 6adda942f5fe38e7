//! Access, worked: a session's way in, its rights command by command, and its end.
#![allow(clippy::unwrap_used, reason = "a test")]

mod setup;

#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/access.rs"]
mod example;

use std::{sync::Arc, time::Duration};

use common::{Browsers, Drained};
use example::access::{Access, Grant};
use harness::{START, TestServer, WsWire, handshake, start_clock, wall_clock};
use serde_json::json;
use setup::{ask, data, feed, fill, is_alive, is_live, live, publish, subscribe};
use tokio::time::{Instant, sleep};

const RECHECK: Duration = Duration::from_secs(15);

async fn start(feed: common::Feed) -> (TestServer, Arc<Access>) {
    start_clock();
    let browsers = Browsers::new(Vec::new(), ([127, 0, 0, 1], 0).into(), "");
    let access = Arc::new(Access::new(&[1; 32], browsers, RECHECK, wall_clock));
    let with = access.clone();
    let server = TestServer::start(async move |listener, shutdown| {
        let router = |draining| example::router(feed, with, draining);
        example::in_axum::serve(listener, router, shutdown).await;
        let (finished, cut) = (0, 0); // axum does not tell.
        Ok(Drained { finished, cut })
    });
    (server.await, access)
}

fn grant() -> Grant {
    Grant {
        sub: "ann".into(),
        read: vec!["news.*".into()],
        publish: vec!["news.a".into()],
        iat: START,
        exp: START + 60,
    }
}

async fn open(server: &TestServer, topics: &str, token: &str) -> WsWire {
    let offers = format!("feed.v1.json, bearer.{token}");
    let fields = [("Sec-WebSocket-Protocol", offers.as_str())];
    let session = WsWire::connect_with(server.addr(), &format!("/topics/{topics}"), &fields).await;
    let chosen = session.header("sec-websocket-protocol");
    assert_eq!(chosen, Some("feed.v1.json"), "a token is never sent back");
    session
}

/// The answer to a POST, which has to succeed.
async fn post(server: &TestServer, path: &str, token: &str) -> serde_json::Value {
    let bearer = format!("Bearer {token}");
    let client = server.client();
    let request = client.post(path, "x").header("authorization", &bearer);
    let reply = request.send().await;
    assert!(reply.status.is_success(), "{path}: {}", reply.text());
    serde_json::from_str(reply.text()).unwrap()
}

async fn ticket(server: &TestServer, token: &str) -> String {
    let answer = post(server, "/tickets", token).await;
    format!(
        "/topics/news.a?ticket={}",
        answer["ticket"].as_str().unwrap()
    )
}

#[tokio::test]
async fn a_token_comes_in_any_of_four_places_and_a_ticket_once() {
    let (server, access) = start(feed()).await;
    let token = access.token(&grant());
    let ticket = ticket(&server, &token).await;
    let mut sessions = Vec::new();
    for (path, field) in [
        (
            "/topics/news.a",
            ("Authorization", format!("Bearer {token}")),
        ),
        ("/topics/news.a", ("Cookie", format!("token={token}"))),
        (
            "/topics/news.a",
            (
                "Sec-WebSocket-Protocol",
                format!("feed.v1.json, bearer.{token}"),
            ),
        ),
        (&ticket, ("Accept", "*/*".to_owned())),
    ] {
        let fields = [(field.0, &*field.1)];
        let mut session = WsWire::connect_with(server.addr(), path, &fields).await;
        live(&mut session).await;
        sessions.push(session);
    }
    let mut again = WsWire::connect_with(server.addr(), &ticket, &[]).await;
    assert_eq!(again.expect_close().await.0, 4401, "the ticket is used");
    post(&server, "/topics/news.a", &token).await;
    for session in &mut sessions {
        assert_eq!(data(session).await, "x");
    }
    drop((again, sessions));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_began_with_a_ticket_ends_with_the_token_of_its_ticket() {
    let (server, access) = start(feed()).await;
    let begun = Instant::now();
    let brief = Grant {
        exp: START + 5,
        ..grant()
    };
    let ticket = ticket(&server, &access.token(&brief)).await;
    let mut session = WsWire::connect_with(server.addr(), &ticket, &[]).await;
    live(&mut session).await;
    assert_eq!(session.expect_close().await.0, 4401);
    assert_eq!(begun.elapsed().as_secs(), 5);
    drop(session);
    server.stop().await;
}

/// As `common/feed.js` asks, which leaves a silent connection.
#[tokio::test(start_paused = true)]
async fn a_session_has_the_heartbeats_and_the_newest_messages_that_it_asks_for() {
    let feed = feed();
    let (server, access) = start(feed.clone()).await;
    for text in ["old", "new"] {
        publish(&feed, "news.a", text).await;
    }
    let topics = "news.a?after=earliest&newest=1&heartbeat=1";
    let mut session = open(&server, topics, &access.token(&grant())).await;
    assert!(session.next_json().await["subscribed"].is_object());
    assert_eq!(data(&mut session).await, "new");
    is_live(&mut session).await;
    let begun = Instant::now();
    is_live(&mut session).await;
    assert_eq!(begun.elapsed().as_secs(), 1);
    drop(session);
    server.stop().await;
}

#[tokio::test]
async fn each_command_is_refused_without_a_right_to_its_topics() {
    let feed = feed();
    let (server, access) = start(feed.clone()).await;
    let mut session = open(&server, "news.a", &access.token(&grant())).await;
    live(&mut session).await;
    for (command, status, detail) in [
        (
            json!({"publish": {"topic": "news.b", "data": 1, "ref": 1}}),
            403,
            "the token does not allow topic news.b",
        ),
        (
            json!({"subscribe": {"topics": ["news.b", "secret"], "ref": 1}}),
            403,
            "the token does not allow topic secret",
        ),
        (
            json!({"subscribe": {"topics": ["secret"], "after": "earliest", "ref": 1}}),
            403,
            "the token does not allow topic secret",
        ),
        (
            json!({"publish": {"topic": "a..b", "data": 1, "ref": 1}}),
            400,
            "topic \"a..b\"",
        ),
        (json!({"publish": {"data": 1, "ref": 1}}), 400, "topic \"\""),
        (json!({"subscribe": {"ref": 1}}), 400, "topic \"\""),
    ] {
        let error = ask(&mut session, command).await["error"].clone();
        assert_eq!(
            (&error["ref"], &error["status"]),
            (&json!(1), &json!(status))
        );
        assert!(
            error["detail"].as_str().unwrap().starts_with(detail),
            "{error}"
        );
    }
    for unread in [
        "{",
        "[]",
        r#"{"publish":1}"#,
        r#"{"publish":{"topic":"news.a"},"publish":{"topic":"secret"}}"#,
        r#"{"a command of tomorrow":{"topic":"secret","ref":1}}"#,
        r#"{"ping":{},"publish":{"topic":"secret","data":1,"ref":1}}"#,
    ] {
        session.send_text(unread).await;
        let error = json!({"error": {"status": 400, "detail": "this is not a command"}});
        assert_eq!(session.next_json().await, error, "{unread}");
    }
    for free in [
        json!({"received": {"id": "e-1"}}), // not answered
        json!({"unsubscribe": {"topics": ["news.a"], "ref": 4}}),
    ] {
        session.send_text(&free.to_string()).await;
    }
    assert_eq!(session.next_json().await["subscribed"]["ref"], 4);
    assert!(is_alive(&mut session).await);
    assert_eq!(feed.counts().messages, 0);
    subscribe(
        &mut session,
        json!({"subscribe": {"topics": ["news.b"], "ref": 2}}),
    )
    .await;
    publish(&feed, "secret", "x").await;
    publish(&feed, "news.b", "y").await;
    assert_eq!(data(&mut session).await, "y");
    let ack = ask(
        &mut session,
        json!({"publish": {"topic": "news.a", "data": 1, "ref": 3}}),
    )
    .await;
    assert_eq!(ack["ack"]["ref"], 3);
    drop(session);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_page_learns_by_a_close_code_why_it_is_refused() {
    let (server, access) = start(feed()).await;
    let [token, expired] = [START + 60, START].map(|exp| access.token(&Grant { exp, ..grant() }));
    for (topics, token, code) in [
        ("news.a", "x", 4401),
        ("news.a", &expired, 4401),
        ("secret", &token, 4403),
        ("news.a,secret", &token, 4403),
    ] {
        let mut session = open(&server, topics, token).await;
        assert_eq!(session.expect_close().await.0, code, "{topics}");
    }
    let cookie = format!("token={token}");
    for (path, origin, status) in [
        ("/topics/news.a", "https://evil.example", 403),
        ("/topics/news.a", "http://localhost", 101),
        ("/topics/news.a?ticket=1&ticket=2", "http://localhost", 400),
    ] {
        let fields = [("Origin", origin), ("Cookie", cookie.as_str())];
        let mut wire = server.wire().await;
        wire.send(handshake("localhost", path, &fields)).await;
        let head = wire.read_head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
    }
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_its_token_or_at_the_next_check_after_it_was_revoked() {
    let (server, access) = start(feed()).await;
    let begun = Instant::now();
    let brief = Grant {
        exp: START + 5,
        sub: "bob".into(),
        ..grant()
    };
    let mut lasting = open(&server, "news.a", &access.token(&grant())).await;
    let mut ending = open(&server, "news.a", &access.token(&brief)).await;
    live(&mut lasting).await;
    live(&mut ending).await;
    assert_eq!(ending.expect_close().await.0, 4401);
    assert_eq!(begun.elapsed().as_secs(), 5);
    sleep(Duration::from_secs(3)).await;
    access.revoke("ann");
    assert_eq!(lasting.expect_close().await.0, 4401);
    assert!(begun.elapsed() <= RECHECK + Duration::from_secs(1));
    drop((lasting, ending));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_accepts_no_data_is_disconnected_after_the_stall() {
    let feed = feed();
    let (server, access) = start(feed.clone()).await;
    let token = access.token(&Grant {
        read: vec!["a".into()],
        exp: START + 3_600,
        ..grant()
    });
    let offers = format!("feed.v1.json, bearer.{token}");
    let stalled = fill(&feed, &server, &[("Sec-WebSocket-Protocol", &offers)]).await;
    sleep(example::in_axum::STALL + Duration::from_secs(1)).await;
    let begun = Instant::now();
    server.stop().await;
    assert_eq!(begun.elapsed().as_secs(), 0, "its session is still open");
    drop(stalled);
}
