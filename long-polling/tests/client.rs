//! The example client, against the real server and against a peer that the test plays byte by byte.

mod setup;

#[path = "../examples/long_polling_client.rs"]
#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
mod client;

use std::time::Duration;

use clap::Parser;
use client::{Args, Failure, Reader, backoff};
use common::{Feed, Retention};
use harness::{Wire, WireListener};
use setup::{config, publish, start, start_with, until_waiting};

const EMPTY: &str = r#"{"messages":[],"next":"e-7","more":false,"gap":null}"#;

#[tokio::test]
async fn the_client_sends_a_new_request_at_once() {
    let listener = WireListener::bind().await;
    let mut reader = reader(listener.addr(), &[]);
    tokio::spawn(async move { reader.run(&mut std::io::sink()).await });
    let mut peer = listener.accept().await;
    for cursor in ["earliest", "e-1", "e-2"] {
        let line = format!("GET /topics/news?after={cursor}&wait=25 HTTP/1.1\r\n");
        let request = peer.read_head().await;
        assert!(request.starts_with(&line), "{request}");
        let next = format!("e-{}", cursor.strip_prefix("e-").map_or(1, |_| 2));
        let page = format!(r#"{{"messages":[],"next":"{next}","more":false,"gap":null}}"#);
        answer(&mut peer, "200 OK", "", &page).await;
    }
}

#[tokio::test]
async fn the_client_prints_each_message_once() {
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config()).await;
    let (mut reader, mut printed) = (reader(server.addr(), &[]), Vec::new());
    for n in 0..3 {
        let later = async {
            until_waiting(&feed, 1).await;
            publish(&feed, "news", &format!("n{n}")).await;
        };
        let (polled, ()) = tokio::join!(reader.poll(&mut printed), later);
        polled.unwrap();
    }
    let printed = String::from_utf8(printed).unwrap();
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 3, "{printed}");
    for (n, line) in lines.iter().enumerate() {
        assert!(line.ends_with(&format!(r#""data":"n{n}"}}"#)), "{line}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_client_prints_a_gap() {
    let server = start(config()).await;
    let (mut reader, mut printed) = (reader(server.addr(), &["--after", "old-1"]), Vec::new());
    reader.poll(&mut printed).await.unwrap();
    let printed = String::from_utf8(printed).unwrap();
    assert!(
        printed.starts_with(r#"gap {"reason":"foreign","#),
        "{printed}"
    );
    server.stop().await;
}

#[tokio::test]
async fn the_client_gives_up_on_a_4xx_only() {
    for (status, is_final) in [
        ("400 Bad Request", true),
        ("404 Not Found", true),
        ("408 Request Timeout", false),
        ("429 Too Many Requests", false),
        ("500 Internal Server Error", false),
        ("503 Service Unavailable", false),
    ] {
        let listener = WireListener::bind().await;
        let mut reader = reader(listener.addr(), &[]);
        let poll = tokio::spawn(async move { reader.poll(&mut std::io::sink()).await });
        let mut peer = listener.accept().await;
        peer.read_head().await;
        answer(&mut peer, status, "Retry-After: 3\r\n", "why").await;
        match poll.await.unwrap() {
            Err(Failure::Final(reason)) => assert!(is_final, "{reason}"),
            Err(Failure::Passing(reason, at_least)) => {
                assert!(!is_final, "{reason}");
                assert_eq!(at_least.as_secs(), 3);
            }
            Ok(_) => panic!("{status} passed for an answer"),
        }
    }
}

#[tokio::test]
async fn a_connection_that_the_server_closed_in_between_is_no_failure() {
    let listener = WireListener::bind().await;
    let mut reader = reader(listener.addr(), &[]);
    for _ in 0..2 {
        let served = async {
            let mut peer = listener.accept().await;
            peer.read_head().await;
            answer(&mut peer, "200 OK", "", EMPTY).await;
        };
        let mut output = std::io::sink();
        let (polled, ()) = tokio::join!(reader.poll(&mut output), served);
        polled.unwrap();
    }
}

#[tokio::test]
async fn a_connection_that_breaks_during_the_wait_is_one() {
    let listener = WireListener::bind().await;
    let mut reader = reader(listener.addr(), &[]);
    let served = async {
        let mut peer = listener.accept().await;
        peer.read_head().await;
        answer(&mut peer, "200 OK", "", EMPTY).await;
        peer.read_head().await; // and leaves
    };
    let polls = async {
        reader.poll(&mut std::io::sink()).await.unwrap();
        reader.poll(&mut std::io::sink()).await
    };
    let (polled, ()) = tokio::join!(polls, served);
    assert!(matches!(polled, Err(Failure::Passing(..))));
}

#[tokio::test]
async fn a_wait_that_begins_at_latest_loses_nothing_when_it_breaks() {
    let listener = WireListener::bind().await;
    let mut reader = reader(listener.addr(), &["--after", "latest"]);
    tokio::spawn(async move { reader.run(&mut std::io::sink()).await });
    let mut peer = listener.accept().await;
    for parameters in ["after=latest&wait=0", "after=e-7&wait=25"] {
        let request = peer.read_head().await;
        let line = format!("GET /topics/news?{parameters} HTTP/1.1\r\n");
        assert!(request.starts_with(&line), "{request}");
        if parameters.starts_with("after=latest") {
            answer(&mut peer, "200 OK", "", EMPTY).await;
        }
    }
    drop(peer); // in the middle of the wait
    let request = listener.accept().await.read_head().await;
    let line = "GET /topics/news?after=e-7&wait=25 HTTP/1.1\r\n";
    assert!(request.starts_with(line), "{request}");
}

#[tokio::test]
async fn the_client_keeps_the_urls_query() {
    let listener = WireListener::bind().await;
    let url = format!("http://{}/topics/news?limit=1", listener.addr());
    let mut reader = Reader::new(Args::parse_from(["client", &url])).unwrap();
    tokio::spawn(async move { reader.run(&mut std::io::sink()).await });
    let request = listener.accept().await.read_head().await;
    let line = "GET /topics/news?limit=1&after=earliest&wait=25 HTTP/1.1\r\n";
    assert!(request.starts_with(line), "{request}");
}

#[test]
fn the_backoff_is_full_jitter_up_to_half_a_minute() {
    let bounds = [1, 2, 3, 5, 6, 100].map(|failures| backoff(failures, 1.0).as_secs());
    assert_eq!(bounds, [1, 2, 4, 16, 30, 30]);
    assert_eq!(backoff(100, 0.0), Duration::ZERO);
}

fn reader(addr: std::net::SocketAddr, args: &[&str]) -> Reader {
    let url = format!("http://{addr}/topics/news");
    let args = [&["client", &url], args].concat();
    Reader::new(Args::parse_from(args)).expect("the URL is one")
}

async fn answer(peer: &mut Wire, status: &str, fields: &str, body: &str) {
    let length = body.len();
    peer.send(format!(
        "HTTP/1.1 {status}\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
    ))
    .await;
}
