//! A session on axum's connection, and what is usual in the same place.
#![allow(clippy::unwrap_used, reason = "a test")]

mod setup;

#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/in_axum.rs"]
mod in_axum;
#[allow(unreachable_pub, reason = "a file to include or copy")]
#[path = "../../common/examples/axum/serve.rs"]
mod serve;

use axum::{
    Router,
    extract::Request,
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use common::{Drained, Feed};
use futures_util::{SinkExt, StreamExt};
use harness::{
    End, Frame, TestServer, WsWire,
    contract::{refuses_bad_input, rows_of_subscribing},
};
use hyper_util::rt::TokioIo;
use serde_json::json;
use setup::{ask, data, feed, fill, is_live, live, publish, small};
use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::protocol::{Role, WebSocketConfig},
};
use websockets::handshake;

/// axum does not tell how it drained.
const UNKNOWN: Drained = Drained {
    finished: 0,
    cut: 0,
};

/// The example as it is.
async fn alone(feed: Feed) -> TestServer {
    TestServer::start(async |listener, shutdown| {
        let router = |draining| in_axum::router(feed, draining);
        in_axum::serve(listener, router, shutdown).await;
        Ok(UNKNOWN)
    })
    .await
}

/// What an axum app usually does. `axum::extract::ws` is tokio-tungstenite on the upgraded connection.
async fn usual() -> TestServer {
    let echo = async |mut request: Request| -> Response {
        let switching_protocols = handshake::answer(&request, "echo").unwrap();
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let connection = TokioIo::new(upgrade.await.unwrap());
            let limit = WebSocketConfig::default().max_message_size(Some(65_536));
            let socket = WebSocketStream::from_raw_socket(connection, Role::Server, Some(limit));
            let mut socket = socket.await;
            while let Some(Ok(message)) = socket.next().await {
                socket.send(message).await.unwrap();
            }
        });
        switching_protocols
    };
    let app = Router::new().route("/topics/a", get(echo));
    TestServer::start(async |listener, shutdown| {
        let served = axum::serve(listener, app).with_graceful_shutdown(shutdown);
        served.await.map(|()| UNKNOWN)
    })
    .await
}

/// A reserved bit, invalid UTF-8, and more bytes than a message may have; with the code that says so.
fn wrong() -> [(Frame, u16); 3] {
    let reserved = Frame {
        rsv: 4,
        ..Frame::text("{}")
    };
    [
        (reserved, 1002),
        (Frame::client(1, b"\xff"), 1007),
        (Frame::text(&"x".repeat(70_000)), 1009),
    ]
}

#[tokio::test]
async fn a_wrong_frame_gets_its_close_code_here_and_an_end_without_one_from_what_is_usual() {
    let (ours, theirs) = (alone(feed()).await, usual().await);
    for (frame, code) in wrong() {
        let mut session = ours.websocket("/topics/a").await;
        live(&mut session).await;
        session.send_frame(frame.clone()).await;
        assert_eq!(session.expect_close().await.0, code, "{frame:?}");

        let mut session = theirs.websocket("/topics/a").await;
        session.send_text("it works").await;
        assert_eq!(session.next_text().await, "it works");
        session.send_frame(frame.clone()).await;
        let end = session.next_frame().await;
        assert!(end.is_none(), "{code}: {end:?}");
    }
    ours.stop().await;
    theirs.stop().await;
}

