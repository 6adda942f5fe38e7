//! Streams that wait for the same news wait in a group, and each is still served like the only one. With
//! plain hyper there are no groups, and the same holds.
#![allow(clippy::unwrap_used, reason = "a test")]

mod setup;

use std::time::Duration;

use common::{Data, Draft, Drained, Feed, Retention};
use harness::{Block, EventReader, TestServer, Wire};
use setup::{config, in_time, live, start_with};
use sse::Config;
use tokio::{sync::Mutex, time::Instant};

/// More than a group writes at once.
const MANY: usize = 70;
/// One test with many streams at a time, because a process may have only 256 descriptors.
static CROWD: Mutex<()> = Mutex::const_new(());

async fn publish(feed: &Feed, topic: &str, text: &str) -> String {
    let draft = Draft::new(Data::text(text));
    let published = feed.publish(topic.parse().unwrap(), draft).await;
    published.unwrap().id.to_string()
}

/// Streams that wait, in as many groups as `groups` says.
async fn waiting(
    server: &TestServer,
    feed: &Feed,
    paths: &[&str],
    groups: usize,
) -> Vec<EventReader> {
    let mut streams = Vec::new();
    for path in paths {
        let mut stream = server.events(path).await;
        live(&mut stream).await;
        streams.push(stream);
    }
    let waiters = if config().takeover {
        groups
    } else {
        paths.len()
    };
    in_time(async {
        while feed.waiters() != waiters {
            tokio::task::yield_now().await;
        }
    })
    .await;
    streams
}

async fn block(stream: &mut EventReader) -> Block {
    in_time(stream.next()).await.expect("the stream goes on")
}

/// The id of the next message. Skips heartbeats.
async fn message(stream: &mut EventReader) -> String {
    let next = async {
        loop {
            let block = stream.next().await.expect("the stream goes on");
            assert_ne!(block.event(), Some("gap"));
            if block.data().is_some() {
                return block.id().unwrap().to_owned();
            }
        }
    };
    in_time(next).await
}

#[tokio::test]
async fn each_stream_hears_its_topics_in_its_own_way() {
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config()).await;
    let paths = [
        "/topics/a",
        "/topics/a",
        "/topics/a,b",
        "/topics/b,a",
        "/topics/b",
        "/topics/b?newest=1",
    ];
    let mut streams = waiting(&server, &feed, &paths, 4).await;
    let mut ids = Vec::new();
    // Nobody reads the feed in between, because nothing here waits.
    for topic in ["a", "b", "b", "a"] {
        ids.push(publish(&feed, topic, "news").await);
    }
    let expected: [&[usize]; 6] = [
        &[0, 3],
        &[0, 3],
        &[0, 1, 2, 3],
        &[0, 1, 2, 3],
        &[1, 2],
        &[2],
    ];
    for (stream, expected) in streams.iter_mut().zip(expected) {
        for index in expected {
            assert_eq!(message(stream).await, ids[*index]);
        }
    }
    drop(streams);
    server.stop().await;
}

/// A large message.
fn text() -> String {
    "x".repeat(60_000)
}

/// A stream whose client does not read, and has few buffers.
async fn stalled(server: &TestServer, feed: &Feed) -> (EventReader, EventReader) {
    let mut reads = waiting(server, feed, &["/topics/a"], 1).await;
    let mut wire = Wire::connect_narrow(server.addr(), 65_536).await;
    let request = "GET /topics/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    wire.send(request).await;
    let mut stalls = EventReader::on_wire(wire).await;
    live(&mut stalls).await;
    (reads.remove(0), stalls)
}

#[tokio::test]
async fn a_stream_that_stalls_holds_up_no_other_and_goes_on_in_the_middle_of_a_block() {
    let feed = Feed::new(Retention {
        messages: 1_000,
        topic_bytes: 64 << 20,
        ..Retention::default()
    });
    let server = start_with(feed.clone(), config()).await;
    let (mut reads, mut stalls) = stalled(&server, &feed).await;
    let mut ids = Vec::new();
    for round in 0..2 {
        for _ in 0..60 {
            let id = publish(&feed, "a", &text()).await;
            assert_eq!(message(&mut reads).await, id);
            ids.push(id);
        }
        // It is in the group again for the second round.
        for id in &ids[round * 60..] {
            assert_eq!(&message(&mut stalls).await, id);
        }
    }
    drop((reads, stalls));
    server.stop().await;
}

