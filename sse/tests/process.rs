//! The program itself: its first line, its signals, its exit codes.
#![cfg(unix)]

use std::{
    env, fs, io,
    net::TcpListener,
    os::fd::OwnedFd,
    process::{self, Command},
};

use common::FeedSource;
use harness::{
    Ending, EventReader, PATIENCE, Process, Wire,
    contract::{
        exits_at_a_second_signal, gap, outlives_its_log, writes_few_and_short_lines_about_gaps,
    },
};

use tokio::{sync::watch, time::timeout};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sse");

#[tokio::test]
async fn at_a_signal_an_open_stream_is_ended_and_the_exit_code_is_0() {
    let server = Process::start(PROGRAM, &[]).await;
    let mut stream = EventReader::connect(server.addr(), "/topics/a").await;
    stream.next().await.expect("a stream begins with a block");
    server.signal("TERM");
    while stream.next().await.is_some() {}
    assert_eq!(stream.ending(), Some(Ending::Complete));
    assert_eq!(server.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_second_signal_exits_at_once_with_1() {
    exits_at_a_second_signal(PROGRAM).await;
}

/// Accepts both outcomes: when the whole workspace is built, another member may turn the feature on.
#[tokio::test]
async fn a_feed_in_a_file_is_opened_or_the_feature_that_is_missing_is_named() {
    let path = env::temp_dir().join(format!("sse-process-{}", process::id()));
    let feed = format!("file:{}", path.display());
    if feed.parse::<FeedSource>().is_ok() {
        let server = Process::start(PROGRAM, &["--feed", &feed]).await;
        assert_eq!(server.client().get("/healthz").send().await.status, 200);
        fs::remove_file(path).expect("the feed is in the file");
        return;
    }
    let refused = Command::new(PROGRAM).args(["--feed", &feed]).output();
    let refused = refused.expect("the program starts");
    let error = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{error}");
    assert!(error.contains("without the feature `file`"), "{error}");
}

#[tokio::test]
async fn a_log_that_nobody_reads_costs_lines_and_nothing_else() {
    outlives_its_log(PROGRAM, &[], &gap("a", "")).await;
}

#[tokio::test]
async fn a_flood_of_gaps_writes_few_and_short_lines() {
    writes_few_and_short_lines_about_gaps(PROGRAM, "").await;
}

/// Runs the program as systemd does with a socket unit: descriptor 3 is the listener, which this process keeps.
fn activated(listener: &TcpListener) -> io::Result<tokio::process::Child> {
    let script = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\"";
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", script, PROGRAM]).kill_on_drop(true);
    command.stdin(OwnedFd::from(listener.try_clone()?));
    command
        .stdout(process::Stdio::null())
        .stderr(process::Stdio::null());
    command.spawn()
}

/// Connects and asks, again and again. Returns how often, and how many connections ended without an answer.
async fn connects(addr: std::net::SocketAddr, count: usize, done: watch::Sender<usize>) -> usize {
    let mut closed = 0;
    for number in 1..=count {
        let mut wire = Wire::try_connect(addr)
            .await
            .expect("no connection is refused");
        let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let _ = wire.try_send(request).await; // What comes back counts.
        let (_, answer) = wire.closed().await;
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            answer.escape_ascii()
        );
        closed += usize::from(answer.is_empty());
        done.send_replace(number);
    }
    closed
}

#[tokio::test(flavor = "multi_thread")]
async fn with_socket_activation_a_restart_refuses_no_connection() {
    const RESTARTS: usize = 5;
    const EACH: usize = 200;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let (sender, mut done) = watch::channel(0);
    let client = tokio::spawn(connects(addr, RESTARTS * EACH, sender));
    for restart in 1..=RESTARTS {
        let mut server = activated(&listener).expect("it starts");
        let served = done.wait_for(|done| *done >= restart * EACH - EACH / 2);
        timeout(PATIENCE, served)
            .await
            .expect("it serves")
            .expect("the client lives");
        let pid = server.id().expect("it runs").to_string();
        if restart < RESTARTS {
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .expect("kill");
            let ended = timeout(PATIENCE, server.wait()).await.expect("it drains");
            assert_eq!(ended.expect("it ended").code(), Some(0));
        } else {
            let closed = timeout(PATIENCE, client)
                .await
                .expect("all connect")
                .expect("and none fails");
            assert!(
                closed <= RESTARTS,
                "{closed} connections were taken and not answered"
            );
            return;
        }
    }
}