#[tokio::test]
async fn both_sides_talk_and_a_client_resumes_after_its_last_id() {
    let server = alone(feed()).await;
    let mut session = server.websocket("/topics/a,b").await;
    live(&mut session).await;
    let command = json!({"publish": {"topic": "b", "data": "one", "ref": 1}});
    let ack = ask(&mut session, command).await;
    assert_eq!(data(&mut session).await, "one");
    drop(session);
    let command = json!({"publish": {"topic": "a", "data": "two", "ref": 2}});
    let mut other = server.websocket("/topics/quiet").await;
    live(&mut other).await;
    ask(&mut other, command).await;
    let path = format!("/topics/a,b?after={}", ack["ack"]["id"].as_str().unwrap());
    let mut session = server.websocket(&path).await;
    session.next_text().await; // subscribed
    assert_eq!(data(&mut session).await, "two");
    session.close(1000, "").await;
    assert!(session.next_json().await["heartbeat"].is_object());
    assert_eq!(session.expect_close().await.0, 1000);
    drop((session, other));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_each_session_with_1012_after_the_last_news_and_waits_for_it() {
    let feed = feed();
    let server = alone(feed.clone()).await;
    let mut session = server.websocket("/topics/a").await;
    live(&mut session).await;
    publish(&feed, "a", "last words").await;
    let begun = Instant::now();
    let client = async move {
        assert_eq!(data(&mut session).await, "last words");
        assert_eq!(session.expect_close().await.0, 1012);
        sleep(Duration::from_secs(2)).await; // A browser may take some time.
        session.close(1012, "").await;
        assert_eq!(session.wire().closed().await, (End::Eof, Vec::new()));
    };
    let drained = async move {
        server.stop().await;
        begun.elapsed().as_secs()
    };
    assert_eq!(tokio::join!(drained, client).0, 2);
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_pinged_and_one_that_stays_silent_ends_with_the_drain() {
    let server = alone(feed()).await;
    let mut session = server.websocket("/topics/a").await;
    live(&mut session).await;
    let silent = Instant::now();
    sleep(Duration::from_secs(10)).await; // The ping comes when a test's patience ends.
    assert_eq!(session.next_frame().await.unwrap().opcode, 9);
    assert_eq!(silent.elapsed().as_secs(), 20);
    let mut stuck = server.wire().await;
    stuck.send("GET / HTTP/1.1\r\n").await;
    let drained = Instant::now();
    server.stop().await;
    assert!(drained.elapsed().as_secs() <= 10);
}

#[tokio::test(start_paused = true)]
async fn a_client_gets_the_heartbeats_that_it_asks_for() {
    let server = alone(feed()).await;
    let mut session = server.websocket("/topics/a?heartbeat=3").await;
    live(&mut session).await;
    let begun = Instant::now();
    is_live(&mut session).await;
    assert_eq!(begun.elapsed().as_secs(), 3);
    drop(session);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_no_byte_is_disconnected_after_the_stall() {
    let feed = feed();
    let server = alone(feed.clone()).await;
    let stalled = fill(&feed, &server, &[]).await;
    sleep(in_axum::STALL + Duration::from_secs(1)).await;
    let begun = Instant::now();
    server.stop().await;
    assert_eq!(begun.elapsed().as_secs(), 0, "its session is still open");
    drop(stalled);
}

#[tokio::test]
async fn with_the_loop_of_the_five_servers_the_router_passes_their_contract() {
    let (feed, config) = (feed(), small().server);
    let (drain, draining) = watch::channel(false);
    let created = post(async || StatusCode::CREATED);
    let router = in_axum::router(feed.clone(), draining).route("/topics/good", created);
    let server = TestServer::start(async move |listener, shutdown| {
        let drained = serve::serve(listener, router, feed, config, shutdown).await;
        drain.closed().await;
        drained
    })
    .await;
    let asked = [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ];
    // The first has no topic: axum finds no route for it.
    let rows = rows_of_subscribing(&asked).into_iter().skip(1);
    refuses_bad_input(&server, rows).await;
    let foreign = [("Origin", "https://elsewhere.example")];
    let request = harness::handshake(&server.addr().to_string(), "/topics/a", &foreign);
    let mut wire = server.wire().await;
    wire.send(request).await;
    assert_eq!(wire.read_response().await.status, 403);
    let mut session = WsWire::connect(server.addr(), "/topics/a").await;
    live(&mut session).await;
    tokio::join!(server.stop(), async move {
        assert_eq!(session.expect_close().await.0, 1012);
        session.close(1012, "").await;
    });
}
