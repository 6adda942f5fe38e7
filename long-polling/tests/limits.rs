//! Each knob at its boundary.

mod setup;

use std::time::Duration;

use clap::Parser;
use common::{Feed, Retention};
use harness::{
    End, TestServer,
    contract::{MAX_MESSAGE, closes_the_longest_idle, keeps_its_reserve},
};
use hyper::Method;
use long_polling::Config;
use setup::{config, in_time, publish, small, start, start_with, until_waiting};
use tokio::time::Instant;

const GET: &str = "GET /topics/news?wait=0 HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn a_newcomer_beyond_the_connections_takes_the_slot_of_the_longest_idle() {
    let mut config = config();
    config.server.max_connections = Some(2);
    let server = start(config).await;
    closes_the_longest_idle(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn one_wait_beyond_the_subscribers_is_told_when_to_come_again() {
    let (feed, server) = full().await;
    for _ in 0..20 {
        let reply = server.get("/topics/news").await;
        assert_eq!(reply.status, 503);
        assert_eq!(reply.json()["detail"], "2 polls are waiting already");
        let again: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((5..=10).contains(&again), "{again}");
    }
    assert_eq!(feed.waiters(), 2);
    server.stop().await;
}

/// Under a paused clock, which moves on only when every task waits: a busy machine does not matter.
#[tokio::test(start_paused = true)]
async fn at_the_subscriber_limit_what_does_not_wait_is_answered_within_a_second() {
    let (_feed, server) = full().await;
    let started = Instant::now();
    let client = server.client();
    let head = client.request(Method::HEAD, "/topics/news");
    assert_eq!(head.send().await.status, 200);
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(server.get("/topics/news?wait=0").await.status, 200);
    assert_eq!(server.post("/topics/other", "x").await.status, 201);
    assert_eq!(server.get("/topics/other").await.status, 200);
    assert!(started.elapsed() < Duration::from_secs(1));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn refused_clients_that_stay_do_not_use_up_the_last_connection() {
    for takeover in [true, false] {
        let mut config = Config {
            takeover,
            ..config()
        };
        config.server.max_connections = Some(3);
        let (_feed, server) = full_with(config).await;
        let request = "GET /topics/news HTTP/1.1\r\nHost: localhost\r\n\r\n";
        keeps_its_reserve(&server, Some(request)).await;
        server.stop().await;
    }
}

#[tokio::test]
async fn a_wait_that_ends_makes_room_for_the_next() {
    let (feed, server) = full().await;
    publish(&feed, "news", "hello").await;
    until_waiting(&feed, 0).await;
    let page = server.get("/topics/news").await.json();
    let path = format!("/topics/news?after={}", page["next"].as_str().unwrap());
    let client = server.client();
    let wait = client.get(&path).send();
    let publish = async {
        until_waiting(&feed, 1).await;
        publish(&feed, "news", "again").await;
    };
    let (reply, ()) = tokio::join!(wait, publish);
    assert_eq!(reply.json()["messages"][0]["data"], "again");
    server.stop().await;
}

#[tokio::test]
async fn a_poll_without_a_wait_waits_as_long_as_the_knob_says() {
    let config = Config {
        wait: Duration::from_millis(100),
        ..config()
    };
    let server = start(config).await;
    let started = Instant::now();
    let reply = server.get("/topics/news").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["messages"], serde_json::json!([]));
    assert!(started.elapsed() >= Duration::from_millis(93));
    server.stop().await;
}

#[tokio::test]
async fn a_wait_outlives_the_read_timeout() {
    let mut config = config();
    config.server.read_timeout = Duration::from_millis(50);
    let server = start(config).await;
    let mut wire = server.wire().await;
    wire.send("GET /topics/news?wait=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(wire.read_response().await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_body_of_the_limit_is_taken_and_one_byte_more_is_not() {
    let server = start(small()).await;
    let post = async |size| server.post("/topics/news", vec![b'x'; size]).await.status;
    assert_eq!(post(MAX_MESSAGE).await, 201);
    assert_eq!(post(MAX_MESSAGE + 1).await, 413);
    server.stop().await;
}

#[tokio::test]
async fn a_page_has_as_many_messages_as_the_limit_says_and_a_hundred_by_default() {
    let server = start(config()).await;
    for _ in 0..501 {
        server.post("/topics/news", "x").await;
    }
    for (query, messages) in [("", 100), ("?limit=1", 1), ("?limit=500", 500)] {
        let page = server.get(&format!("/topics/news{query}")).await.json();
        assert_eq!(page["messages"].as_array().unwrap().len(), messages);
        assert_eq!(page["more"], true);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_page_is_at_most_a_mebibyte_and_at_least_one_message() {
    let mut config = config();
    config.server.max_message = 2 << 20;
    let server = start(config).await;
    for size in [400_000, 600_000, 600_000, 1_200_000, 10] {
        server.post("/topics/news", vec![b'x'; size]).await;
    }
    assert_eq!(in_time(page_sizes(&server)).await, [2, 1, 1, 1]);
    server.stop().await;
}

/// How many messages each page has, until one says that there are no more.
async fn page_sizes(server: &TestServer) -> Vec<usize> {
    let (mut path, mut sizes) = ("/topics/news".to_owned(), vec![]);
    loop {
        let page = server.get(&path).await.json();
        sizes.push(page["messages"].as_array().map_or(0, Vec::len));
        path = format!(
            "/topics/news?after={}",
            page["next"].as_str().unwrap_or_default()
        );
        if page["more"] == false {
            return sizes;
        }
    }
}

#[tokio::test]
async fn as_many_messages_are_kept_as_the_feed_retains() {
    let feed = Feed::new(Retention {
        messages: 3,
        ..Retention::default()
    });
    let server = start_with(feed, config()).await;
    for n in 0..5 {
        server.post("/topics/news", n.to_string()).await;
    }
    let page = server.get("/topics/news").await.json();
    let data: Vec<_> = page["messages"].as_array().unwrap().iter().collect();
    assert_eq!(data.len(), 3);
    assert_eq!(data[0]["data"], "2");
    server.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_read_timeout() {
    let server = start(small()).await;
    let mut wire = server.wire().await;
    wire.send(GET).await;
    assert_eq!(wire.read_response().await.status, 200);
    assert_eq!(wire.closed().await, (End::Eof, Vec::new()));
    server.stop().await;
}

/// A server with all slots taken by waiting polls. They wait as long as the server runs.
async fn full() -> (Feed, TestServer) {
    full_with(config()).await
}

async fn full_with(config: Config) -> (Feed, TestServer) {
    let feed = Feed::new(Retention::default());
    let config = Config {
        max_subscribers: 2,
        ..config
    };
    let server = start_with(feed.clone(), config).await;
    for _ in 0..2 {
        let mut wire = server.wire().await;
        wire.send("GET /topics/news HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        tokio::spawn(async move { wire.closed().await });
    }
    until_waiting(&feed, 2).await;
    (feed, server)
}

#[test]
fn a_knob_takes_no_time_that_means_nothing() {
    let parse = |knob, value| Config::try_parse_from(["long-polling", knob, value]).is_ok();
    for knob in ["--read-timeout", "--stall"] {
        assert!(!parse(knob, "0") && parse(knob, "0.1"), "{knob}");
    }
    for (wait, taken) in [
        ("0", true),
        ("55", true),
        ("56", false),
        ("300", false),
        ("0.5", false),
    ] {
        assert_eq!(parse("--wait", wait), taken, "{wait}");
    }
}
