//! A request that is taken out of hyper gets the same bytes, in its turn, and no byte is lost. Each test
//! passes on plain hyper, too, except those that say `takeover: true`.
#![allow(clippy::unwrap_used, reason = "a test")]

mod setup;

use common::{Feed, Retention};
use harness::{End, Wire};
use long_polling::Config;
use setup::{config, publish, small, start, start_with, until_waiting};

const PAGE: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const WAIT: &str = "GET /topics/news?after=latest HTTP/1.1\r\nHost: localhost\r\n\r\n";
const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// Enough pages to fill the socket's buffers while the client does not read, 10 MiB.
const PAGES: usize = 1_500;

#[tokio::test]
async fn every_answer_has_the_bytes_that_hyper_would_have_written() {
    let feed = Feed::new(Retention::default());
    publish(&feed, "news", "hello").await;
    let mut config = Config {
        max_subscribers: 0,
        ..Config::default()
    };
    config.server.allow_origin = vec!["https://a.example".parse().unwrap()];
    let ours = start_with(feed.clone(), config.clone()).await;
    config.takeover = false;
    let hypers = start_with(feed.clone(), config).await;
    for line in [
        "GET / HTTP/1.1",
        "GET /topics/news HTTP/1.1",
        "GET /topics/news?limit=0 HTTP/1.1",
        "GET /topics/other?wait=0 HTTP/1.1",
        "GET /nothing HTTP/1.1",
        "GET http://localhost/healthz HTTP/1.1",
        "GET /healthz HTTP/1.0",
        "HEAD /topics/news HTTP/1.1",
        "OPTIONS / HTTP/1.1",
    ] {
        for fields in [
            "",
            "Connection: close\r\n",
            "Connection: te, Close\r\n",
            "Content-Length: 0\r\n",
            "Upgrade: h2c\r\nConnection: upgrade\r\n",
            "Expect: 100-continue\r\n",
            "Origin: https://a.example\r\n",
            "Host: elsewhere.example\r\n",
        ] {
            let request = format!("{line}\r\nHost: localhost\r\n{fields}\r\n");
            let (mut here, mut there) = (ours.wire().await, hypers.wire().await);
            here.send(&request).await;
            there.send(&request).await;
            let (here, there) = (whole(&mut here, line).await, whole(&mut there, line).await);
            assert_eq!(here, there, "{request}");
        }
    }
    ours.stop().await;
    hypers.stop().await;
}

/// A whole answer, without its date.
async fn whole(wire: &mut Wire, line: &str) -> String {
    let (head, body) = if line.starts_with("HEAD ") {
        (wire.read_head().await, String::new())
    } else {
        let answer = wire.read_response().await;
        let body = answer.text().to_owned();
        (answer.head, body)
    };
    let lines = head.lines().filter(|line| !line.starts_with("date: "));
    lines.chain([&*body]).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_wait_behind_answers_that_the_client_has_not_read_follows_them_whole() {
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config()).await;
    let mut wire = Wire::connect_narrow(server.addr(), 4_096).await;
    let path = "x".repeat(14_000);
    let early = format!("POST /{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx");
    wire.send([PAGE.repeat(PAGES).as_str(), &early, WAIT].concat())
        .await;
    for _ in 0..PAGES {
        assert_eq!(wire.read_response().await.status, 200);
    }
    let answer = wire.read_response().await;
    assert!(answer.status == 404 && answer.text().contains(&path[..99]));
    until_waiting(&feed, 1).await;
    publish(&feed, "news", "after all of it").await;
    assert!(
        wire.read_response()
            .await
            .text()
            .contains("after all of it")
    );
    server.stop().await;
}

#[tokio::test]
async fn requests_may_come_byte_by_byte_and_one_behind_the_other() {
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config()).await;
    let mut wire = server.wire().await;
    wire.send_bytewise([HEALTH, WAIT].concat()).await;
    assert_eq!(wire.read_response().await.text(), "ok\n");
    until_waiting(&feed, 1).await;
    wire.send_bytewise(HEALTH).await;
    publish(&feed, "news", "hello").await;
    assert!(wire.read_response().await.text().contains("hello"));
    assert_eq!(wire.read_response().await.text(), "ok\n");
    server.stop().await;
}

