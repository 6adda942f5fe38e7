//! The sender in an axum app: it signs, retries, waits in the feed, and drains.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/in_axum.rs"]
mod in_axum;

#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/verify_in_axum.rs"]
mod verify_in_axum;

use std::time::Duration;

use common::{Drained, Feed, Retention};
use harness::TestServer;
use in_axum::send::Sender;
use serde_json::Value;
use setup::{Called, FAILED, OK, SECRET, Sink, listed, receiver, send_json, soon};
use tokio::{sync::watch, task::yield_now, time::Instant};
use webhooks::{
    schedule::Schedule,
    sender::{deliver::Attempt, guard::Guard, tls::Tls},
};

/// The example, calling `url`.
async fn app(url: String, delays: &[Duration]) -> TestServer {
    draining_app(url, delays).await.0
}

/// And what tells its sender that it drains.
async fn draining_app(url: String, delays: &[Duration]) -> (TestServer, watch::Sender<bool>) {
    let attempt = Attempt {
        guard: Guard {
            http: true,
            loopback: true,
            ..Guard::default()
        },
        tls: Tls::system(),
        fields: Default::default(),
        url: url.parse().unwrap(),
        secrets: vec![SECRET.parse().unwrap()],
        deadline: Duration::from_secs(15),
    };
    let sender = Sender {
        attempt,
        schedule: Schedule::new(delays),
        drain: watch::Sender::new(false),
    };
    let drain = sender.drain.clone();
    let app = TestServer::start(async |listener, shutdown| {
        let feed = Feed::new(Retention::default());
        in_axum::serve(listener, feed, sender, shutdown).await;
        let (finished, cut) = (0, 0); // axum does not tell.
        Ok(Drained { finished, cut })
    });
    (app.await, drain)
}

/// Orders, and returns the order's id.
async fn order(app: &TestServer, body: &str) -> String {
    let reply = send_json(app, "/orders", body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.text().to_owned()
}

fn message(called: &Called) -> Value {
    serde_json::from_slice(&called.body).unwrap()
}

#[tokio::test]
async fn a_real_receiver_verifies_and_stores_each_order_once() {
    let (receiver, _) = receiver().await;
    let app = app(receiver.url("/webhook"), &[]).await;
    let mut ids = Vec::new();
    for number in 0..20 {
        ids.push(order(&app, &number.to_string()).await);
    }
    app.stop().await; // What was ordered is delivered first.
    let mut stored = listed(&receiver.client()).await;
    stored.sort_by_key(|id| id.parse::<common::Cursor>().unwrap().seq);
    assert_eq!(stored, ids);
    receiver.stop().await;
}

#[tokio::test]
async fn an_attempt_that_fails_is_repeated_with_the_same_id_until_the_schedule_ends() {
    let sink = Sink::open().await;
    let app = app(sink.url(), &[Duration::ZERO; 2]).await;
    let id = order(&app, r#"{"amount":1}"#).await;
    for answer in [FAILED, FAILED, FAILED] {
        let mut called = sink.called().await;
        assert_eq!(called.field("webhook-id"), id);
        let message = message(&called);
        assert_eq!(message["type"], "order.created");
        assert_eq!(message["data"]["amount"], 1);
        called.wire.send(answer).await;
    }
    // That message is dead, and the next one is delivered.
    order(&app, "2").await;
    let mut called = sink.called().await;
    assert_eq!(message(&called)["data"], 2);
    called.wire.send(OK).await;
    app.stop().await;
    assert_eq!(send_bad(&sink).await, 400);
}

/// The status of an order that is not JSON.
async fn send_bad(sink: &Sink) -> u16 {
    let app = app(sink.url(), &[]).await;
    let status = send_json(&app, "/orders", "{").await.status.as_u16();
    app.stop().await;
    status
}

#[tokio::test]
async fn a_drain_waits_for_the_attempt_in_flight_and_not_for_the_next_one() {
    let sink = Sink::open().await;
    let (app, drain) = draining_app(sink.url(), &[Duration::from_secs(3_600); 9]).await;
    order(&app, "1").await;
    let mut called = sink.called().await;
    app.shut_down();
    soon(drain.subscribe().wait_for(|drains| *drains))
        .await
        .unwrap();
    let stopping = Instant::now();
    let answering = async {
        called.wire.send(FAILED).await;
    };
    soon(async { tokio::join!(app.stop(), answering) }).await;
    assert!(stopping.elapsed() < Duration::from_secs(9), "or it was cut");
}

#[tokio::test]
async fn a_delivery_that_waits_gets_its_last_attempt_when_the_app_drains() {
    let sink = Sink::open().await;
    let (app, drain) = draining_app(sink.url(), &[Duration::from_secs(3_600); 9]).await;
    let id = order(&app, "1").await;
    let subscribed = drain.receiver_count();
    sink.called().await.wire.send(FAILED).await;
    soon(async {
        while drain.receiver_count() == subscribed {
            yield_now().await; // until it waits
        }
    })
    .await;
    app.shut_down();
    let mut called = soon(sink.called()).await;
    assert_eq!(called.field("webhook-id"), id);
    called.wire.send(OK).await;
    soon(app.stop()).await;
}

#[tokio::test]
async fn the_extractor_tells_a_body_over_the_limit_from_one_that_breaks_off() {
    let app = verify_in_axum::app(["whsec_x".parse().unwrap()].into());
    let server = TestServer::start(async |listener, shutdown| {
        let server = axum::serve(listener, app).with_graceful_shutdown(shutdown);
        server.await?;
        let (finished, cut) = (0, 0);
        Ok(Drained { finished, cut })
    })
    .await;
    for (over, status) in [(0, 401), (1, 413)] {
        let body = vec![b' '; verify_in_axum::MAX_BODY + over];
        let reply = server.post("/webhook/stripe", body).await;
        assert_eq!(reply.status, status, "{over} over");
    }
    let mut wire = server.wire().await;
    let head = "POST /webhook/stripe HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    wire.send(head).await;
    wire.send("no number\r\n").await;
    assert_eq!(wire.read_response().await.status, 400);
    drop(wire);
    server.stop().await;
}
