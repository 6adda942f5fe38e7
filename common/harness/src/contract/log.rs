//! What all five programs promise about their log, which is best effort, and about a second signal.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::Stdio,
    time::{Duration, Instant},
};

use crate::{Process, Wire};

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
const HALF: &str = "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nha";
/// The longest line that a stranger can cause, in bytes.
const MAX_LINE: usize = 200;
/// The most lines in a second from one place in the code.
const LINES: f64 = 40.0;
/// A free port, which the system chooses.
const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// `program` serves and stops at a signal, even if standard error or standard output is full or closed. `noise` is
/// a request that makes it log a line.
///
/// # Panics
/// If it stops serving, does not stop, or stops with an error.
pub async fn outlives_its_log(program: &str, args: &[&str], noise: &str) {
    let (unread, full) = full();
    let stuck = Process::start_logging(ANYWHERE, program, args, full).await;
    serves_and_stops(stuck, noise).await;
    drop(unread);

    let (reader, pipe) = io::pipe().expect("a pipe");
    drop(reader);
    let broken = Process::start_logging(ANYWHERE, program, args, pipe).await;
    serves_and_stops(broken, noise).await;

    let unheard = Process::start_unheard(program, args).await;
    serves_and_stops(unheard, noise).await;

    ends_with_an_error(program, args).await;
}

/// A second signal ends the drain at once. Half a request keeps the drain waiting until then.
///
/// # Panics
/// If the program does not exit with 1.
pub async fn exits_at_a_second_signal(program: &str) {
    let server = Process::start(program, &["--drain", "60"]).await;
    let _stuck = server.in_flight(HALF).await;
    server.signal("TERM");
    server.refuses().await;
    server.signal("INT");
    assert_eq!(server.exit_code().await, Some(1));
}

async fn serves_and_stops(server: Process, noise: &str) {
    for request in [noise, HEALTH, noise, HEALTH] {
        let mut wire = Wire::connect(server.addr()).await;
        wire.send(request).await;
        let answer = wire.read_head().await;
        assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    }
    server.signal("TERM");
    assert_eq!(server.exit_code().await, Some(0));
}

/// A program that cannot bind its address exits with 1, even if it cannot write its error.
async fn ends_with_an_error(program: &str, args: &[&str]) {
    let first = Process::start(program, args).await;
    let (unread, full) = full();
    let second = Process::start_in_vain(first.addr(), program, args, full);
    assert_eq!(second.exit_code().await, Some(1));
    drop(unread);
    // Its files stay locked until it has ended.
    first.signal("TERM");
    assert_eq!(first.exit_code().await, Some(0));
}

/// A standard error that is full, and its other end, which is never read.
fn full() -> (UnixStream, Stdio) {
    let (unread, mut full) = UnixStream::pair().expect("a pair of sockets");
    full.set_nonblocking(true).expect("a socket is open");
    while full.write(&[b'x'; 4_096]).is_ok() {}
    while full.write(b"x").is_ok() {}
    full.set_nonblocking(false).expect("a socket is open");
    (unread, OwnedFd::from(full).into())
}

/// A request with a cursor of another epoch. Its answer begins with a gap, and the server logs gaps. `fields` are
/// header fields that the technique needs.
pub fn gap(topics: &str, fields: &str) -> String {
    format!("GET /topics/{topics}?after=foreign-1 HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")
}

/// [`writes_few_and_short_lines`] with gaps of 64 topics with the longest names.
///
/// # Panics
/// If a line is long, there are many of them, or there is no count.
pub async fn writes_few_and_short_lines_about_gaps(program: &str, fields: &str) {
    let topics: Vec<String> = (100..164)
        .map(|n| format!("{}{n}", "t".repeat(60)))
        .collect();
    writes_few_and_short_lines(program, &[], &gap(&topics.join(","), fields)).await;
}

/// A flood of `noise`, a request that makes the program log a long line, causes only a few short lines. The omitted
/// lines are counted.
///
/// # Panics
/// If a line is long, there are many of them, or there is no count.
pub async fn writes_few_and_short_lines(program: &str, args: &[&str], noise: &str) {
    let path = std::env::temp_dir().join(format!("log-{}", std::process::id()));
    let file = File::create(&path).expect("there is a folder for temporary files");
    let server = Process::start_logging(ANYWHERE, program, args, file).await;
    let started = Instant::now();
    for _ in 0..200 {
        let mut wire = Wire::connect(server.addr()).await;
        wire.send(noise).await;
        wire.read_head().await;
    }
    // The count is logged when the second is over.
    let last = Instant::now();
    while last.elapsed() < Duration::from_secs(20) && !read(&path).contains("left_out=") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.signal("TERM");
    assert_eq!(server.exit_code().await, Some(0));
    let (log, seconds) = (read(&path), started.elapsed().as_secs_f64() + 1.0);
    fs::remove_file(path).expect("it is there");
    assert!(log.contains("left_out="), "{log}");
    assert!(most_of_a_place(&log) as f64 <= seconds * LINES, "{log}");
    assert!(log.lines().all(|line| line.len() < MAX_LINE), "{log}");
    assert!(!log.contains('\u{1b}'), "no colours in a file: {log}");
}

/// How many lines the busiest place in the code has written. The third word of a line is its module.
fn most_of_a_place(log: &str) -> usize {
    let mut places = HashMap::new();
    for place in log
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
    {
        *places.entry(place).or_insert(0) += 1;
    }
    places.into_values().max().unwrap_or_default()
}

fn read(path: &std::path::Path) -> String {
    fs::read_to_string(path).expect("a log is text")
}
