//! The sender in an axum app: it signs, retries, waits in the feed, and drains. The receiver in one: it stores, handles,
//! and drains.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/in_axum.rs"]
mod in_axum;

#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/receive_in_axum.rs"]
mod receive_in_axum;

#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/verify_in_axum.rs"]
mod verify_in_axum;

use std::{future::pending, sync::Arc, time::Duration};

use axum::Router;
use common::{Drained, Feed, Retention};
use harness::{Client, PATIENCE, TestServer};
use hmac::{Hmac, KeyInit, Mac};
use in_axum::send::Sender;
use receive_in_axum::receive::Orders;
use rusqlite::{Connection, ffi};
use serde_json::Value;
use setup::{
    Called, FAILED, OK, SECRET, Scratch, Sink, listed, now, receiver, send, send_json, soon,
};
use sha2::Sha256;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::yield_now,
    time::Instant,
};
use webhooks::{
    receiver::{
        inbox::{InTransaction, Inbox, StoredEvent},
        receive::Receiver,
        source::Secrets,
        work::Effects,
    },
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

/// The secret of GitHub and of Stripe.
const KEY: &str = "whsec_x";

/// The receiving example's routes, with an inbox in `scratch`. Telegram has no secret.
fn receiving(scratch: &Scratch) -> (Router, Inbox) {
    let secrets = Secrets {
        standard: vec![SECRET.parse().unwrap()],
        github: vec![KEY.parse().unwrap()],
        stripe: vec![KEY.parse().unwrap()],
        ..Secrets::default()
    };
    let inbox = Inbox::open(&scratch.inbox(), PATIENCE).unwrap();
    let (secrets, for_work) = (Arc::new(secrets), inbox.clone());
    let router = receive_in_axum::router(Receiver { secrets, inbox });
    (router, for_work)
}

async fn receiving_app(scratch: &Scratch, effects: impl Effects) -> TestServer {
    let (router, inbox) = receiving(scratch);
    let app = TestServer::start(async |listener, shutdown| {
        receive_in_axum::serve(listener, router, inbox, effects, shutdown).await?;
        let (finished, cut) = (0, 0); // axum does not tell.
        Ok(Drained { finished, cut })
    });
    app.await
}

/// The status that the app answers to this body with both vendors' fields.
async fn posted(app: &TestServer, path: &str, body: &str) -> u16 {
    let mac = |text: &str| {
        let mac = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).unwrap();
        hex::encode(mac.chain_update(text).finalize().into_bytes())
    };
    let time = now();
    let stripe = format!("t={time},v1={}", mac(&format!("{time}.{body}")));
    let client = app.client();
    let request = client.post(path, body.to_owned());
    let request = request.header("content-type", "application/json");
    let request = request.header("stripe-signature", &stripe);
    let request = request.header("x-hub-signature-256", &format!("sha256={}", mac(body)));
    let request = request.header("x-github-event", "push");
    let request = request.header("x-github-delivery", "d-1");
    request.send().await.status.as_u16()
}

/// The number of rows with this condition, once the app has ended.
fn count(scratch: &Scratch, rows: &str) -> i64 {
    let database = Connection::open(scratch.inbox()).unwrap();
    let query = format!("SELECT count(*) FROM {rows}");
    database.query_row(&query, [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_receiving_app_handles_each_event_once_over_repeats_and_a_restart() {
    let scratch = Scratch::new();
    for _ in 0..2 {
        let app = receiving_app(&scratch, Orders).await;
        for _ in 0..2 {
            let statuses = [
                posted(&app, "/webhook/github", "{}").await,
                posted(&app, "/webhook/stripe", r#"{"id":"evt_1"}"#).await,
                send(&app.client(), "m").await.status.as_u16(),
            ];
            assert_eq!(statuses, [200; 3]);
        }
        assert_eq!(send_json(&app, "/webhook/github", "{}").await.status, 401);
        assert_eq!(posted(&app, "/webhook/telegram", "{}").await, 404);
        let reader = Connection::open(scratch.inbox()).unwrap();
        soon(async {
            let waits = "SELECT EXISTS (SELECT 1 FROM work)";
            while reader.query_row(waits, [], |row| row.get(0)).unwrap() {
                yield_now().await;
            }
        })
        .await;
        app.stop().await;
    }
    assert_eq!(
        [count(&scratch, "events"), count(&scratch, "orders")],
        [3, 3]
    );
}

#[tokio::test]
async fn a_receiving_app_reads_the_largest_body_of_github_and_no_larger_one() {
    let scratch = Scratch::new();
    let app = receiving_app(&scratch, Orders).await;
    for (over, status) in [(0, 401), (1, 413)] {
        let body = vec![b' '; receive_in_axum::MAX_BODY + over];
        let reply = app.post("/webhook/github", body).await;
        assert_eq!(reply.status, status, "{over} over");
    }
    app.stop().await;
}

/// An effect that says when it begins, and waits until it may end.
#[derive(Clone, Default)]
struct Gated {
    begun: Arc<Notify>,
    may_end: Arc<Notify>,
}

impl Effects for Gated {
    async fn apply(&self, _: &StoredEvent) -> Result<InTransaction, String> {
        self.begun.notify_one();
        self.may_end.notified().await;
        Ok(Box::new(|_| Ok(())))
    }
}

#[tokio::test]
async fn a_receiving_app_that_drains_waits_for_the_running_attempt() {
    let (scratch, gated) = (Scratch::new(), Gated::default());
    let app = receiving_app(&scratch, gated.clone()).await;
    send(&app.client(), "m").await;
    soon(gated.begun.notified()).await;
    app.shut_down();
    let listens = async || TcpStream::connect(app.addr()).await.is_ok();
    soon(async { while listens().await {} }).await;
    gated.may_end.notify_one();
    soon(app.stop()).await;
    assert_eq!([count(&scratch, "events"), count(&scratch, "work")], [1, 0]);
}

/// An effect that finds the disk broken.
struct Broken;

impl Effects for Broken {
    async fn apply(&self, _: &StoredEvent) -> Result<InTransaction, String> {
        let error = ffi::Error::new(ffi::SQLITE_IOERR);
        let broken = rusqlite::Error::SqliteFailure(error, None);
        Ok(Box::new(move |_| Err(broken)))
    }
}

#[tokio::test]
async fn a_receiving_app_ends_when_its_disk_fails() {
    let scratch = Scratch::new();
    let (router, inbox) = receiving(&scratch);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(listener.local_addr().unwrap());
    let serving = receive_in_axum::serve(listener, router, inbox, Broken, pending());
    let (ended, sent) = soon(async { tokio::join!(serving, send(&client, "m")) }).await;
    assert_eq!(sent.status, 200);
    let reason = ended.unwrap_err().to_string();
    assert!(reason.contains("disk I/O error"), "{reason}");
}
