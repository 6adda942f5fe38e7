//! Each knob at its boundary.
#![allow(clippy::unwrap_used, reason = "a test")]

mod setup;

use std::time::{Duration, Instant};

use clap::Parser;
use common::{Feed, Retention};
use harness::{
    End, Frame, PATIENCE, Process, TestServer, Wire, WsWire,
    contract::{MAX_MESSAGE, keeps_its_reserve},
    handshake,
};
use serde_json::json;
use setup::{
    ask, config, feed, fill, frame, is_alive, live, publish, short_stall, small, start, start_with,
    subscribe,
};
#[cfg(target_os = "linux")]
use tokio::time::sleep;
use websockets::Config;

#[tokio::test]
async fn one_more_than_the_subscribers_is_closed_with_1013_as_soon_as_it_is_open() {
    let config = Config {
        max_subscribers: 2,
        ..config()
    };
    let server = start(config).await;
    let first = server.websocket("/topics/a").await;
    let mut second = server.websocket("/topics").await;
    let mut third = server.websocket("/topics/a").await;
    // Its command has no effect.
    let publish = json!({"publish": {"topic": "a", "data": 1, "ref": 1}});
    third.send_text(&publish.to_string()).await;
    let refused = (1013, "at the subscriber limit".into());
    assert_eq!(third.expect_close().await, refused);
    // The others are served while the server waits for its answer, and not only after it gave up.
    tokio::select! {
        () = health_and_publishing(&server) => {}
        end = third.wire().closed() => panic!("{end:?} before the others were served"),
    }
    assert!(is_alive(&mut second).await);
    third.close(1013, "").await;
    assert_eq!(third.wire().closed().await, (End::Eof, Vec::new()));
    drop(first);
    until_there_is_a_slot(&server).await;
    drop((second, third));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn refused_clients_that_stay_do_not_use_up_the_last_connection() {
    let mut config = Config {
        max_subscribers: 1,
        ..config()
    };
    config.server.max_connections = Some(2);
    let server = start(config).await;
    let mut session = server.websocket("/topics").await;
    let refused = handshake("localhost", "/topics/a", &[]);
    keeps_its_reserve(&server, Some(&refused)).await;
    assert!(is_alive(&mut session).await, "a session is not idle");
    drop(session);
    server.stop().await;
}

/// A handshake may have a chunked body. hyper asks for it with a 100 when the server waits for it.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_end_its_handshake_makes_room_for_others() {
    let mut config = config();
    config.server.max_connections = Some(1);
    let server = start(config).await;
    let mut half = server.wire().await;
    let chunked = [("Transfer-Encoding", "chunked"), ("Expect", "100-continue")];
    half.send(handshake("localhost", "/topics", &chunked)).await;
    half.read_until("HTTP/1.1 100 Continue\r\n").await;
    let begun = tokio::time::Instant::now();
    health_and_publishing(&server).await;
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(half.closed().await.0, End::Eof);
    server.stop().await;
}

async fn health_and_publishing(server: &TestServer) {
    assert_eq!(server.get("/healthz").await.status, 200);
    let published = server.post("/topics/a", "x").await.json();
    assert!(published["id"].as_str().unwrap().ends_with("-1"));
}

/// A slot is free again as soon as the server knows that its client has left.
async fn until_there_is_a_slot(server: &TestServer) {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let mut session = server.websocket("/topics").await;
        session.send_text(&json!({"ping": {}}).to_string()).await;
        let answer = session.next_frame().await.expect("a frame is due");
        if answer.opcode == 1 {
            return;
        }
    }
    panic!("no slot became free");
}

#[tokio::test]
async fn a_newcomer_beyond_the_connections_waits_until_one_leaves() {
    let mut config = config();
    config.server.max_connections = Some(1);
    let server = start(config).await;
    let mut first = server.websocket("/topics").await;
    let mut second = server.wire().await;
    second.send(handshake("localhost", "/topics", &[])).await;
    let served = async {
        for _ in 0..20 {
            assert!(is_alive(&mut first).await);
        }
    };
    tokio::select! {
        head = second.read_head() => panic!("served beyond the limit: {head}"),
        () = served => {}
    }
    drop(first);
    let mut second = WsWire::on_wire(second).await;
    assert!(is_alive(&mut second).await);
    drop(second);
    server.stop().await;
}

#[tokio::test]
async fn a_message_of_the_limit_is_taken_and_one_byte_more_is_1009() {
    let server = start(small()).await;
    let mut session = server.websocket("/topics/a").await;
    live(&mut session).await;
    let frame = json!({"publish": {"topic": "a", "data": "", "ref": 1}}).to_string();
    let filling = "x".repeat(MAX_MESSAGE - frame.len());
    let command = json!({"publish": {"topic": "a", "data": filling, "ref": 1}});
    session.send_text(&command.to_string()).await;
    let frames = [session.next_json().await, session.next_json().await];
    assert!(frames.iter().any(|frame| frame["ack"].is_object()));
    assert!(
        frames
            .iter()
            .any(|frame| frame["message"]["data"] == filling.as_str())
    );
    session.send_text(&format!("{command} ")).await;
    assert_eq!(session.expect_close().await.0, 1009);
    drop(session);
    server.stop().await;
}

