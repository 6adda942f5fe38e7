//! The program itself: its first line, its signals, its exit codes.
#![cfg(unix)]

use harness::{
    End, Process, Wire,
    contract::{outlives_its_log, writes_few_and_short_lines},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_short-polling");
const HALF: &str = "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nha";

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
    let server = Process::start(PROGRAM, &["--drain", "60"]).await;
    let _stuck = server.in_flight(HALF).await;
    server.signal("TERM");
    server.refuses().await;
    server.signal("INT");
    assert_eq!(server.exit_code().await, Some(1));
}

#[tokio::test]
async fn a_log_that_nobody_reads_costs_lines_and_nothing_else() {
    outlives_its_log(PROGRAM, &[], &gap("a")).await;
}

#[tokio::test]
async fn a_flood_of_gaps_writes_few_and_short_lines() {
    let topics: Vec<String> = (100..164)
        .map(|n| format!("{}{n}", "t".repeat(60)))
        .collect();
    writes_few_and_short_lines(PROGRAM, &[], &gap(&topics.join(","))).await;
}

/// Asks for what another epoch had: the answer begins with a gap, and a gap is logged.
fn gap(topics: &str) -> String {
    format!("GET /topics/{topics}?after=foreign-1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
}
