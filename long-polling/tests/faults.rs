//! What happens under each fault of the table in `harness`.

mod setup;

#[path = "../examples/long_polling_client.rs"]
#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
mod client;

use std::time::Duration;

use clap::Parser;
use client::{Args, Failure, Reader};
use common::{Feed, Retention};
use harness::{End, Fault, FaultProxy, Faults, TestServer, Wire};
use long_polling::Config;
use setup::{config, in_time, publish, small, start, start_with, until_waiting};

const GET: &str = "GET /topics/news HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn a_client_that_shut_its_sending_side_has_the_news() {
    let (feed, server) = server(config()).await;
    let proxy = FaultProxy::start(server.addr(), Fault::Pass).await;
    let mut wire = Wire::connect(proxy.addr()).await;
    wire.send(GET).await;
    until_waiting(&feed, 1).await;
    wire.half_close().await;
    publish(&feed, "news", "hello").await;
    assert!(wire.read_response().await.text().contains("hello"));
    assert_eq!(wire.closed().await, (End::Eof, Vec::new()));
    server.stop().await;
}

#[tokio::test]
async fn a_reset_frees_the_wait_at_once() {
    if !config().takeover {
        return; // Plain hyper does not read while it waits, and so does not see it.
    }
    let (feed, server) = server(config()).await;
    let proxy = FaultProxy::start(server.addr(), Fault::Pass).await;
    let mut wire = Wire::connect(proxy.addr()).await;
    wire.send(GET).await;
    until_waiting(&feed, 1).await;
    proxy.set(Fault::Reset);
    until_waiting(&feed, 0).await;
    assert_eq!(wire.closed().await.0, End::Reset);
    server.stop().await;
}

#[tokio::test]
async fn a_leaving_that_is_not_seen_ends_with_the_wait() {
    let config = Config {
        wait: Duration::from_millis(100),
        ..config()
    };
    let (feed, server) = server(config).await;
    let proxy = FaultProxy::start(server.addr(), Fault::Pass).await;
    let mut wire = Wire::connect(proxy.addr()).await;
    wire.send(GET).await;
    until_waiting(&feed, 1).await;
    proxy.set(Fault::Blackhole);
    drop(wire);
    until_waiting(&feed, 0).await;
    server.stop().await;
}

