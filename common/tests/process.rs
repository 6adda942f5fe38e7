//! The process around a server: how many connections wait in its backlog, and how it is stopped.
#![cfg(target_os = "linux")]

use std::{
    env, fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{listen, log_to_stderr, shutdown_signal};

const PATIENCE: Duration = Duration::from_secs(20);

/// A connection stays in the backlog when its client is gone, so that these need no descriptors.
#[tokio::test]
async fn four_thousand_clients_at_once_wait_in_the_backlog() {
    let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).await;
    let addr = listener.as_ref().unwrap().local_addr().unwrap();
    let system = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let backlog = system.trim().parse::<usize>().unwrap().min(4_096);
    let connect = |patience| TcpStream::connect_timeout(&addr, patience).map(drop);
    // Linux lets one more connection wait than the backlog says.
    for waiting in 0..=backlog {
        let connected = connect(PATIENCE);
        connected.unwrap_or_else(|error| panic!("after {waiting}: {error}"));
    }
    assert!(connect(Duration::from_millis(200)).is_err());
}

/// The program that the test below starts. Run as a test, it does nothing.
#[tokio::test]
async fn a_runtime_that_is_stuck() {
    if env::var_os("STUCK").is_none() {
        return;
    }
    log_to_stderr();
    let shutdown = shutdown_signal();
    let _listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).await;
    shutdown.await;
    println!("stuck");
    loop {
        thread::park(); // the only thread of the runtime
    }
}

#[test]
fn a_second_signal_ends_the_process_even_if_its_runtime_is_stuck() {
    let mut program = Command::new(env::current_exe().unwrap());
    program.args(["--exact", "a_runtime_that_is_stuck", "--nocapture"]);
    program
        .env("STUCK", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut program = program.spawn().unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    for (line, signal) in [("listening on ", "-TERM"), ("stuck", "-INT")] {
        let said = lines.find(|said| said.as_ref().unwrap().contains(line));
        assert!(said.is_some(), "{line}");
        let pid = program.id().to_string();
        Command::new("kill").args([signal, &pid]).status().unwrap();
    }
    let deadline = Instant::now() + PATIENCE;
    while program.try_wait().unwrap().is_none() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    let _ = program.kill(); // it may have ended
    assert_eq!(program.wait().unwrap().code(), Some(1));
}
