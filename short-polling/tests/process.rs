//! The program itself: its first line, its signals, its exit codes.
#![cfg(unix)]

use harness::{
    End, Metered, Process, Wire,
    contract::{
        exits_at_a_second_signal, gap, outlives_its_log, writes_few_and_short_lines_about_gaps,
    },
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_short-polling");

#[tokio::test]
async fn at_a_signal_a_client_between_two_polls_is_let_go_and_the_exit_code_is_0() {
    let server = Process::start(PROGRAM, &[]).await;
    let mut wire = Wire::connect(server.addr()).await;
    wire.send("GET /topics/a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(wire.read_response().await.status, 200);
    server.signal("TERM");
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
async fn a_scrape_tells_the_answers_with_and_without_news_and_the_gaps() {
    let metered = Metered::start(PROGRAM, &[]).await;
    let client = metered.server.client();
    for text in ["one", "two"] {
        assert_eq!(client.post("/topics/a", text).send().await.status, 201);
    }
    let page = client.get("/topics/a").send().await;
    let etag = page.header("etag").expect("a page has one");
    for _ in 0..3 {
        let again = client.get("/topics/a").header("If-None-Match", etag);
        assert_eq!(again.send().await.status, 304);
    }
    let foreign = client.get("/topics/a?after=old-1").send().await;
    assert_eq!(foreign.status, 200);
    assert_eq!(
        metered.samples().await,
        [
            r#"feed_answers_total{status="200"} 2"#,
            r#"feed_answers_total{status="201"} 2"#,
            r#"feed_answers_total{status="304"} 3"#,
            "feed_deliveries_total 4",
            r#"feed_gaps_total{reason="foreign"} 1"#,
            "feed_head 2",
            "feed_healthy 1",
            "feed_messages 2",
            "feed_topics 1",
        ]
    );
}
