//! The program itself: its first line, its signals, its exit codes.
#![cfg(unix)]

use harness::{
    End, Metered, Process,
    contract::{
        exits_at_a_second_signal, gap, outlives_its_log, writes_few_and_short_lines_about_gaps,
    },
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_long-polling");
const WAIT: &str = "GET /topics/a?wait=55 HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn at_a_signal_a_waiting_poll_is_answered_and_the_exit_code_is_0() {
    let server = Process::start(PROGRAM, &[]).await;
    let mut wire = server.in_flight(WAIT).await;
    server.signal("TERM");
    let answer = wire.read_response().await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close"))
    );
    assert_eq!(wire.closed().await, (End::Eof, Vec::new()));
    assert_eq!(server.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_second_signal_exits_at_once_with_1() {
    exits_at_a_second_signal(PROGRAM).await;
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
async fn a_scrape_tells_how_the_waits_ended_and_which_polls_were_refused() {
    let metered = Metered::start(PROGRAM, &["--max-subscribers", "1"]).await;
    let client = metered.server.client();
    let timeout = client.get("/topics/a?wait=1").send().await;
    assert_eq!(timeout.status, 200);
    let mut waits = metered.server.in_flight(WAIT).await;
    metered.until("feed_waiters 1").await;
    let refused = client.get("/topics/a?wait=1").send().await;
    assert_eq!(refused.status, 503);
    assert_eq!(client.post("/topics/a", "news").send().await.status, 201);
    assert_eq!(waits.read_response().await.status, 200);
    assert_eq!(
        metered.samples().await,
        [
            r#"feed_answers_total{status="200"} 3"#,
            r#"feed_answers_total{status="201"} 1"#,
            r#"feed_answers_total{status="503"} 1"#,
            "feed_deliveries_total 1",
            "feed_head 1",
            "feed_healthy 1",
            "feed_messages 1",
            "feed_refused_total 1",
            "feed_topics 1",
            r#"feed_waits_total{outcome="news"} 1"#,
            r#"feed_waits_total{outcome="timeout"} 1"#,
        ]
    );
}
