//! The program itself: its first line, its signals, its exit codes.
#![cfg(unix)]

use harness::{End, Process, WsWire};

const PROGRAM: &str = env!("CARGO_BIN_EXE_websockets");
const HALF: &str = "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nha";

#[tokio::test]
async fn at_a_signal_an_open_session_is_closed_and_the_exit_code_is_0() {
    let server = Process::start(PROGRAM, &[]).await;
    let mut session = WsWire::connect(server.addr(), "/topics/a").await;
    session.next_json().await;
    server.signal("TERM");
    assert_eq!(session.expect_close().await.0, 1012);
    session.close(1012, "").await;
    assert_eq!(session.wire().closed().await, (End::Eof, Vec::new()));
    drop(session);
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
