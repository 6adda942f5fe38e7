//! The cells of the harness' fault table for event streams, and how clients leave.
#![allow(clippy::unwrap_used, reason = "a test")]

mod setup;

use std::time::Duration;

use common::{
    Feed, Retention,
    harness::{EventReader, Fault, FaultProxy, Faults},
};
use setup::{config, start_with};
use sse::Config;

/// Reads from the proxy until every id up to `last` has come, reconnecting as a browser does.
async fn read_all(proxy: &FaultProxy, after: &str, last: u64) -> Vec<u64> {
    let (mut last_id, mut ids) = (after.to_owned(), Vec::new());
    while ids.last() != Some(&last) {
        let mut stream =
            EventReader::connect_with(proxy.addr(), "/topics/a", &[("Last-Event-ID", &last_id)])
                .await;
        while let Some(block) = stream.next().await {
            assert_ne!(block.event(), Some("gap"));
            if let Some(id) = block.id() {
                id.clone_into(&mut last_id);
            }
            if block.data().is_some() {
                ids.push(
                    block
                        .id()
                        .unwrap()
                        .rsplit_once('-')
                        .unwrap()
                        .1
                        .parse()
                        .unwrap(),
                );
            }
            if ids.last() == Some(&last) {
                break;
            }
        }
        proxy.set(Fault::Pass);
    }
    ids
}

async fn published(count: u64) -> Feed {
    let feed = Feed::new(Retention::default());
    for _ in 0..count {
        let draft = common::Draft::new(common::Data::text("news"));
        feed.publish("a".parse().unwrap(), draft).await.unwrap();
    }
    feed
}

#[tokio::test]
async fn however_the_network_mangles_a_stream_each_message_comes_once() {
    for fault in [
        Fault::Pass,
        Fault::ByteAtATime,
        Fault::Delay(Duration::from_millis(20)),
        Fault::CutAfter(900),
        Fault::CutAfter(1_001),
    ] {
        let feed = published(20).await;
        let start = common::Cursor {
            seq: 0,
            ..feed.head()
        }
        .to_string();
        let server = start_with(feed, config()).await;
        let proxy = FaultProxy::start(server.addr(), Faults::down(fault)).await;
        let ids = read_all(&proxy, &start, 20).await;
        assert_eq!(ids, (1..=20).collect::<Vec<u64>>(), "{fault:?}");
        drop(proxy);
        server.stop().await;
    }
}

/// Waits until the stream is live, then until nobody waits any more.
async fn leaves(feed: &Feed, leave: impl AsyncFnOnce()) {
    while feed.waiters() == 0 {
        tokio::task::yield_now().await;
    }
    leave().await;
    while feed.waiters() != 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_by_fin_reset_or_half_close_frees_its_place() {
    let feed = Feed::new(Retention::default());
    let server = start_with(
        feed.clone(),
        Config {
            max_subscribers: 1,
            ..config()
        },
    )
    .await;
    for way in ["fin", "reset", "half-close"] {
        let mut wire = server.wire().await;
        wire.send("GET /topics/a HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        wire.read_until(": hello\n").await;
        leaves(&feed, async || match way {
            "fin" => drop(wire),
            "reset" => wire.reset(),
            _ => {
                wire.half_close().await;
                wire.closed().await;
            }
        })
        .await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_stalled_network_is_cut_after_the_stall_and_the_client_comes_back() {
    let feed = published(1).await;
    let start = common::Cursor {
        seq: 0,
        ..feed.head()
    }
    .to_string();
    let config = Config {
        stall: Duration::from_millis(200),
        ..config()
    };
    let server = start_with(feed.clone(), config).await;
    let proxy = FaultProxy::start(server.addr(), Faults::down(Fault::Stall)).await;
    let _stalled = common::harness::Wire::connect(proxy.addr()).await;
    let mut wire = common::harness::Wire::connect(proxy.addr()).await;
    wire.send("GET /topics/a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    while feed.waiters() == 0 {
        tokio::task::yield_now().await;
    }
    let client = server.client();
    while feed.waiters() != 0 || feed.counts().messages < 900 {
        assert_eq!(
            client
                .post("/topics/a", "x".repeat(60_000))
                .send()
                .await
                .status,
            201
        );
        if feed.counts().bytes > 7 << 20 {
            break;
        }
    }
    proxy.drop_all();
    proxy.set(Fault::Pass);
    let mut stream =
        EventReader::connect_with(proxy.addr(), "/topics/a", &[("Last-Event-ID", &start)]).await;
    stream.next().await.unwrap();
    assert!(
        stream
            .next()
            .await
            .unwrap()
            .data()
            .unwrap()
            .contains("\"data\":\"news\"")
    );
    drop(stream);
    server.stop().await;
}