#[tokio::test]
async fn a_session_has_sixteen_subscriptions() {
    let server = start(config()).await;
    let mut session = server.websocket("/topics/first").await;
    live(&mut session).await;
    let subscription = |n: usize| json!({"subscribe": {"topics": [format!("t{n}")], "ref": n}});
    for n in 1..16 {
        assert_eq!(
            subscribe(&mut session, subscription(n)).await["subscribed"]["ref"],
            n
        );
    }
    let refused = ask(&mut session, subscription(16)).await;
    assert_eq!(refused["error"]["status"], 429);
    let leave = json!({"unsubscribe": {"topics": ["first"], "ref": "l"}});
    assert_eq!(ask(&mut session, leave).await["subscribed"]["ref"], "l");
    assert_eq!(
        subscribe(&mut session, subscription(16)).await["subscribed"]["ref"],
        16
    );
    drop(session);
    server.stop().await;
}

#[tokio::test]
async fn a_session_has_64_topics_however_they_are_spread() {
    let server = start(config()).await;
    let topics = |of: &str, count| -> Vec<_> { (0..count).map(|n| format!("{of}{n}")).collect() };
    let path = format!("/topics/{}", topics("path", 40).join(","));
    let mut session = server.websocket(&path).await;
    live(&mut session).await;
    let subscription = |topics| json!({"subscribe": {"topics": topics, "ref": 1}});
    let refused = ask(&mut session, subscription(topics("more", 25))).await;
    assert_eq!(refused["error"]["status"], 429);
    assert_eq!(
        refused["error"]["detail"],
        "a session has at most 64 topics"
    );
    let taken = subscribe(&mut session, subscription(topics("more", 24))).await;
    assert_eq!(taken["subscribed"]["ref"], 1);
    let leave = json!({"unsubscribe": {"topics": ["path0"], "ref": 2}});
    assert_eq!(ask(&mut session, leave).await["subscribed"]["ref"], 2);
    let taken = subscribe(&mut session, subscription(topics("last", 1))).await;
    assert_eq!(taken["subscribed"]["ref"], 1);
    drop(session);
    server.stop().await;
}

#[tokio::test]
async fn a_silent_client_is_pinged_and_given_up_when_it_does_not_answer() {
    let config = Config {
        // Half of it is enough to answer on a busy machine. tests/session.rs has the exact times.
        ping: Duration::from_millis(500),
        ..config()
    };
    let server = start(config).await;
    tokio::join!(answers_four_pings(&server), is_silent(&server));
    server.stop().await;
}

async fn answers_four_pings(server: &TestServer) {
    let mut answers = server.websocket("/topics").await;
    for _ in 0..4 {
        let ping = answers.next_frame().await.unwrap();
        assert_eq!((ping.opcode, ping.payload.len()), (9, 4));
        answers.send_frame(Frame::pong(ping.payload)).await;
    }
}

async fn is_silent(server: &TestServer) {
    let mut silent = server.websocket("/topics").await;
    assert_eq!(silent.next_frame().await.unwrap().opcode, 9);
    assert_eq!(
        silent.expect_close().await,
        (1008, "no answer to a ping".into())
    );
    silent.close(1008, "").await;
    assert_eq!(silent.wire().closed().await, (End::Eof, Vec::new()));
}

