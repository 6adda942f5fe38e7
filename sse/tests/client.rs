//! The example client, against a real server and a network that cuts connections.
#![allow(clippy::unwrap_used, reason = "a test")]

mod setup;

#[path = "../examples/sse_client.rs"]
#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
mod sse_client;

use std::{
    io::{self, Write},
    time::Duration,
};

use clap::Parser;
use common::{Feed, Retention};
use harness::{Fault, FaultProxy, Faults, PATIENCE, WireListener};
use setup::{config, start_with};
use sse::Config;
use sse_client::{Args, Listener, backoff};
use tokio::{sync::mpsc, time::timeout};

/// Hands what the client prints to the test, line by line.
struct Lines(mpsc::UnboundedSender<String>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .send(String::from_utf8_lossy(bytes).into_owned())
            .unwrap();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn listener(addr: std::net::SocketAddr, after: &str) -> Listener {
    Listener::new(Args::parse_from([
        "sse_client",
        &format!("http://{addr}/topics/a"),
        "--after",
        after,
    ]))
}

#[tokio::test]
async fn it_hears_every_message_once_over_a_network_that_cuts() {
    let feed = Feed::new(Retention::default());
    let retry = Duration::from_millis(1);
    let server = start_with(feed.clone(), Config { retry, ..config() }).await;
    let start = feed.head().to_string();
    let proxy = FaultProxy::start(server.addr(), Faults::down(Fault::CutAfter(1_000))).await;
    let (lines, mut printed) = mpsc::unbounded_channel();
    let mut listener = listener(proxy.addr(), &start);
    let task = tokio::spawn(async move { listener.run(&mut Lines(lines)).await });
    for number in 0..20 {
        assert_eq!(
            server.post("/topics/a", format!("<{number}>")).await.status,
            201
        );
    }
    let mut heard = String::new();
    while heard.matches("\"data\"").count() < 20 {
        heard += &timeout(PATIENCE, printed.recv()).await.unwrap().unwrap();
    }
    for number in 0..20 {
        assert_eq!(
            heard.matches(&format!("\"<{number}>\"")).count(),
            1,
            "{heard}"
        );
    }
    assert!(proxy.connections() > 1, "the network did cut");
    task.abort();
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn it_gives_up_only_on_a_4xx() {
    let server = WireListener::bind().await;
    let mut listener = listener(server.addr(), "e-1");
    let task = tokio::spawn(async move { listener.run(&mut io::sink()).await });
    for answer in [
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 429 Too Many Requests\r\nretry-after: 9\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 10\r\n\r\nretry: 1\n\n",
        "HTTP/1.1 400 Bad Request\r\ncontent-length: 3\r\n\r\nwhy",
    ] {
        let mut wire = server.accept().await;
        assert!(wire.read_head().await.contains("e-1"));
        wire.send(answer).await;
    }
    assert_eq!(
        timeout(PATIENCE, task).await.unwrap().unwrap(),
        "400 Bad Request: why"
    );
}

#[tokio::test]
async fn it_does_not_take_a_page_for_a_stream() {
    let server = WireListener::bind().await;
    let mut listener = listener(server.addr(), "");
    let mut output = io::sink();
    let served = async {
        let mut wire = server.accept().await;
        wire.read_head().await;
        let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 0\r\n\r\n";
        wire.send(page).await;
    };
    let (reason, ()) = tokio::join!(listener.run(&mut output), served);
    assert_eq!(reason, "the answer is not an event stream");
}

/// An output that is closed.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn it_ends_when_its_output_is_closed() {
    let server = WireListener::bind().await;
    let mut listener = listener(server.addr(), "");
    let served = async {
        let mut wire = server.accept().await;
        wire.read_head().await;
        let stream =
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\ndata: 1\n\n";
        wire.send(stream).await;
        wire
    };
    let mut output = Closed;
    let (reason, _wire) = tokio::join!(listener.run(&mut output), served);
    assert!(reason.starts_with("printing: "), "{reason}");
}

#[test]
fn it_backs_off_with_full_jitter_from_the_servers_retry() {
    let retry = Duration::from_secs(2);
    assert_eq!(backoff(retry, 0, 0.0), retry);
    assert_eq!(backoff(retry, 1, 1.0), Duration::from_secs(4));
    assert_eq!(backoff(retry, 3, 0.5), Duration::from_secs(8));
    assert_eq!(backoff(retry, 40, 1.0), Duration::from_secs(60));
    assert_eq!(
        backoff(Duration::from_secs(90), 1, 1.0),
        Duration::from_secs(90)
    );
}