#[tokio::test]
async fn a_group_that_is_slower_than_its_publishers_is_told_what_it_missed() {
    let feed = Feed::new(Retention {
        messages: 3,
        ..Retention::default()
    });
    let server = start_with(feed.clone(), config()).await;
    let mut streams = waiting(&server, &feed, &["/topics/a"; 3], 1).await;
    let start = feed.head().to_string();
    let mut ids = Vec::new();
    // The server gets no turn in between, because nothing here waits.
    for _ in 0..10 {
        ids.push(publish(&feed, "a", "news").await);
    }
    for stream in &mut streams {
        let gap: serde_json::Value = block(stream).await.json();
        assert_eq!(gap["reason"], "trimmed");
        assert_eq!(
            (&gap["requested"], &gap["resumed"]),
            (&start.as_str().into(), &ids[6].as_str().into())
        );
        for id in &ids[7..] {
            assert_eq!(&message(stream).await, id);
        }
    }
    drop(streams);
    server.stop().await;
}

#[tokio::test]
async fn clients_that_leave_in_the_middle_of_a_round_take_nothing_from_the_others() {
    let _one = CROWD.lock().await;
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config()).await;
    let mut streams = waiting(&server, &feed, &["/topics/a"; MANY], 1).await;
    let id = publish(&feed, "a", "news").await;
    for index in (0..MANY).rev().step_by(2) {
        // The first of them, before the server has a turn.
        streams.remove(index).into_wire().reset();
        if index == MANY / 2 {
            tokio::task::yield_now().await;
        }
    }
    let next = publish(&feed, "a", "news").await;
    for stream in &mut streams {
        assert_eq!(message(stream).await, id);
        assert_eq!(message(stream).await, next);
    }
    let open = streams.len();
    assert_eq!(
        server.stop().await,
        Drained {
            finished: open,
            cut: 0
        }
    );
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_comes_to_all_after_a_silence_and_news_put_it_off() {
    let _one = CROWD.lock().await;
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config()).await;
    let mut streams = waiting(&server, &feed, &["/topics/a"; MANY], 1).await;
    let id = publish(&feed, "a", "news").await;
    let published = Instant::now();
    for stream in &mut streams {
        assert_eq!(message(stream).await, id);
    }
    for stream in &mut streams {
        assert_eq!(block(stream).await.fields, [("id".to_owned(), id.clone())]);
        assert_eq!(published.elapsed().as_secs(), config().heartbeat.as_secs());
    }
    drop(streams);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn each_stream_ends_at_its_own_greatest_age() {
    let feed = Feed::new(Retention::default());
    let max_age = Duration::from_secs(1_000);
    let server = start_with(
        feed.clone(),
        Config {
            max_age,
            ..config()
        },
    )
    .await;
    let opened = Instant::now();
    let streams = waiting(&server, &feed, &["/topics/a"; 2], 1).await;
    let [first, second] = streams.try_into().unwrap();
    let (first, second) = tokio::join!(until_too_old(first, opened), until_too_old(second, opened));
    for age in [first, second] {
        assert!((max_age * 9 / 10..=max_age).contains(&age), "{age:?}");
    }
    server.stop().await;
}

async fn until_too_old(mut stream: EventReader, opened: Instant) -> Duration {
    let mut last = block(&mut stream).await;
    while last.comments.is_empty() {
        last = block(&mut stream).await;
    }
    assert_eq!(last.comments, [" the stream is at its greatest age"]);
    let age = opened.elapsed();
    assert!(stream.next().await.is_none());
    age
}

#[tokio::test]
async fn streams_join_while_news_come_and_each_hears_every_message_once() {
    let _one = CROWD.lock().await;
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config()).await;
    let joining = async {
        let mut streams = Vec::new();
        for _ in 0..30 {
            streams.push(server.events("/topics/a?after=earliest").await);
        }
        streams
    };
    let publishing = async {
        for count in 0..300 {
            publish(&feed, if count % 3 == 0 { "b" } else { "a" }, "news").await;
            tokio::task::yield_now().await;
        }
        publish(&feed, "a", "the last one").await
    };
    let (streams, last) = tokio::join!(joining, publishing);
    for mut stream in streams {
        let mut heard = Vec::new();
        while heard.last() != Some(&last) {
            heard.push(message(&mut stream).await);
        }
        let numbers = heard
            .iter()
            .map(|id| id.rsplit_once('-').unwrap().1.parse::<usize>().unwrap());
        let expected = (1..=300).filter(|number| number % 3 != 1).chain([301]);
        assert_eq!(numbers.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
    server.stop().await;
}
