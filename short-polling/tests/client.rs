//! The example client, against the real server and against a peer that the test plays byte by byte.

mod setup;

#[path = "../examples/short_polling_client.rs"]
#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
mod client;

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use client::{Args, Failure, Reader, backoff};
use harness::{TestServer, Wire, WireListener};
use setup::start;
use short_polling::Config;
use tokio::time::Instant;

const EMPTY: &str = r#"{"messages":[],"next":"e-7","more":false,"gap":null}"#;

#[tokio::test]
async fn the_client_prints_messages_and_nothing_else() {
    let server = start(Config::default()).await;
    let (mut reader, mut printed) = (reader(server.addr(), &[]), Vec::new());
    for _ in 0..2 {
        reader.poll(&mut printed).await.unwrap();
    }
    server.post("/topics/news", "hello").await;
    reader.poll(&mut printed).await.unwrap();
    reader.poll(&mut printed).await.unwrap();
    let printed = String::from_utf8(printed).unwrap();
    assert_eq!(printed.lines().count(), 1, "{printed}");
    assert!(printed.ends_with("\"data\":\"hello\"}\n"), "{printed}");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_client_waits_five_seconds() {
    let listener = WireListener::bind().await;
    let mut reader = reader(listener.addr(), &[]);
    tokio::spawn(async move { reader.run(&mut std::io::sink()).await });
    let mut peer = listener.accept().await;
    request(&mut peer).await;
    answer(&mut peer, "200 OK", "", EMPTY).await;
    let asked = Instant::now();
    request(&mut peer).await;
    assert_eq!(asked.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn the_client_obeys_the_hint() {
    let listener = WireListener::bind().await;
    let mut reader = reader(listener.addr(), &[]);
    tokio::spawn(async move { reader.run(&mut std::io::sink()).await });
    let mut peer = listener.accept().await;
    request(&mut peer).await;
    for (status, hint) in [("200 OK", 9), ("304 Not Modified", 2)] {
        let body = if hint == 9 { EMPTY } else { "" };
        answer(
            &mut peer,
            status,
            &format!("X-Poll-Interval: {hint}\r\n"),
            body,
        )
        .await;
        let asked = Instant::now();
        request(&mut peer).await;
        assert_eq!(asked.elapsed().as_secs(), hint);
    }
}

#[tokio::test(start_paused = true)]
async fn the_client_backs_off_and_not_for_less_than_retry_after() {
    let listener = WireListener::bind().await;
    let mut reader = reader(listener.addr(), &[]);
    tokio::spawn(async move { reader.run(&mut std::io::sink()).await });
    let mut peer = listener.accept().await;
    request(&mut peer).await;
    let unavailable = "503 Service Unavailable";
    for (retry_after, backoff) in [(3, 1), (0, 2), (3, 4)] {
        let field = format!("Retry-After: {retry_after}\r\n");
        answer(&mut peer, unavailable, &field, "").await;
        let refused = Instant::now();
        request(&mut peer).await;
        let waited = refused.elapsed().as_secs_f64();
        // Timers are exact to a millisecond.
        let bounds = f64::from(retry_after)..f64::from(retry_after + backoff) + 0.01;
        assert!(bounds.contains(&waited), "{waited} of {bounds:?}");
    }
}

#[tokio::test]
async fn the_client_asks_after_the_last_answer_with_its_etag() {
    let listener = WireListener::bind().await;
    let mut reader = reader(listener.addr(), &[]);
    tokio::spawn(async move {
        for _ in 0..2 {
            reader.poll(&mut std::io::sink()).await.unwrap();
        }
    });
    let mut peer = listener.accept().await;
    assert!(
        request(&mut peer)
            .await
            .starts_with("GET /topics/news?after=earliest HTTP/1.1\r\n")
    );
    answer(&mut peer, "200 OK", "ETag: W/\"e-5\"\r\n", EMPTY).await;
    let second = request(&mut peer).await;
    assert!(
        second.starts_with("GET /topics/news?after=e-7 HTTP/1.1\r\n"),
        "{second}"
    );
    assert!(
        second.contains("\r\nif-none-match: W/\"e-5\"\r\n"),
        "{second}"
    );
}

#[tokio::test]
async fn the_client_reads_on_at_once_while_there_is_more() {
    let server = start(Config::default()).await;
    for _ in 0..101 {
        server.post("/topics/news", "x").await;
    }
    let (mut reader, mut printed) = (reader(server.addr(), &[]), Vec::new());
    assert_eq!(reader.poll(&mut printed).await.unwrap(), Duration::ZERO);
    assert!(reader.poll(&mut printed).await.unwrap() > Duration::ZERO);
    assert_eq!(String::from_utf8(printed).unwrap().lines().count(), 101);
    server.stop().await;
}

#[tokio::test]
async fn the_client_keeps_its_cursor_in_a_file() {
    let server = start(Config::default()).await;
    let file = CursorFile::new();
    let path = file.0.to_str().unwrap();
    server.post("/topics/news", "one").await;
    let mut printed = Vec::new();
    reader(server.addr(), &["--cursor-file", path])
        .poll(&mut printed)
        .await
        .unwrap();
    server.post("/topics/news", "two").await;
    reader(server.addr(), &["--cursor-file", path])
        .poll(&mut printed)
        .await
        .unwrap();
    let printed = String::from_utf8(printed).unwrap();
    assert_eq!(printed.matches("\"data\":").count(), 2, "{printed}");
    server.stop().await;
}

#[tokio::test]
async fn the_client_prints_a_gap() {
    let server = start(Config::default()).await;
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
        request(&mut peer).await;
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
    let server = start(setup::small()).await;
    let mut reader = reader(server.addr(), &[]);
    reader.poll(&mut std::io::sink()).await.unwrap();
    let addr = server.addr();
    server.stop().await;
    let config = Config::default();
    let server = TestServer::start_on(addr, |listener, shutdown| {
        let feed = common::Feed::new(common::Retention::default());
        short_polling::run(listener, feed, config, shutdown)
    })
    .await;
    reader.poll(&mut std::io::sink()).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn the_client_keeps_the_urls_query() {
    let listener = WireListener::bind().await;
    let url = format!("http://{}/topics/news?limit=1", listener.addr());
    let mut reader = Reader::new(Args::parse_from(["client", &url])).unwrap();
    tokio::spawn(async move { reader.run(&mut std::io::sink()).await });
    let request = listener.accept().await.read_head().await;
    let line = "GET /topics/news?limit=1&after=earliest HTTP/1.1\r\n";
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

async fn request(peer: &mut Wire) -> String {
    peer.read_head().await
}

async fn answer(peer: &mut Wire, status: &str, fields: &str, body: &str) {
    let length = body.len();
    peer.send(format!(
        "HTTP/1.1 {status}\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
    ))
    .await;
}

/// A unique file name. The file is removed at the end.
struct CursorFile(PathBuf);

impl CursorFile {
    fn new() -> Self {
        let name = format!("cursor-{:x}", rand::random::<u64>());
        Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name))
    }
}

impl Drop for CursorFile {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}
