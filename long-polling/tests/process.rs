//! The program itself: its first line, its signals, its exit codes.
#![cfg(unix)]

use harness::{End, Process};

const PROGRAM: &str = env!("CARGO_BIN_EXE_long-polling");
const WAIT: &str = "GET /topics/a?wait=55 HTTP/1.1\r\nHost: localhost\r\n\r\n";
const HALF: &str = "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nha";

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
    let server = Process::start(PROGRAM, &["--drain", "60"]).await;
    let _stuck = server.in_flight(HALF).await;
    server.signal("TERM");
    server.refuses().await;
    server.signal("INT");
    assert_eq!(server.exit_code().await, Some(1));
}