/// The kernel would take some megabytes, and every heartbeat behind them.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_client_that_reads_again_finds_no_stale_heartbeats() {
    const MESSAGES: usize = 15;
    let feed = feed();
    let server = start_with(feed.clone(), config()).await;
    let mut wire = Wire::connect_narrow(server.addr(), 4096).await;
    let path = "/topics/a?heartbeat=1";
    wire.send(handshake("localhost", path, &[])).await;
    let mut session = WsWire::on_wire(wire).await;
    let text = "x".repeat(60_000);
    for _ in 0..MESSAGES {
        publish(&feed, "a", &text).await;
    }
    sleep(Duration::from_secs(4)).await;
    let mut messages = 0;
    while messages < MESSAGES {
        let frame = frame(&mut session).await;
        messages += usize::from(frame["message"].is_object());
    }
    let since = Instant::now();
    for _ in 0..3 {
        assert!(frame(&mut session).await["heartbeat"].is_object());
    }
    // One may have been due just now. The third is two seconds later.
    assert!(
        since.elapsed() > Duration::from_millis(1_500),
        "they are stale"
    );
    drop(session);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_takes_no_byte_is_cut_after_the_stall() {
    let config = Config {
        max_subscribers: 1,
        ..short_stall()
    };
    let feed = feed();
    let server = start_with(feed.clone(), config).await;
    let mut stalled = fill(&feed, &server, &[]).await;
    until_there_is_a_slot(&server).await;
    // The connection is reset, so the kernel keeps nothing for a client that does not read.
    assert_eq!(stalled.wire().closed().await.0, End::Reset);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_reads_slowly_is_told_of_the_gap_and_goes_on() {
    let feed = Feed::new(Retention {
        messages: 3,
        ..Retention::default()
    });
    let server = start_with(feed.clone(), config()).await;
    let mut slow = fill(&feed, &server, &[]).await;
    slow.next_json().await;
    let (mut ids, mut gaps) = (Vec::new(), Vec::new());
    while ids.last() != Some(&feed.head()) {
        let frame = slow.next_json().await;
        if frame["gap"].is_object() {
            gaps.push((ids.len(), frame["gap"]["reason"].clone()));
        } else if let Some(id) = frame["message"]["id"].as_str() {
            ids.push(id.parse().unwrap());
        }
    }
    let [(before, reason)] = gaps.as_slice() else {
        panic!("one gap was due, not {gaps:?}");
    };
    assert_eq!(reason, "trimmed");
    assert!(*before < 197, "its socket took all {before}");
    assert_eq!(ids.len(), before + 3);
    drop(slow);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_only_sends_is_cut_after_the_stall_and_others_are_served() {
    let server = start(short_stall()).await;
    let mut wire = Wire::connect_narrow(server.addr(), 4096).await;
    wire.send(handshake("localhost", "/topics", &[])).await;
    wire.read_head().await;
    let pings = Frame::text(r#"{"ping":{}}"#).encode().repeat(10_000);
    // tests/session.rs counts how much is read before that.
    let sends = async {
        let mut taken = 0;
        while wire.try_send(&pings).await.is_ok() {
            taken += 1;
            assert!(taken < 1000, "the server has no end");
        }
    };
    let ((), others) = tokio::join!(sends, server.post("/topics/a", "others are served"));
    assert_eq!(others.status, 201);
    server.stop().await;
}

#[test]
fn a_time_that_means_nothing_at_0_is_not_0() {
    for knob in ["--ping", "--stall", "--read-timeout"] {
        let parse = |value| Config::try_parse_from(["websockets", knob, value]);
        assert!(parse("0").is_err(), "{knob}");
        assert!(parse("0.1").is_ok(), "{knob}");
    }
}

#[tokio::test]
async fn a_message_of_1024_frames_is_taken_and_one_of_more_is_closed_with_1009() {
    let server = start(config()).await;
    let mut session = server.websocket("/topics").await;
    let text = format!("{:1024}", r#"{"ping":{}}"#).into_bytes();
    let last = text.len() - 1;
    let piece = |index: usize, byte: &u8, fin: bool| Frame {
        fin,
        ..Frame::client(if index == 0 { 1 } else { 0 }, [*byte])
    };
    for (index, byte) in text.iter().enumerate() {
        session.send_frame(piece(index, byte, index == last)).await;
    }
    assert_eq!(frame(&mut session).await, json!({"pong": {}}));
    for (index, byte) in text.iter().enumerate() {
        session.send_frame(piece(index, byte, false)).await;
    }
    let reason = "a message has too many fragments".to_owned();
    assert_eq!(session.expect_close().await, (1009, reason));
    drop(session);
    server.stop().await;
}

/// A session keeps a message until its last fragment, and the received part of a frame.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_hostile_peers_make_a_session_hold_is_bounded() {
    const PEERS: usize = 50;
    let server = Process::start(env!("CARGO_BIN_EXE_websockets"), &[]).await;
    let before = server.resident();
    let mut peers = Vec::new();
    let (fragment, rest) = (vec![b'x'; 65_000], vec![b'x'; 535]);
    for _ in 0..PEERS {
        let mut peer = WsWire::connect(server.addr(), "/topics").await;
        let begun = Frame {
            fin: false,
            ..Frame::client(1, fragment.clone())
        };
        peer.send_frame(begun).await;
        let mut last = Frame::client(0, [&rest[..], b"x"].concat()).encode();
        last.pop();
        peer.send_raw(&last).await;
        peers.push(peer);
    }
    let others = server.client();
    let (mut held, mut answers) = (0, 0);
    // Waits until the memory has not grown for 20 answers to other clients.
    while answers < 20 {
        assert_eq!(others.get("/healthz").send().await.status, 200);
        let now = server.resident().saturating_sub(before) / PEERS as u64;
        answers = if now > held { 0 } else { answers + 1 };
        held = held.max(now);
    }
    println!("{} KiB a peer", held / 1_024);
    assert!((64..=192).contains(&(held / 1_024)), "{held} bytes a peer");
    for peer in &mut peers {
        peer.send_raw(b"x").await; // As long as a message may be, but no command.
        assert_eq!(frame(peer).await["error"]["status"], 400);
    }
}