#[tokio::test]
async fn a_body_does_not_run_into_the_request_behind_it() {
    let server = start(config()).await;
    let mut wire = server.wire().await;
    let inner = "GET /inner HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let last = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let length = inner.len();
    wire.send(format!(
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{inner}{last}"
    ))
    .await;
    let answer = wire.read_response().await;
    assert!(answer.status == 400 && answer.text().contains("a GET has no body"));
    let (_, rest) = wire.closed().await;
    let rest = String::from_utf8(rest).unwrap();
    assert!(!rest.contains("inner"), "{rest}");
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_comes_after_its_answer_is_no_request() {
    let server = start(config()).await;
    let mut wire = server.wire().await;
    let length = HEALTH.len();
    wire.send(format!(
        "POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
    ))
    .await;
    assert_eq!(wire.read_response().await.status, 404);
    wire.send(HEALTH).await;
    let (_, rest) = wire.closed().await;
    assert_eq!(String::from_utf8(rest).unwrap(), "");
    server.stop().await;
}

#[tokio::test]
async fn publishes_and_polls_take_turns_on_one_connection() {
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config()).await;
    let mut wire = server.wire().await;
    let chunked = "POST /topics/news HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
        2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
    let head = "HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for _ in 0..3 {
        wire.send(chunked).await;
        assert_eq!(wire.read_response().await.status, 201);
        wire.send(head).await;
        assert!(wire.read_head().await.starts_with("HTTP/1.1 200 OK\r\n"));
        wire.send(WAIT).await;
        until_waiting(&feed, 1).await;
        wire.send_bytewise([chunked, HEALTH].concat()).await;
        publish(&feed, "news", "now").await;
        assert!(wire.read_response().await.text().contains("now"));
        assert_eq!(wire.read_response().await.status, 201);
        assert_eq!(wire.read_response().await.text(), "ok\n");
    }
    let last = chunked.replace("Transfer", "Connection: close\r\nTransfer");
    wire.send([last.as_str(), HEALTH].concat()).await;
    let answer = wire.read_response().await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (201, Some("close"))
    );
    wire.closed().await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_said_during_a_wait_is_kept_and_more_than_is_kept_waits_in_the_socket() {
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config()).await;
    let mut wire = server.wire().await;
    wire.send(WAIT).await;
    until_waiting(&feed, 1).await;
    let requests = 1_000; // 46 KB
    wire.send(HEALTH.repeat(requests)).await;
    publish(&feed, "news", "hello").await;
    assert!(wire.read_response().await.text().contains("hello"));
    for _ in 0..requests {
        assert_eq!(wire.read_response().await.text(), "ok\n");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_pipelines_and_resets_is_missed_at_once() {
    let takeover = Config {
        takeover: true,
        ..Config::default()
    };
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), takeover).await;
    for requests in [1, 1_000] {
        let mut wire = server.wire().await;
        wire.send(WAIT).await;
        until_waiting(&feed, 1).await;
        wire.send(HEALTH.repeat(requests)).await;
        wire.reset();
        until_waiting(&feed, 0).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_pipelines_and_sends_no_more_has_all_answers() {
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config()).await;
    let mut wire = server.wire().await;
    wire.send([WAIT, HEALTH].concat()).await;
    wire.half_close().await;
    until_waiting(&feed, 1).await;
    publish(&feed, "news", "hello").await;
    assert!(wire.read_response().await.text().contains("hello"));
    assert_eq!(wire.read_response().await.text(), "ok\n");
    assert_eq!(wire.closed().await, (End::Eof, Vec::new()));
    server.stop().await;
}

#[tokio::test]
async fn an_old_client_is_answered_and_its_connection_closed() {
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config()).await;
    let mut wire = server.wire().await;
    wire.send("GET /topics/news HTTP/1.0\r\nHost: localhost\r\n\r\n")
        .await;
    until_waiting(&feed, 1).await;
    publish(&feed, "news", "hello").await;
    let answer = wire.read_response().await;
    assert!(answer.head.starts_with("HTTP/1.0 200 OK\r\n") && answer.text().contains("hello"));
    assert_eq!(wire.closed().await, (End::Eof, Vec::new()));
    server.stop().await;
}

#[tokio::test]
async fn a_connection_that_asked_before_is_closed_when_it_is_idle_for_too_long() {
    let server = start(small()).await;
    let mut wire = server.wire().await;
    wire.send(HEALTH).await;
    assert_eq!(wire.read_response().await.text(), "ok\n");
    assert_eq!(wire.closed().await, (End::Eof, Vec::new()));
    server.stop().await;
}