#[tokio::test]
async fn a_wait_starts_when_the_head_is_complete() {
    let (feed, server) = server(config()).await;
    let proxy = FaultProxy::start(server.addr(), Fault::ByteAtATime).await;
    let mut wire = Wire::connect(proxy.addr()).await;
    let (most, last) = GET.split_at(GET.len() - 1);
    wire.send(most).await;
    in_time(async {
        while proxy.bytes_up() < most.len() as u64 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(feed.waiters(), 0);
    wire.send(last).await;
    until_waiting(&feed, 1).await;
    publish(&feed, "news", "hello, мир").await;
    assert!(wire.read_response().await.text().contains("hello, мир"));
    server.stop().await;
}

#[tokio::test]
async fn a_wait_is_no_stall() {
    let mut config = config();
    config.server.stall = Duration::from_millis(20);
    config.wait = Duration::from_millis(100);
    let (_feed, server) = server(config).await;
    assert_eq!(server.get("/topics/news").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn what_is_published_while_an_answer_travels_is_in_the_next() {
    let (feed, server) = server(config()).await;
    let delay = Fault::Delay(Duration::from_millis(20));
    let proxy = FaultProxy::start(server.addr(), delay).await;
    let (mut reader, mut printed) = (reader(&proxy), Vec::new());
    let later = async {
        until_waiting(&feed, 1).await;
        publish(&feed, "news", "n0").await;
        until_waiting(&feed, 0).await;
        publish(&feed, "news", "n1").await;
    };
    let (polled, ()) = tokio::join!(reader.poll(&mut printed), later);
    polled.unwrap();
    assert_eq!(printed_data(&printed), ["n0"]);
    reader.poll(&mut printed).await.unwrap();
    assert_eq!(printed_data(&printed), ["n0", "n1"]);
    server.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_unread_answer_is_cut_after_the_stall() {
    let mut config = config();
    config.server.max_message = 2 << 20;
    config.server.stall = Duration::from_millis(100);
    let server = start(config).await;
    for _ in 0..4 {
        server.post("/topics/news", vec![b'x'; 1 << 20]).await;
    }
    let mut stalled = Wire::connect_narrow(server.addr(), 4_096).await;
    stalled.send(GET.repeat(8)).await;
    stalled.given_up().await;
    server.stop().await;
}

#[tokio::test]
async fn a_head_that_does_not_come_is_cut() {
    for fault in [Fault::Stall, Fault::Blackhole] {
        let server = start(small()).await;
        let proxy = FaultProxy::start(server.addr(), Faults::up(fault)).await;
        let mut wire = Wire::connect(proxy.addr()).await;
        wire.send(GET).await;
        assert_eq!(wire.closed().await, (End::Eof, Vec::new()), "{fault:?}");
        server.stop().await;
    }
}

#[tokio::test]
async fn a_poll_that_broke_off_is_asked_again_and_misses_nothing() {
    for fault in [
        Faults::from(Fault::Reset),
        Faults::down(Fault::HalfClose),
        Faults::down(Fault::CutAfter(150)),
        Faults::down(Fault::CutAfter(400)),
        Faults::up(Fault::CutAfter(20)),
        Faults::up(Fault::HalfClose),
    ] {
        let server = start(config()).await;
        let proxy = FaultProxy::start(server.addr(), Fault::Pass).await;
        let (mut reader, mut printed) = (reader(&proxy), Vec::new());
        server.post("/topics/news", "n0").await;
        reader.poll(&mut printed).await.unwrap();
        let long = format!("n1{}", "-".repeat(1_000));
        server.post("/topics/news", long.clone()).await;
        proxy.set(fault);
        let failed = reader.poll(&mut printed).await;
        assert!(
            matches!(failed, Err(Failure::Passing(..))),
            "{fault:?}: {failed:?}"
        );
        assert_eq!(printed_data(&printed), ["n0"], "{fault:?}");
        proxy.set(Fault::Pass);
        reader.poll(&mut printed).await.unwrap();
        assert_eq!(printed_data(&printed), ["n0", &long], "{fault:?}");
        server.stop().await;
    }
}

#[tokio::test]
async fn a_poll_without_an_answer_is_ended_by_the_client() {
    for fault in [
        Faults::down(Fault::Blackhole),
        Faults::down(Fault::Stall),
        Faults::from(Fault::Stall),
    ] {
        let server = start(config()).await;
        let proxy = FaultProxy::start(server.addr(), fault).await;
        let (mut reader, mut printed) = (reader(&proxy), Vec::new());
        server.post("/topics/news", "n0").await;
        tokio::time::pause();
        let failed = reader.poll(&mut printed).await;
        tokio::time::resume();
        assert!(
            matches!(failed, Err(Failure::Passing(..))),
            "{fault:?}: {failed:?}"
        );
        proxy.set(Fault::Pass);
        reader.poll(&mut printed).await.unwrap();
        assert_eq!(printed_data(&printed), ["n0"], "{fault:?}");
        server.stop().await;
    }
}

#[tokio::test]
async fn half_a_request_publishes_nothing() {
    let server = start(config()).await;
    let proxy = FaultProxy::start(server.addr(), Faults::up(Fault::CutAfter(80))).await;
    let head = "POST /topics/news HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40\r\n\r\n";
    let mut wire = Wire::connect(proxy.addr()).await;
    wire.send(format!("{head}{}", "x".repeat(40))).await;
    wire.closed().await;
    let page = server.get("/topics/news?wait=0").await.json();
    assert_eq!(page["messages"], serde_json::json!([]));
    server.stop().await;
}

async fn server(config: Config) -> (Feed, TestServer) {
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config).await;
    (feed, server)
}

fn reader(proxy: &FaultProxy) -> Reader {
    let url = format!("http://{}/topics/news", proxy.addr());
    Reader::new(Args::parse_from(["client", &url])).expect("the URL is one")
}

/// The data of the messages that were printed.
fn printed_data(printed: &[u8]) -> Vec<String> {
    let printed = String::from_utf8_lossy(printed);
    let data = |line: &str| {
        let (_, data) = line.split_once(r#","data":""#)?;
        data.strip_suffix(r#""}"#).map(str::to_owned)
    };
    printed.lines().filter_map(data).collect()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_peer_that_vanished_is_given_up() {
    let mut config = config();
    config.server.stall = Duration::from_millis(300);
    config.server.read_timeout = Duration::from_secs(60);
    let server = start(config).await;
    harness::contract::notices_a_vanished_peer(&server).await;
    server.stop().await;
}
