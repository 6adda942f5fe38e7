//! The column `SSE` of the fault table in `harness`, and how clients leave.
#![allow(clippy::unwrap_used, reason = "a test")]

mod setup;

use std::time::Duration;

use common::{Feed, Retention};
use harness::{Client, EventReader, Fault, FaultProxy, Faults, TestServer, Wire};
use setup::{config, in_time, start, start_with};
use sse::Config;
use tokio::time::timeout;

/// Reads from the proxy until every id up to `last` has come, reconnecting as a browser does.
async fn read_all(proxy: &FaultProxy, after: &str, last: u64) -> Vec<u64> {
    in_time(reconnect_until(proxy, after, last)).await
}

async fn reconnect_until(proxy: &FaultProxy, after: &str, last: u64) -> Vec<u64> {
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
    publish(&feed, count).await;
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

/// Waits until this many streams wait.
async fn waiting(feed: &Feed, wanted: usize) {
    in_time(async {
        while feed.waiters() != wanted {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn publish(feed: &Feed, count: u64) {
    for _ in 0..count {
        let draft = common::Draft::new(common::Data::text("news"));
        feed.publish("a".parse().unwrap(), draft).await.unwrap();
    }
}

/// Reads the first ten messages through the proxy. The stream then waits for more.
async fn ten_messages(proxy: &FaultProxy, feed: &Feed) -> (EventReader, String) {
    let start = common::Cursor {
        seq: 0,
        ..feed.head()
    };
    let start = [("Last-Event-ID", start.to_string())];
    let start = start.each_ref().map(|(name, id)| (*name, id.as_str()));
    let mut stream = EventReader::connect_with(proxy.addr(), "/topics/a", &start).await;
    let last = feed.head().to_string();
    in_time(async { while stream.next().await.unwrap().id() != Some(&last) {} }).await;
    let live = in_time(stream.next()).await.unwrap();
    assert_eq!(live.fields, [("id".to_owned(), last.clone())]);
    waiting(feed, 1).await;
    (stream, last)
}

#[tokio::test]
async fn a_stream_that_is_torn_is_gone_at_the_next_write_and_one_that_is_torn_or_half_closed_resumes()
 {
    for (fault, client_ends) in [
        (Faults::from(Fault::Reset), false),
        (Faults::down(Fault::HalfClose), true),
    ] {
        let feed = published(10).await;
        let server = start_with(feed.clone(), config()).await;
        let proxy = FaultProxy::start(server.addr(), Fault::Pass).await;
        let (mut stream, last) = ten_messages(&proxy, &feed).await;
        proxy.set(fault);
        if client_ends {
            assert!(stream.next().await.is_none(), "it hears of the end");
            drop(stream);
        }
        publish(&feed, 10).await;
        if !client_ends {
            waiting(&feed, 0).await;
        }
        proxy.set(Fault::Pass);
        let ids = read_all(&proxy, &last, 20).await;
        assert_eq!(ids, (11..=20).collect::<Vec<u64>>(), "{fault:?}");
        drop(proxy);
        server.stop().await;
    }
}

/// Publishes until no stream waits any more.
async fn until_gone(feed: &Feed) {
    in_time(async {
        while feed.waiters() > 0 {
            publish(feed, 1).await;
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_reset_is_seen_at_once_also_from_a_client_that_sends_no_more() {
    if !config().takeover {
        return; // Plain hyper does not read while it waits, and so does not see it.
    }
    let feed = Feed::new(Retention::default());
    let config = Config {
        heartbeat: Duration::from_secs(3_600), // it would tell, too
        ..config()
    };
    let server = start_with(feed.clone(), config).await;
    for sends_no_more in [false, true] {
        let mut wire = server.wire().await;
        wire.send("GET /topics/a HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        wire.read_until(": hello\n").await;
        waiting(&feed, 1).await;
        if sends_no_more {
            wire.half_close().await;
            publish(&feed, 1).await;
            wire.read_until("news").await;
            waiting(&feed, 1).await;
        }
        wire.reset();
        waiting(&feed, 0).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn no_heartbeat_comes_through_a_black_hole_and_the_client_that_misses_it_resumes() {
    let feed = published(10).await;
    let heartbeat = Duration::from_millis(50);
    let config = Config {
        heartbeat,
        ..config()
    };
    let server = start_with(feed.clone(), config).await;
    let proxy = FaultProxy::start(server.addr(), Fault::Pass).await;
    let (mut stream, last) = ten_messages(&proxy, &feed).await;
    assert_eq!(stream.next().await.unwrap().id(), Some(last.as_str()));
    proxy.set(Faults::down(Fault::Blackhole));
    publish(&feed, 10).await;
    let missed = async {
        // A heartbeat may have been on its way already.
        while stream.next().await.unwrap().data().is_none() {}
    };
    assert!(
        timeout(heartbeat * 10, missed).await.is_err(),
        "nothing comes"
    );
    proxy.set(Fault::Pass);
    drop(stream);
    let ids = read_all(&proxy, &last, 20).await;
    assert_eq!(ids, (11..=20).collect::<Vec<u64>>());
    drop(proxy);
    server.stop().await;
}

#[tokio::test]
async fn a_client_whose_leaving_is_not_seen_is_missed_at_the_next_write() {
    let feed = published(10).await;
    let config = Config {
        max_subscribers: 1,
        ..config()
    };
    let server = start_with(feed.clone(), config).await;
    let proxy = FaultProxy::start(server.addr(), Fault::Pass).await;
    let (stream, _) = ten_messages(&proxy, &feed).await;
    proxy.set(Faults::up(Fault::Blackhole));
    drop(stream);
    assert_eq!(
        comments_of_one_more(&server).await,
        [" at the subscriber limit"]
    );
    in_time(async {
        while comments_of_one_more(&server).await != [" hello"] {
            publish(&feed, 1).await;
        }
    })
    .await;
    drop(proxy);
    server.stop().await;
}

/// The comments in the first block of one more stream.
async fn comments_of_one_more(server: &TestServer) -> Vec<String> {
    let mut stream = server.events("/topics/a").await;
    stream.next().await.unwrap().comments
}

#[tokio::test]
async fn a_client_that_left_frees_its_place_at_the_next_heartbeat() {
    let feed = Feed::new(Retention::default());
    let server = start_with(
        feed.clone(),
        Config {
            max_subscribers: 1,
            heartbeat: Duration::from_millis(20),
            ..config()
        },
    )
    .await;
    for resets in [false, true, true, false, false] {
        let stream = in_time(opened(&server)).await;
        if resets {
            stream.into_wire().reset();
        }
    }
    server.stop().await;
}

/// A stream, as soon as there is a place.
async fn opened(server: &TestServer) -> EventReader {
    loop {
        let mut stream = server.events("/topics/a").await;
        if stream.next().await.unwrap().comments == [" hello"] {
            return stream;
        }
    }
}

#[tokio::test]
async fn a_stalled_network_is_cut_after_the_stall_and_the_client_comes_back() {
    let feed = Feed::new(Retention {
        messages: 10_000,
        topic_bytes: 64 << 20,
        ..Retention::default()
    });
    let start = feed.head().to_string();
    let mut config = config();
    config.server.stall = Duration::from_millis(300);
    config.max_subscribers = 1;
    let server = start_with(feed.clone(), config).await;
    let proxy = FaultProxy::start(server.addr(), Faults::down(Fault::Stall)).await;
    let mut wire = Wire::connect(proxy.addr()).await;
    wire.send("GET /topics/a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    waiting(&feed, 1).await;
    let client = Client::keep_alive(server.addr()).await;
    for _ in 0..400 {
        // 24 MB: more than the socket's buffers, the proxy's and hyper's take.
        assert_eq!(
            client
                .post("/topics/a", "x".repeat(60_000))
                .send()
                .await
                .status,
            201
        );
    }
    // Its slot is free again, though the network still stalls: it was cut.
    in_time(async { while comments_of_one_more(&server).await != [" hello"] {} }).await;
    proxy.set(Fault::Pass);
    until_gone(&feed).await;
    let mut stream =
        EventReader::connect_with(proxy.addr(), "/topics/a", &[("Last-Event-ID", &start)]).await;
    stream.next().await.unwrap();
    assert!(stream.next().await.unwrap().id().unwrap().ends_with("-1"));
    drop(stream);
    server.stop().await;
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
