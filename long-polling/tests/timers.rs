//! Every timer of the server, by a paused clock that moves on when every task waits. The client's
//! timers are in `client.rs`, the race that ends a wait is in `src/wait.rs`.
#![allow(clippy::unwrap_used, reason = "a test")]

mod setup;

use std::time::Duration;

use common::{Feed, Retention};
use harness::{
    TestServer,
    contract::{closes_who_does_not_read, cuts_an_unread_answer},
};
use setup::{config, publish, start, start_with};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};

const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
const HALF: &[u8] = b"POST /topics/news HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nha";

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_is_closed_after_75_seconds() {
    let server = start(config()).await;
    let (mut client, opened) = (connect(&server).await, Instant::now());
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(opened.elapsed().as_secs(), 75);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_head_that_begins_late_has_what_is_left_of_the_75_seconds() {
    let server = start(config()).await;
    let (mut client, opened) = (connect(&server).await, Instant::now());
    sleep(Duration::from_secs(20)).await;
    client.write_all(&HEALTH[..20]).await.unwrap();
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(opened.elapsed().as_secs(), 75);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_for_75_seconds_after_each_answer() {
    let server = start(config()).await;
    let mut client = connect(&server).await;
    for request in [
        HEALTH,
        b"POST /topics/news HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx",
    ] {
        sleep(Duration::from_secs(74)).await;
        client.write_all(request).await.unwrap();
        assert!(answer(&mut client).await.starts_with("HTTP/1.1 20"));
    }
    let answered = Instant::now();
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(answered.elapsed().as_secs(), 75);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn half_a_body_is_refused_after_75_seconds() {
    let server = start(config()).await;
    let (mut client, opened) = (connect(&server).await, Instant::now());
    client.write_all(HALF).await.unwrap();
    let answer = rest(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(opened.elapsed().as_secs(), 75);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_client_does_not_accept_is_cut_after_thirty_seconds() {
    cuts_an_unread_answer(large_answer).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_its_answer_makes_room_at_the_connection_limit() {
    let server = large_answer().await;
    closes_who_does_not_read(&server).await;
    server.stop().await;
}

/// A server that may have one connection, and gives an answer of 8 MiB.
async fn large_answer() -> TestServer {
    let mut config = config();
    config.server.max_connections = Some(1);
    let feed = Feed::new(Retention::default());
    publish(&feed, "news", &"x".repeat(8 << 20)).await;
    start_with(feed, config).await
}

#[tokio::test(start_paused = true)]
async fn what_is_open_ten_seconds_after_the_signal_is_cut() {
    let server = start(config()).await;
    let mut client = connect(&server).await;
    client.write_all(&[HEALTH, HALF].concat()).await.unwrap();
    assert!(answer(&mut client).await.ends_with("ok\n"));
    let signal = Instant::now();
    let drained = server.stop().await;
    assert_eq!((drained.finished, drained.cut), (0, 1));
    assert_eq!(signal.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_wait_of_fifty_five_seconds_ends_up_to_a_sixteenth_earlier() {
    let server = start(config()).await;
    let (mut client, asked) = (connect(&server).await, Instant::now());
    let get = b"GET /topics/news?wait=55 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    client.write_all(get).await.unwrap();
    assert!(answer(&mut client).await.starts_with("HTTP/1.1 200 OK"));
    assert!((51..=55).contains(&asked.elapsed().as_secs()));
    server.stop().await;
}

async fn connect(server: &TestServer) -> TcpStream {
    let connected = TcpStream::connect(server.addr()).await;
    connected.expect("the server listens")
}

/// One short answer. No patience: it would end before the timer that is tested.
async fn answer(client: &mut TcpStream) -> String {
    let mut buffer = [0; 1_024];
    let read = client.read(&mut buffer).await.expect("it answers");
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}

/// All that comes until the server closes the connection.
async fn rest(client: &mut TcpStream) -> String {
    let mut rest = String::new();
    let read = client.read_to_string(&mut rest).await;
    read.expect("it closes in order");
    rest
}
