//! Ten thousand streams at once, with the program as it is shipped.
//!
//! Ignored by default: they need 10,300 descriptors, `/proc`, and a minute.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    time::{Duration, Instant},
};

use common::fit_descriptors;
use harness::{Client, Ending, EventReader, Process};
use socket2::{Domain, Socket, Type};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::{MissedTickBehavior, interval, timeout},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sse");
const CROWD: usize = 10_000;
/// Descriptors for everything else.
const OTHERS: usize = 200;
/// Messages a second, of 1 KiB each.
const RATE: u32 = 1_000;
/// How long a step may take that takes minutes.
const LONG_PATIENCE: Duration = Duration::from_secs(300);

/// One crowd at a time: there are not enough descriptors for two.
static STAGE: Mutex<()> = Mutex::const_new(());

async fn enter() -> MutexGuard<'static, ()> {
    let fitting = fit_descriptors(CROWD + OTHERS);
    assert_eq!(fitting, CROWD + OTHERS, "too few descriptors");
    STAGE.lock().await
}

#[tokio::test]
#[ignore = "needs 10,300 descriptors"]
async fn ten_thousand_streams_drain_in_time_each_with_a_whole_last_block() {
    let _stage = enter().await;
    let server = Process::start(PROGRAM, &["--drain", "10"]).await;
    let mut streams = Vec::with_capacity(CROWD);
    for _ in 0..CROWD {
        let mut stream = EventReader::connect(server.addr(), "/topics/a").await;
        let opening = stream.next().await.unwrap();
        assert_eq!(opening.comments, [" hello"]);
        assert_eq!(
            stream.next().await.unwrap().id(),
            opening.id(),
            "it is live"
        );
        streams.push(stream);
    }
    let signalled = Instant::now();
    server.signal("TERM");
    for stream in &mut streams {
        let last = stream.next().await.unwrap();
        assert_eq!(last.comments, [" the server is going away"]);
        assert!(
            last.retry()
                .is_some_and(|retry| (2_000..=3_000).contains(&retry))
        );
        assert!(stream.next().await.is_none());
        let ended = (stream.ending(), stream.unfinished());
        assert_eq!(ended, (Some(Ending::Complete), String::new()));
    }
    assert_eq!(server.exit_code().await, Some(0));
    let drained = signalled.elapsed();
    println!("{CROWD} streams drained in {:.1} s", drained.as_secs_f64());
    assert!(drained < Duration::from_secs(10), "{drained:?}");
}

#[tokio::test]
#[ignore = "needs 10,300 descriptors and 40 s"]
async fn ten_thousand_stalled_readers_hold_a_page_each_and_hold_up_no_publish() {
    let _stage = enter().await;
    let server = Process::start(PROGRAM, &["--stall", "600"]).await;
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
    // A few milliseconds are noise. Waking ten thousand streams would take many more.
    assert!(
        crowded <= 2 * alone.max(Duration::from_millis(5)),
        "{crowded:?}"
    );

    let mut one_more = EventReader::connect(server.addr(), "/topics/a").await;
    let refused = one_more.next().await.unwrap();
    assert_eq!(
        refused.comments,
        [" at the subscriber limit"],
        "they are all still there"
    );
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

/// A client that asks for a stream and never reads it. Its segments are as short as on a real network:
/// with the 64 KiB of the loopback, the kernel would keep megabytes for each client.
fn never_reads(server: SocketAddr) -> Socket {
    let mut socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_tcp_mss(1_460).unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(&server.into()).unwrap();
    let request = b"GET /topics/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    socket.write_all(request).unwrap();
    socket
}

/// Publishes until the kernel's buffers for every client are full.
async fn until_all_are_stalled(server: &Process, client: &Client) {
    let stalled = timeout(LONG_PATIENCE, publish_until_stalled(server, client));
    stalled.await.expect("every client's buffers fill up");
}

async fn publish_until_stalled(server: &Process, client: &Client) {
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

/// Bytes that wait in the kernel to be sent, for each connection of the server.
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
