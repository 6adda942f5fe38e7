//! The program itself: its first line, its signals, its exit codes.
#![cfg(unix)]

use std::time::Duration;

use harness::{
    End, Frame, Metered, Process, WsWire,
    contract::{
        exits_at_a_second_signal, gap, outlives_its_log, writes_few_and_short_lines_about_gaps,
    },
};
use tokio::time::sleep;

const PROGRAM: &str = env!("CARGO_BIN_EXE_websockets");

const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

#[tokio::test]
async fn at_a_signal_an_open_session_is_closed_and_the_exit_code_is_0() {
    let server = Process::start(PROGRAM, &[]).await;
    let mut session = WsWire::connect(server.addr(), "/topics/a").await;
    assert!(session.next_json().await["subscribed"].is_object());
    assert!(session.next_json().await["heartbeat"].is_object());
    server.signal("TERM");
    assert_eq!(session.expect_close().await.0, 1012);
    session.close(1012, "").await;
    assert_eq!(session.wire().closed().await, (End::Eof, Vec::new()));
    drop(session);
    assert_eq!(server.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_second_signal_exits_at_once_with_1() {
    exits_at_a_second_signal(PROGRAM).await;
}

/// A virtual machine is paused, or a processor is starved. The answers come meanwhile.
#[tokio::test]
async fn answers_to_pings_that_came_while_the_process_was_stopped_count() {
    // From the first session to the signal, a busy machine has half of this.
    const PING: Duration = Duration::from_secs(4);
    let server = Process::start(PROGRAM, &["--ping", "4"]).await;
    let mut sessions = Vec::new();
    for _ in 0..20 {
        sessions.push(WsWire::connect(server.addr(), "/topics").await);
    }
    for session in &mut sessions {
        assert_eq!(session.next_frame().await.unwrap().opcode, 9);
    }
    server.signal("STOP");
    for session in &mut sessions {
        session.send_frame(Frame::pong("")).await;
    }
    sleep(PING / 2).await; // Meanwhile every deadline passes.
    server.signal("CONT");
    for session in &mut sessions {
        session.send_text(r#"{"ping":{}}"#).await;
        while session.next_frame().await.unwrap() != pong() {}
    }
}

/// The answer to a `ping` command.
fn pong() -> Frame {
    Frame {
        masked: false,
        ..Frame::text(r#"{"pong":{}}"#)
    }
}

#[tokio::test]
async fn a_log_that_nobody_reads_costs_lines_and_nothing_else() {
    outlives_its_log(PROGRAM, &[], &gap("a", UPGRADE)).await;
}

#[tokio::test]
async fn a_flood_of_gaps_writes_few_and_short_lines() {
    writes_few_and_short_lines_about_gaps(PROGRAM, UPGRADE).await;
}

#[tokio::test]
async fn a_scrape_tells_the_open_sessions_and_how_the_others_were_closed() {
    let metered = Metered::start(PROGRAM, &["--max-subscribers", "2"]).await;
    let addr = metered.server.addr();
    let mut open = WsWire::connect(addr, "/topics/a").await;
    let mut binary = WsWire::connect(addr, "/topics/a").await;
    for session in [&mut open, &mut binary] {
        assert!(session.next_json().await["subscribed"].is_object());
        assert!(session.next_json().await["heartbeat"].is_object());
    }
    let mut refused = WsWire::connect(addr, "/topics/a").await;
    assert_eq!(refused.expect_close().await.0, 1013);
    open.send_text(r#"{"publish":{"topic":"a","data":1,"ref":1}}"#)
        .await;
    for session in [&mut open, &mut binary] {
        while !session.next_json().await["message"].is_object() {}
    }
    binary.send_frame(Frame::binary("no text")).await;
    assert_eq!(binary.expect_close().await.0, 1003);
    drop(binary);
    metered.until("feed_subscribers 1").await;
    metered.until("feed_waiters 1").await;
    assert_eq!(
        metered.samples().await,
        [
            r#"feed_answers_total{status="101"} 3"#,
            r#"feed_closes_total{code="1003"} 1"#,
            r#"feed_closes_total{code="1013"} 1"#,
            "feed_deliveries_total 2",
            "feed_head 1",
            "feed_healthy 1",
            "feed_messages 1",
            "feed_refused_total 1",
            "feed_subscribers 1",
            "feed_topics 1",
            "feed_waiters 1",
        ]
    );
}
