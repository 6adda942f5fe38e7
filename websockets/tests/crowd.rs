//! Ten thousand sessions at once, with the program as it is shipped.
//!
//! Ignored by default: they need 10,300 descriptors, `/proc`, and almost two minutes.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    time::{Duration, Instant},
};

use common::fit_descriptors;
use harness::{Client, End, Process, WsWire, handshake};
use socket2::{Domain, Socket, Type};
use tokio::{
    sync::{Mutex, MutexGuard},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_websockets");
const CROWD: usize = 10_000;
/// Descriptors for everything else.
const OTHERS: usize = 200;
/// Messages a second, of 1 KiB each.
const RATE: u32 = 1_000;

/// One crowd at a time: there are not enough descriptors for two.
static STAGE: Mutex<()> = Mutex::const_new(());

async fn enter() -> MutexGuard<'static, ()> {
    let fitting = fit_descriptors(CROWD + OTHERS);
    assert_eq!(fitting, CROWD + OTHERS, "too few descriptors");
    STAGE.lock().await
}

#[tokio::test]
#[ignore = "needs 10,300 descriptors"]
async fn ten_thousand_sessions_drain_in_time_each_told_to_come_again() {
    let _stage = enter().await;
    // No pings: on a busy machine the sessions take longer to open than the first ping.
    let server = Process::start(PROGRAM, &["--drain", "10", "--ping", "600"]).await;
    let mut sessions = Vec::with_capacity(CROWD);
    for _ in 0..CROWD {
        let mut session = WsWire::connect(server.addr(), "/topics/a").await;
        assert!(session.next_json().await["subscribed"].is_object());
        assert!(session.next_json().await["heartbeat"].is_object());
        sessions.push(session);
    }
    let signalled = Instant::now();
    server.signal("TERM");
    let mut leaving = JoinSet::new();
    for mut session in sessions {
        leaving.spawn(async move {
            assert_eq!(session.expect_close().await.0, 1012);
            session.close(1012, "").await;
            assert_eq!(session.wire().closed().await, (End::Eof, Vec::new()));
        });
    }
    while let Some(left) = leaving.join_next().await {
        left.unwrap();
    }
    assert_eq!(server.exit_code().await, Some(0));
    let drained = signalled.elapsed();
    println!("{CROWD} sessions drained in {:.1} s", drained.as_secs_f64());
    assert!(drained < Duration::from_secs(10), "{drained:?}");
}

#[tokio::test]
#[ignore = "needs 10,300 descriptors and 100 s"]
async fn ten_thousand_stalled_readers_hold_a_page_each_and_hold_up_no_publish() {
    let _stage = enter().await;
    let server = Process::start(PROGRAM, &["--stall", "600", "--ping", "600"]).await;
    let alone = publish(&Client::keep_alive(server.addr()).await, 10).await;
    let _stalled: Vec<Socket> = (0..CROWD).map(|_| never_reads(server.addr())).collect();
    let client = Client::keep_alive(server.addr()).await;
    until_all_are_stalled(&server, &client).await;

    let before = server.resident();
    let crowded = publish(&client, 20).await;
    let after = server.resident();
    println!(
        "resident {} KiB, then {} KiB; a publish's p99 {alone:?} alone, {crowded:?} in the crowd",
        before / 1_024,
        after / 1_024
    );
    assert!(
        after <= before + before / 20,
        "{before} bytes, then {after}"
    );
    // A few milliseconds are noise. Waking ten thousand sessions would take many more.
    assert!(
        crowded <= 2 * alone.max(Duration::from_millis(5)),
        "{crowded:?}"
    );

    // They are all still there.
    let mut one_more = WsWire::connect(server.addr(), "/topics/a").await;
    assert_eq!(one_more.expect_close().await.0, 1013);
}

/// Publishes for this many seconds. Returns the 99th percentile of the time to an answer.
async fn publish(client: &Client, seconds: u32) -> Duration {
    let mut pace = interval(Duration::from_secs(1) / RATE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut times = Vec::new();
    for _ in 0..RATE * seconds {
        pace.tick().await;
        let sent = Instant::now();
        let answer = client.post("/topics/a", "x".repeat(1_024)).send().await;
        assert_eq!(answer.status, 201);
        times.push(sent.elapsed());
    }
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

/// A client that opens a session and never reads. Its segments are as short as on a real network: with the
/// 64 KiB of the loopback, the kernel would keep megabytes for each client.
fn never_reads(server: SocketAddr) -> Socket {
    let mut socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_tcp_mss(1_460).unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(&server.into()).unwrap();
    let request = handshake("localhost", "/topics/a", &[]);
    socket.write_all(request.as_bytes()).unwrap();
    socket
}

/// Publishes until the kernel's buffers for every client are full.
async fn until_all_are_stalled(server: &Process, client: &Client) {
    let mut kept = None;
    loop {
        publish(client, 1).await;
        let now = unsent(server.addr().port());
        if now.iter().filter(|bytes| **bytes > 0).count() >= CROWD && kept.as_ref() == Some(&now) {
            return;
        }
        kept = Some(now);
    }
}

/// For each connection of the server, the unsent bytes in the kernel.
fn unsent(port: u16) -> Vec<u64> {
    let local = format!(":{port:04X}");
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table
        .lines()
        .skip(1)
        .map(|row| row.split_whitespace().collect::<Vec<_>>());
    let ours = rows.filter(|row| row[1].ends_with(&local) && row[3] == "01");
    ours.map(|row| u64::from_str_radix(row[4].split(':').next().unwrap(), 16).unwrap())
        .collect()
}
