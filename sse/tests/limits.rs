//! Each knob at its boundary.
#![allow(clippy::unwrap_used, reason = "a test")]

mod setup;

use std::time::Duration;

use common::{Data, Draft, Feed, Retention};
use harness::{EventReader, TestServer, contract::keeps_its_reserve};
use hyper::Method;
use setup::{config, in_time, live, small, start, start_with};
use sse::Config;
use tokio::time::Instant;

#[tokio::test]
async fn one_subscriber_too_many_is_told_when_to_come_again() {
    let retry = Duration::from_secs(2);
    let server = start(Config {
        max_subscribers: 2,
        retry,
        heartbeat: BETWEEN_WRITES,
        ..config()
    })
    .await;
    let first = server.events("/topics/a").await;
    let second = server.events("/topics/a").await;
    let mut refused = server.events("/topics/a").await;
    assert_eq!(
        refused.status(),
        200,
        "anything else ends an EventSource for good"
    );
    let block = refused.next().await.unwrap();
    assert_eq!(block.comments, [" at the subscriber limit"]);
    let told: u64 = block.fields[0].1.parse().unwrap();
    assert!((2_000..=3_000).contains(&told), "{told}");
    assert!(refused.next().await.is_none());

    drop(first);
    in_time(until_one_opens(&server)).await;
    drop(second);
    server.stop().await;
}

/// Short: plain hyper sees at the second write that a client left.
const BETWEEN_WRITES: Duration = Duration::from_millis(100);

/// Asks again and again, because no event tells that the server has seen a client leave.
async fn until_one_opens(server: &TestServer) {
    while first_comments(server).await != [" hello"] {}
}

async fn first_comments(server: &TestServer) -> Vec<String> {
    let mut stream = server.events("/topics/a").await;
    stream.next().await.unwrap().comments
}

/// Under a paused clock, which moves on only when every task waits: a busy machine does not matter.
#[tokio::test(start_paused = true)]
async fn at_the_subscriber_limit_health_and_publishing_answer_within_a_second() {
    let server = start(Config {
        max_subscribers: 1,
        ..config()
    })
    .await;
    let mut stream = server.events("/topics/a").await;
    stream.next().await.unwrap();
    assert_eq!(first_comments(&server).await, [" at the subscriber limit"]);
    let started = Instant::now();
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(server.post("/topics/a", "news").await.status, 201);
    assert!(started.elapsed() < Duration::from_secs(1));
    drop(stream);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn refused_clients_that_stay_do_not_use_up_the_last_connection() {
    for takeover in [true, false] {
        let mut config = Config {
            max_subscribers: 1,
            takeover,
            ..config()
        };
        config.server.max_connections = Some(2);
        let server = start(config).await;
        let mut stream = server.events("/topics/a").await;
        stream.next().await.unwrap();
        let request = "GET /topics/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
        keeps_its_reserve(&server, Some(request)).await;
        server.post("/topics/a", "news").await;
        let mut next = async || stream.next().await.expect("a stream is not idle");
        while next().await.fields.iter().all(|(name, _)| name != "data") {}
        drop(stream);
        server.stop().await;
    }
}

#[tokio::test]
async fn newcomers_beyond_the_connection_limit_wait_and_are_served() {
    let mut config = Config {
        heartbeat: BETWEEN_WRITES,
        ..config()
    };
    config.server.max_connections = Some(1);
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config).await;
    let mut first = server.events("/topics/a").await;
    live(&mut first).await;
    let mut waiting = server.wire().await;
    waiting
        .send("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await;
    tokio::select! {
        answer = waiting.read_response() => panic!("served beyond the limit: {answer:?}"),
        () = hears(&mut first, &feed, 20) => {}
    }
    drop(first);
    assert_eq!(waiting.read_response().await.text(), "ok\n");
    server.stop().await;
}

/// Publishes this many messages, and reads each.
async fn hears(stream: &mut EventReader, feed: &Feed, messages: usize) {
    for _ in 0..messages {
        let draft = Draft::new(Data::text("news"));
        feed.publish("a".parse().unwrap(), draft).await.unwrap();
        while stream.next().await.unwrap().data().is_none() {} // a heartbeat
    }
}

#[tokio::test]
async fn a_body_of_the_limit_is_published() {
    let mut config = config();
    config.server.max_message = 4;
    let server = start(config).await;
    assert_eq!(server.post("/topics/a", "1234").await.status, 201);
    assert_eq!(server.post("/topics/a", "12345").await.status, 413);
    server.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_read_timeout() {
    let server = start(small()).await;
    let mut wire = server.wire().await;
    wire.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(wire.read_response().await.status, 200);
    let (_, bytes) = wire.closed().await;
    assert_eq!(bytes, b"");
    server.stop().await;
}

#[tokio::test]
async fn an_allowed_origin_reads_publishes_and_has_its_preflight_answered() {
    let mut config = config();
    config.server.allow_origin = vec!["https://page.example".parse().unwrap()];
    let server = start(config).await;
    let client = server.client();
    let origin = ("Origin", "https://page.example");
    let published = client
        .post("/topics/a", "x")
        .header(origin.0, origin.1)
        .send()
        .await;
    assert_eq!(
        (
            published.status.as_u16(),
            published.header("access-control-allow-origin")
        ),
        (201, Some(origin.1))
    );
    let preflight = client
        .request(Method::OPTIONS, "/topics/a")
        .header(origin.0, origin.1);
    let preflight = preflight
        .header("Access-Control-Request-Method", "POST")
        .send()
        .await;
    assert_eq!(
        (
            preflight.status.as_u16(),
            preflight.header("access-control-allow-origin")
        ),
        (204, Some(origin.1))
    );
    let foreign = client
        .request(Method::OPTIONS, "/topics/a")
        .header(origin.0, "https://elsewhere.example");
    let foreign = foreign
        .header("Access-Control-Request-Method", "POST")
        .send()
        .await;
    assert_eq!(
        (
            foreign.status.as_u16(),
            foreign.header("access-control-allow-origin")
        ),
        (405, None)
    );
    assert_eq!(foreign.header("vary"), Some("origin"));
    server.stop().await;
}
