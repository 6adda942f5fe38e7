//! What a stream promises: every message once and in order, across cuts and restarts, or a gap.
#![allow(clippy::unwrap_used, reason = "a test")]

mod setup;

use std::time::Duration;

use common::{After, Data, Draft, Feed, PageLimit, Retention};
use harness::{Block, End, EventReader, TestServer, Wire};
use serde_json::json;
use setup::{config, in_time, live, start, start_with};
use sse::Config;

async fn publish(feed: &Feed, topic: &str, text: &str) -> String {
    let published = feed
        .publish(topic.parse().unwrap(), Draft::new(Data::text(text)))
        .await;
    published.unwrap().id.to_string()
}

/// The next block, which must be there.
async fn block(stream: &mut EventReader) -> Block {
    stream.next().await.expect("the stream goes on")
}

/// The next block's data as a message's data.
async fn text(stream: &mut EventReader) -> String {
    let block = block(stream).await;
    assert_eq!(
        block.event(),
        None,
        "messages have no event line: {block:?}"
    );
    let message: serde_json::Value = block.json();
    assert_eq!(message["id"].as_str(), block.id());
    message["data"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_client_only_listens_and_hears_each_message_once() {
    let server = start(config()).await;
    let mut stream = server.events("/topics/news,quotes").await;
    let opening = live(&mut stream).await;
    assert_eq!(opening.comments, [" hello"]);
    assert!(opening.id().unwrap().ends_with("-0"));
    for (topic, news) in [
        ("news", "one"),
        ("weather", "not asked for"),
        ("quotes", "two"),
        ("news", "three"),
    ] {
        assert_eq!(
            server.post(&format!("/topics/{topic}"), news).await.status,
            201
        );
    }
    for expected in ["one", "two", "three"] {
        assert_eq!(text(&mut stream).await, expected);
    }
    drop(stream);
    assert_eq!(server.stop().await.cut, 0);
}

/// What both versions of the protocol have in their heads, up to the framing and the date.
const FIELDS: &str = "200 OK\r\n\
    content-type: text/event-stream; charset=utf-8\r\n\
    cache-control: no-store, no-transform\r\n\
    x-accel-buffering: no\r\n\
    incremental: ?1\r\n\
    connection: close\r\n\
    x-content-type-options: nosniff\r\n\
    vary: origin\r\n";

#[tokio::test]
async fn the_head_is_the_same_bytes_with_the_takeover_and_without() {
    for takeover in [true, false] {
        let server = start(Config {
            takeover,
            ..config()
        })
        .await;
        for (version, asked, framing) in [
            ("HTTP/1.1", "", "transfer-encoding: chunked\r\n"),
            ("HTTP/1.0", "", ""),
            ("HTTP/1.0", "Connection: keep-alive\r\n", ""),
        ] {
            let mut wire = server.wire().await;
            let request = format!("GET /topics/a {version}\r\nHost: localhost\r\n{asked}\r\n");
            wire.send(request).await;
            let head = wire.read_head().await;
            let (fields, date) = head.split_once("date: ").unwrap();
            assert_eq!(fields, format!("{version} {FIELDS}{framing}"));
            assert!(date.ends_with(" GMT\r\n\r\n"));
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn each_write_is_a_chunk_and_the_last_chunk_is_the_end() {
    for takeover in [true, false] {
        let server = start(Config {
            takeover,
            ..config()
        })
        .await;
        let mut wire = server.wire().await;
        wire.send("GET /topics/a HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        wire.read_head().await;
        // The opening is shorter than 256 bytes, and longer than 16.
        let size = wire.read_until("\r\n").await;
        let opening = wire.read_until("\n\n\r\n").await;
        let size = usize::from_str_radix(str::from_utf8(&size).unwrap().trim(), 16).unwrap();
        assert_eq!(size, opening.len() - "\r\n".len());
        server.stop().await;
        let (_, rest) = wire.closed().await;
        let rest = String::from_utf8(rest).unwrap();
        assert!(rest.contains(": the server is going away\n"), "{rest:?}");
        assert!(rest.ends_with("\n\n\r\n0\r\n\r\n"), "{rest:?}");
    }
}

#[tokio::test]
async fn a_head_request_is_answered_at_once() {
    let server = start(config()).await;
    let reply = server
        .client()
        .request(hyper::Method::HEAD, "/topics/a")
        .send()
        .await;
    assert_eq!((reply.status.as_u16(), reply.body.len()), (200, 0));
    assert_eq!(
        reply.header("content-type"),
        Some("text/event-stream; charset=utf-8")
    );
    server.stop().await;
}

#[tokio::test]
async fn http_1_0_gets_a_stream_too() {
    let server = start(config()).await;
    let mut wire = server.wire().await;
    wire.send("GET /topics/a HTTP/1.0\r\n\r\n").await;
    assert!(wire.read_head().await.starts_with("HTTP/1.0 200 OK\r\n"));
    wire.expect(": hello\nretry: ").await;
    server.stop().await;
    let (end, rest) = wire.closed().await;
    assert_eq!(end, End::Eof);
    assert!(rest.ends_with(b"\n\n") && !rest.contains(&b'\r'));
}

#[tokio::test]
async fn a_client_that_comes_back_with_the_last_id_misses_nothing() {
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config()).await;
    let first = publish(&feed, "a", "one").await;
    publish(&feed, "a", "two").await;
    for path in ["/topics/a", "/topics/a?after=latest"] {
        let mut stream =
            EventReader::connect_with(server.addr(), path, &[("Last-Event-ID", &first)]).await;
        assert_eq!(block(&mut stream).await.id(), Some(first.as_str()));
        assert_eq!(
            text(&mut stream).await,
            "two",
            "the header wins over the query"
        );
    }
    let mut stream = EventReader::connect_with(
        server.addr(),
        "/topics/a?after=earliest",
        &[("Last-Event-ID", "")],
    )
    .await;
    block(&mut stream).await;
    assert_eq!(text(&mut stream).await, "one", "an empty id is none");
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn a_long_replay_comes_in_pages_and_whole() {
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config()).await;
    for number in 0..950 {
        publish(&feed, ["a", "b"][number % 2], &number.to_string()).await;
    }
    let mut stream = server.events("/topics/a,b?after=earliest").await;
    assert!(
        block(&mut stream).await.id().unwrap().ends_with("-0"),
        "never the head during replay"
    );
    for number in 0..950 {
        assert_eq!(text(&mut stream).await, number.to_string());
    }
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn a_polyfill_resumes_by_the_query_and_an_empty_id_is_none() {
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config()).await;
    let one = publish(&feed, "a", "one").await;
    let two = publish(&feed, "a", "two").await;
    for (query, field, start) in [
        (format!("lastEventId={one}"), None, &one),
        (
            format!("after={two}&lastEventId={two}&lastEventId={one}"),
            None,
            &one,
        ),
        (
            format!("after=earliest&lastEventId={one}"),
            Some(two.as_str()),
            &two,
        ),
        (format!("lastEventId={one}&lastEventId="), Some(""), &one),
        (format!("after={one}&lastEventId="), Some(""), &one),
        ("lastEventId".to_owned(), None, &two),
    ] {
        let path = format!("/topics/a?{query}");
        let fields: Vec<_> = field.map(|id| ("Last-Event-ID", id)).into_iter().collect();
        let mut stream = EventReader::connect_with(server.addr(), &path, &fields).await;
        assert_eq!(
            block(&mut stream).await.id(),
            Some(start.as_str()),
            "{path}"
        );
    }
    let mut stream = server.events("/topics/a?lastEventId=%").await;
    assert_eq!(block(&mut stream).await.id(), None);
    let gap = block(&mut stream).await.json();
    assert_eq!(
        (&gap["reason"], &gap["requested"]),
        (&json!("foreign"), &json!("%"))
    );
    drop(stream);
    server.stop().await;
}

/// A stream after its line with `retry:`. Over HTTP/1.0, whose body has no chunks.
async fn past_retry(server: &TestServer, target: &str) -> Wire {
    let mut wire = server.wire().await;
    wire.send(format!("GET {target} HTTP/1.0\r\n\r\n")).await;
    wire.read_head().await;
    wire.expect(": hello\nretry: ").await;
    wire.read_until("\n").await;
    wire
}

/// The blocks of the messages with these numbers.
async fn blocks(feed: &Feed, numbers: &[u64]) -> String {
    let topics = "a,b,c".parse().unwrap();
    let read = feed.read(&topics, &After::Earliest, PageLimit::default());
    let kept = read.await.unwrap().messages;
    let block = |number: &u64| {
        let mut kept = kept.iter();
        let message = kept.find(|message| message.id.seq == *number).unwrap();
        let json = str::from_utf8(&message.json).unwrap();
        format!("id: {}\ndata: {json}\n\n", message.id)
    };
    numbers.iter().map(block).collect()
}

#[tokio::test]
async fn a_stream_that_has_replayed_everything_says_so_at_once_and_once() {
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config()).await;
    let start = feed.head();
    let mut empty = past_retry(&server, "/topics/a").await;
    empty
        .expect(format!("id: {start}\n\nid: {start}\n\n"))
        .await;
    publish(&feed, "a", "one").await;
    empty.expect(blocks(&feed, &[1]).await).await;
    publish(&feed, "a", "two").await;
    publish(&feed, "other", "three").await;
    let (head, both) = (feed.head(), blocks(&feed, &[1, 2]).await);
    let gap = format!(
        "event: gap\ndata: {{\"reason\":\"foreign\",\"topics\":[\"a\"],\"requested\":\"x-1\",\"resumed\":\"{start}\"}}\n\n"
    );
    let beat = format!("event: heartbeat\nid: {head}\ndata: {{\"next\":\"{head}\"}}\n\n");
    let mut streams = Vec::new();
    for (query, bytes) in [
        ("earliest", format!("id: {start}\n\n{both}id: {head}\n\n")),
        (
            "earliest&heartbeat=event",
            format!("id: {start}\n\n{both}{beat}"),
        ),
        ("x-1", format!("\n{gap}{both}id: {head}\n\n")),
        ("x-1&heartbeat=event", format!("\n{gap}{both}{beat}")),
    ] {
        let mut stream = past_retry(&server, &format!("/topics/a?after={query}")).await;
        stream.expect(bytes).await;
        streams.push(stream);
    }
    publish(&feed, "a", "four").await;
    for mut stream in streams {
        stream.expect(blocks(&feed, &[4]).await).await;
    }
    drop(empty);
    server.stop().await;
}

#[tokio::test]
async fn last_is_the_newest_message_of_each_topic_and_then_what_comes() {
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config()).await;
    // More than one page, of which the newest message of `b` is the second.
    for topic in ["a", "b", "c", "a", "b", "b", "c", "c"] {
        publish(&feed, topic, &"x".repeat(6_000)).await;
    }
    let mut stream = past_retry(&server, "/topics/a,b,c,never?after=last").await;
    let state = blocks(&feed, &[4, 6, 8]).await;
    // Without an id: a client that is cut off before the state comes back for all of it.
    let live = format!("id: {}\n\n", feed.head());
    stream.expect(format!("\n{state}{live}")).await;
    publish(&feed, "a", "nine").await;
    publish(&feed, "a", "ten").await;
    stream.expect(blocks(&feed, &[9, 10]).await).await;
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn conflation_skips_what_a_newer_message_of_the_topic_replaces() {
    let feed = Feed::new(Retention {
        messages: 2,
        ..Retention::default()
    });
    let server = start_with(feed.clone(), config()).await;
    let start = feed.head();
    for topic in ["a", "a", "a", "b", "a"] {
        publish(&feed, topic, "quote").await;
    }
    let mut stream = past_retry(&server, &format!("/topics/a,b?after={start}&newest=1")).await;
    let (newest, head) = (blocks(&feed, &[4, 5]).await, feed.head());
    stream
        .expect(format!("id: {start}\n\n{newest}id: {head}\n\n"))
        .await;
    // All of them are there when the stream looks.
    for topic in ["a", "b", "b", "a"] {
        publish(&feed, topic, "quote").await;
    }
    stream.expect(blocks(&feed, &[8, 9]).await).await;
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn a_cursor_older_than_what_is_kept_hears_of_the_gap_first() {
    let feed = Feed::new(Retention {
        messages: 2,
        ..Retention::default()
    });
    let server = start_with(feed.clone(), config()).await;
    let first = publish(&feed, "a", "1").await;
    let lost = publish(&feed, "a", "2").await;
    for number in 3..=4 {
        publish(&feed, "a", &number.to_string()).await;
    }
    let mut stream = server.events(&format!("/topics/a,b?after={first}")).await;
    block(&mut stream).await;
    let gap = block(&mut stream).await;
    assert_eq!((gap.event(), gap.id()), (Some("gap"), None));
    assert_eq!(
        gap.json(),
        json!({"reason": "trimmed", "topics": ["a"], "requested": first, "resumed": lost})
    );
    assert_eq!(text(&mut stream).await, "3");
    assert_eq!(text(&mut stream).await, "4");
    assert_eq!(
        block(&mut stream).await.id(),
        Some(feed.head().to_string().as_str())
    );
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn after_a_restart_an_old_cursor_is_foreign_and_not_silent() {
    let old = Feed::new(Retention::default());
    let server = start_with(old.clone(), config()).await;
    let old_id = publish(&old, "a", "before").await;
    let addr = server.addr();
    server.stop().await;

    let server = TestServer::start_on(addr, |listener, shutdown| {
        sse::run(
            listener,
            Feed::new(Retention::default()),
            config(),
            shutdown,
        )
    })
    .await;
    server.post("/topics/a", "after").await;
    for id in [old_id.as_str(), "not a cursor", "e-01"] {
        let mut stream =
            EventReader::connect_with(addr, "/topics/a", &[("Last-Event-ID", id)]).await;
        assert_eq!(
            block(&mut stream).await.id(),
            None,
            "cut off here, it comes back with the old id"
        );
        let gap = block(&mut stream).await;
        assert_eq!(
            (gap.event(), &gap.json()["reason"], &gap.json()["requested"]),
            (Some("gap"), &json!("foreign"), &json!(id))
        );
        assert_eq!(text(&mut stream).await, "after");
    }
    server.stop().await;
}

#[tokio::test]
async fn messages_of_any_type_are_messages_and_named_events_are_the_servers() {
    let server = start(config()).await;
    let mut stream = server.events("/topics/a").await;
    live(&mut stream).await;
    for kind in ["gap", "error", "open", "heartbeat"] {
        server.post(&format!("/topics/a?type={kind}"), kind).await;
        assert_eq!(text(&mut stream).await, kind);
    }
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn silence_is_broken_by_a_position_that_skips_nothing() {
    let feed = Feed::new(Retention::default());
    let config = Config {
        heartbeat: Duration::from_millis(50),
        ..config()
    };
    let server = start_with(feed.clone(), config).await;
    let mut stream = server.events("/topics/a").await;
    let start = live(&mut stream).await;
    let head = publish(
        &feed,
        "b",
        "other traffic moves the position of a quiet stream",
    )
    .await;
    let beat = in_time(async {
        loop {
            let beat = block(&mut stream).await;
            assert_eq!((beat.data(), beat.event()), (None, None));
            if beat.id() != start.id() {
                break beat;
            }
        }
    })
    .await;
    assert_eq!(beat.id(), Some(head.as_str()));
    publish(&feed, "a", "news").await;
    in_time(async { while block(&mut stream).await.data().is_none() {} }).await;
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn a_page_may_ask_for_heartbeats_that_it_can_see() {
    let config = Config {
        heartbeat: Duration::from_millis(20),
        ..config()
    };
    let server = start(config).await;
    let mut stream = server.events("/topics/a?heartbeat=event").await;
    let id = block(&mut stream).await.id().unwrap().to_owned();
    let beat = block(&mut stream).await;
    assert_eq!(
        (beat.event(), beat.id(), beat.json()),
        (Some("heartbeat"), Some(id.as_str()), json!({"next": id}))
    );
    drop(stream);
    assert_eq!(server.get("/topics/a?heartbeat=loud").await.status, 400);
    server.stop().await;
}

/// Ideal for news feeds and stock quotes, where the client only listens: the page shows both.
#[tokio::test]
async fn the_page_is_there_and_so_is_health() {
    let server = start(config()).await;
    let page = server.get("/").await;
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert!(page.text().contains("new EventSource"));
    assert_eq!(server.get("/healthz").await.text(), "ok\n");
    server.stop().await;
}
