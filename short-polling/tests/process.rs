//! The program itself: its first line, its signals, its exit codes.
#![cfg(unix)]

use harness::{
    End, Process, Wire,
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
