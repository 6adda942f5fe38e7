//! The program itself: its first line, its signals, its exit codes.
#![cfg(unix)]

#[cfg(target_os = "linux")]
mod activation;

use std::{
    env, fs,
    process::{self, Command},
};

use common::FeedSource;
use harness::{
    Ending, EventReader, Metered, Process,
    contract::{
        exits_at_a_second_signal, gap, outlives_its_log, writes_few_and_short_lines_about_gaps,
    },
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sse");

#[tokio::test]
async fn at_a_signal_an_open_stream_is_ended_and_the_exit_code_is_0() {
    let server = Process::start(PROGRAM, &[]).await;
    let mut stream = EventReader::connect(server.addr(), "/topics/a").await;
    stream.next().await.expect("a stream begins with a block");
    server.signal("TERM");
    while stream.next().await.is_some() {}
    assert_eq!(stream.ending(), Some(Ending::Complete));
    assert_eq!(server.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_second_signal_exits_at_once_with_1() {
    exits_at_a_second_signal(PROGRAM).await;
}

/// Accepts both outcomes: when the whole workspace is built, another member may turn the feature on.
#[tokio::test]
async fn a_feed_in_a_file_is_opened_or_the_feature_that_is_missing_is_named() {
    let path = env::temp_dir().join(format!("sse-process-{}", process::id()));
    let feed = format!("file:{}", path.display());
    if feed.parse::<FeedSource>().is_ok() {
        let server = Process::start(PROGRAM, &["--feed", &feed]).await;
        assert_eq!(server.client().get("/healthz").send().await.status, 200);
        fs::remove_file(path).expect("the feed is in the file");
        return;
    }
    let refused = Command::new(PROGRAM).args(["--feed", &feed]).output();
    let refused = refused.expect("the program starts");
    let error = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{error}");
    assert!(error.contains("without the feature `file`"), "{error}");
}

#[tokio::test]
async fn a_log_that_nobody_reads_costs_lines_and_nothing_else() {
    outlives_its_log(PROGRAM, &[], &gap("a", "")).await;
}

#[tokio::test]
async fn a_flood_of_gaps_writes_few_and_short_lines() {
    writes_few_and_short_lines_about_gaps(PROGRAM, "").await;
}

#[tokio::test]
async fn a_scrape_tells_what_was_served_and_what_is_open_and_no_topic() {
    let metered = Metered::start(PROGRAM, &["--max-subscribers", "2"]).await;
    let client = metered.server.client();
    assert_eq!(client.post("/topics/a", "one").send().await.status, 201);
    assert_eq!(client.post("/topics/a..b", "").send().await.status, 400);
    let mut streams = Vec::new();
    for _ in 0..2 {
        let path = "/topics/a?after=earliest";
        let mut stream = EventReader::connect(metered.server.addr(), path).await;
        while stream.next().await.expect("it is open").fields.is_empty() {}
        streams.push(stream);
    }
    assert_eq!(client.get("/topics/a").send().await.status, 200); // refused, and told to come back
    let foreign = client.get("/topics/a?lastEventId=old-1").send().await;
    assert_eq!(foreign.status, 200);
    metered.until("feed_waiters 1").await; // the two streams are a group
    assert_eq!(client.post("/topics/a", "two").send().await.status, 201);
    metered.until("feed_deliveries_total 4").await;
    metered.until("feed_waiters 1").await;
    assert_eq!(
        metered.samples().await,
        [
            r#"feed_answers_total{status="200"} 4"#,
            r#"feed_answers_total{status="201"} 2"#,
            r#"feed_answers_total{status="400"} 1"#,
            "feed_deliveries_total 4",
            "feed_head 2",
            "feed_healthy 1",
            "feed_messages 2",
            "feed_refused_total 2",
            "feed_subscribers 2",
            "feed_topics 1",
            "feed_waiters 1",
        ]
    );
}
