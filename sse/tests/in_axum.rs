//! The event stream in an axum app. `axum::serve` keeps what the technique promises; the loop of
//! `common/examples/axum/serve.rs` keeps the rest.
#![allow(clippy::unwrap_used, reason = "a test")]

mod setup;

#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/in_axum.rs"]
mod in_axum;
#[allow(unreachable_pub, reason = "a file to include or copy")]
#[path = "../../common/examples/axum/serve.rs"]
mod serve;

use std::time::Duration;

use axum::{Router, routing::get};
use common::{Data, Draft, Drained, Feed, PublishLimits, Retention, ServerConfig};
use harness::{
    Ending, EventReader, TestServer, Wire,
    contract::{
        Row, answers_who_sends_no_more, closes_slow_heads, closes_the_longest_idle,
        keeps_its_reserve, publishes_no_half_bodies, refuses_bad_input,
        refuses_what_follows_a_short_length, rows_of_every_server, rows_of_subscribing,
        tells_who_sends_no_more,
    },
};
use setup::{live, small};
use tokio::time::Instant;

fn feed() -> Feed {
    Feed::new(Retention::default())
}

/// The technique, and publishing.
fn router(feed: &Feed, limits: PublishLimits) -> Router {
    in_axum::router(feed.clone()).merge(in_axum::publish::router(feed.clone(), limits))
}

/// The example as it is.
async fn alone(feed: Feed) -> TestServer {
    TestServer::start(async |listener, shutdown| {
        let router = router(&feed, in_axum::publish::LIMITS);
        in_axum::serve(listener, router, feed, shutdown).await;
        let (finished, cut) = (0, 0); // axum does not tell.
        Ok(Drained { finished, cut })
    })
    .await
}

/// Its router, among other routes, in the loop that has everything.
async fn with_everything(config: ServerConfig) -> TestServer {
    let feed = feed();
    let router = router(&feed, config.publish_limits())
        .route("/", get(async || "a page"))
        .route("/healthz", get(async || "ok\n"));
    TestServer::start(|listener, shutdown| serve::serve(listener, router, feed, config, shutdown))
        .await
}

async fn next_data(stream: &mut EventReader) -> String {
    let block = stream.next().await.expect("the stream goes on");
    let message: serde_json::Value = block.json();
    message["data"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_client_resumes_after_its_last_id_and_hears_of_a_gap() {
    let server = alone(feed()).await;
    for text in ["one", "two"] {
        assert_eq!(server.post("/topics/a", text).await.status, 201);
    }
    let mut stream = server.events("/topics/a,b?after=earliest").await;
    let fields = ["content-type", "cache-control", "x-accel-buffering"];
    assert!(fields.iter().all(|field| stream.header(field).is_some()));
    stream.next().await.unwrap(); // the opening
    let one = stream.next().await.unwrap();
    assert_eq!(one.json()["data"], "one");
    drop(stream);

    let resumed = [("Last-Event-ID", one.id().unwrap())];
    let mut stream = EventReader::connect_with(server.addr(), "/topics/a", &resumed).await;
    stream.next().await.unwrap();
    assert_eq!(next_data(&mut stream).await, "two");
    stream.next().await.unwrap(); // it is live
    server.post("/topics/a", "three").await;
    assert_eq!(next_data(&mut stream).await, "three");

    let lost = [("Last-Event-ID", "foreign-1")];
    let mut stream = EventReader::connect_with(server.addr(), "/topics/a", &lost).await;
    stream.next().await.unwrap();
    assert_eq!(stream.next().await.unwrap().event(), Some("gap"));
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn a_drain_ends_each_stream_with_a_last_block_after_the_last_news() {
    let feed = feed();
    let server = alone(feed.clone()).await;
    let mut stream = server.events("/topics/a").await;
    live(&mut stream).await;
    let draft = Draft::new(Data::text("last words"));
    feed.publish("a".parse().unwrap(), draft).await.unwrap();
    server.stop().await;
    assert_eq!(next_data(&mut stream).await, "last words");
    let last = stream.next().await.unwrap();
    assert!(last.retry().is_some() && stream.next().await.is_none());
    assert_eq!(stream.ending(), Some(Ending::Complete));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_has_heartbeats_and_a_stuck_client_ends_with_the_drain() {
    let feed = feed();
    let server = alone(feed.clone()).await;
    let mut stream = server.events("/topics/quiet").await;
    let opened = live(&mut stream).await;
    let quiet = Instant::now();
    assert_eq!(stream.next().await.unwrap().id(), opened.id());
    assert_eq!(quiet.elapsed().as_secs(), 15);
    drop(stream);

    let mut stuck = Wire::connect_narrow(server.addr(), 4_096).await;
    let request = "GET /topics/a?after=earliest HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stuck.send(request).await;
    stuck.read_until(": hello\n").await;
    for _ in 0..200 {
        let draft = Draft::new(Data::text(&"x".repeat(60_000)));
        feed.publish("a".parse().unwrap(), draft).await.unwrap();
    }
    server.stop().await;
}

#[tokio::test]
async fn with_the_loop_of_the_five_servers_the_router_passes_their_contract() {
    let server = with_everything(small().server).await;
    let rows = rows_of_every_server()
        .into_iter()
        .chain(rows_of_subscribing(&[]));
    refuses_bad_input(&server, rows.filter(is_not_the_routers)).await;
    publishes_no_half_bodies(&server).await;
    refuses_what_follows_a_short_length(&server).await;
    closes_slow_heads(&server).await;
    server.stop().await;
}

/// axum answers by itself an unknown path, an empty name of a topic, and a wrong method.
fn is_not_the_routers(row: &Row) -> bool {
    let has_no_name = |method: &str| {
        row.request
            .starts_with(format!("{method} /topics/ ").as_bytes())
    };
    let is_by_path = matches!(row.status, 404 | 405) || has_no_name("GET") || has_no_name("POST");
    !is_by_path && row.detail != "a GET has no body"
}

#[tokio::test(flavor = "multi_thread")]
async fn with_that_loop_a_client_that_sends_no_more_is_answered() {
    let server = with_everything(small().server).await;
    answers_who_sends_no_more(&server).await;
    let request = "GET /topics/late?after=earliest HTTP/1.1\r\nHost: localhost\r\n\r\n";
    tells_who_sends_no_more(&server, request).await;
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn with_that_loop_connections_have_a_limit() {
    let limited = |most| ServerConfig {
        max_connections: Some(most),
        read_timeout: Duration::from_secs(30),
        ..small().server
    };
    let server = with_everything(limited(1)).await;
    keeps_its_reserve(&server, None).await;
    server.stop().await;
    let server = with_everything(limited(2)).await;
    closes_the_longest_idle(&server).await;
    server.stop().await;
}
