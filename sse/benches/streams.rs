//! What streams cost: `cargo bench -p sse`. Linux only, since it reads the servers' `/proc`.
//!
//! The server is another process. It runs in turn with the least that any server could do: one loop of
//! `write(2)` over as many sockets, with the same bytes. Their ratio tells what is left to improve, on
//! any machine.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use common::{Data, Draft, Feed, Retention, fit_descriptors};
use harness::{Client, Process};
use sse::{Config, parse::Parser, run};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream as Stream,
    sync::mpsc,
    task::JoinSet,
    time::{Instant, interval, sleep},
};

const RUNS: usize = 7;
const MANY: usize = 10_000;
const FEW: usize = 100;
/// Deliveries of one run: many, because `/proc` counts processor time in hundredths of a second.
const DELIVERIES: usize = 100_000;
/// Bytes of a text. Its block is a few hundred bytes long.
const TEXT: usize = 128;
/// One block of the bare loop, as long as one of ours.
const BLOCK: usize = 258;

fn main() {
    if std::env::args().any(|argument| argument == "bare") {
        return bare();
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(measure());
}

async fn measure() {
    let many = fit_descriptors(MANY);
    println!("{:<58} {:>9} {:>17}", "", "median", "min – max");
    let mut memory = Vec::new();
    let mut growths = Vec::new();
    for streams in [FEW, many] {
        let (mut ours, mut least, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let server = ours_with(streams).await;
            let before = server.resident();
            let (cost, after) = cost(&server, streams).await;
            let (bare, _) = self::cost(&bare_server().await, streams).await;
            memory.push((after.saturating_sub(before) / streams as u64) as f64);
            ours.push(cost);
            least.push(bare);
            ratios.push(cost / bare);
        }
        growths.push((median(&ours), median(&least)));
        report(
            &format!("{streams} streams, a delivery (µs of the server)"),
            &ours,
        );
        report(&format!("{streams} streams, a bare write(2) (µs)"), &least);
        report("  ratio, pair by pair", &ratios);
    }
    let growth = |of: fn(&(f64, f64)) -> f64| of(&growths[1]) / of(&growths[0]);
    report(
        "growth of a delivery, of a bare write",
        &[growth(|costs| costs.0), growth(|costs| costs.1)],
    );
    report(
        "an open stream after the wake-ups, resident (bytes)",
        &memory[RUNS..],
    );
    report(
        "Feed::publish until the client has it, one stream (µs)",
        &latencies().await,
    );
}

fn report(name: &str, figures: &[f64]) {
    let (least, most) = figures
        .iter()
        .fold((f64::MAX, 0_f64), |(least, most), figure| {
            (least.min(*figure), most.max(*figure))
        });
    println!(
        "{name:<58} {:>9.2} {:>17}",
        median(figures),
        format!("{least:.2} – {most:.2}")
    );
}

fn median(figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

async fn ours_with(streams: usize) -> Process {
    let places = (streams + FEW).to_string();
    Process::start(env!("CARGO_BIN_EXE_sse"), &["--max-subscribers", &places]).await
}

async fn bare_server() -> Process {
    let this = std::env::current_exe().expect("this program has a path");
    Process::start(this.to_str().expect("the path is UTF-8"), &["bare"]).await
}

/// Opens the streams, publishes at a pace, and waits until each stream has everything. Returns the
/// processor time of a delivery in µs, and the resident bytes at the end.
async fn cost(server: &Process, streams: usize) -> (f64, u64) {
    let messages = DELIVERIES / streams;
    let (mut readers, (opened, mut open)) = (JoinSet::new(), mpsc::channel(streams));
    for _ in 0..streams {
        let stream = subscribe(server.addr()).await;
        readers.spawn(read(stream, messages, opened.clone()));
    }
    for _ in 0..streams {
        open.recv().await.expect("a stream opens");
    }
    let client = Client::keep_alive(server.addr()).await;
    let used = server.cpu_time();
    // Slow enough that the server is idle half of the time and no backlog grows.
    let mut pace =
        interval(Duration::from_micros(20 * streams as u64).max(Duration::from_millis(5)));
    for _ in 0..messages {
        pace.tick().await;
        assert_eq!(
            client
                .post("/topics/a", "x".repeat(TEXT))
                .send()
                .await
                .status,
            201
        );
    }
    while let Some(read) = readers.join_next().await {
        read.expect("every stream gets every message");
    }
    let used = server.cpu_time() - used;
    (
        used.as_secs_f64() * 1e6 / (messages * streams) as f64,
        server.resident(),
    )
}

async fn subscribe(server: SocketAddr) -> Stream {
    let mut stream = Stream::connect(server).await.expect("the server accepts");
    let request = b"GET /topics/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).await.expect("the server reads");
    stream
}

/// Reads a stream until it has had this many messages.
async fn read(mut stream: Stream, messages: usize, opened: mpsc::Sender<()>) {
    let (mut parser, mut buffer, mut had) = (Parser::default(), [0; 4_096], 0);
    let mut opened = Some(opened);
    while had < messages {
        let length = stream.read(&mut buffer).await.expect("the stream goes on");
        assert!(length > 0, "the stream ended after {had} messages");
        // The response's head goes through the parser, too: it has no `data` field, so it makes no event.
        had += parser.feed(&buffer[..length]).len();
        if let Some(opened) = opened.take() {
            opened.send(()).await.expect("someone counts");
        }
    }
}

/// Times from `Feed::publish` until the client's `recv` has the message, in one process.
async fn latencies() -> Vec<f64> {
    let feed = Feed::new(Retention::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let server = tokio::spawn(run(
        listener,
        feed.clone(),
        Config::default(),
        std::future::pending(),
    ));
    let mut stream = subscribe(address).await;
    let mut buffer = [0; 4_096];
    while feed.waiters() == 0 {
        sleep(Duration::from_millis(1)).await; // The stream is open and waits.
    }
    let begun = stream.read(&mut buffer).await.expect("the stream begins");
    assert!(begun > 0);
    let mut latencies = Vec::new();
    for _ in 0..1_000 {
        let draft = Draft::new(Data::text(&"x".repeat(TEXT)));
        let published = Instant::now();
        feed.publish("a".parse().expect("a topic"), draft)
            .await
            .expect("one topic fits");
        let read = stream.read(&mut buffer).await.expect("the stream goes on");
        assert!(read > 0, "the stream goes on");
        latencies.push(published.elapsed().as_secs_f64() * 1e6);
    }
    server.abort();
    latencies
}

/// The least that a server could do: it takes streams, and at each POST writes a block to all.
fn bare() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    println!(
        "listening on http://{}",
        listener.local_addr().expect("it is bound")
    );
    fit_descriptors(MANY);
    let mut streams = Vec::new();
    for connection in listener.incoming() {
        let mut connection = connection.expect("a client connects");
        connection.set_nodelay(true).expect("it is open");
        if head(&mut connection).is_some_and(|head| head.starts_with("GET")) {
            let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
            connection.write_all(head).expect("the client reads");
            streams.push(connection);
        } else {
            publish(connection, &mut streams);
        }
    }
}

/// Answers the POST whose head was read, and those that follow on the connection.
fn publish(mut publisher: TcpStream, streams: &mut [TcpStream]) {
    let block = format!("data: {}\n\n", "x".repeat(BLOCK - "data: \n\n".len()));
    while publisher.read_exact(&mut [0; TEXT]).is_ok() {
        for stream in &mut *streams {
            stream
                .write_all(block.as_bytes())
                .expect("the client reads");
        }
        let answer = b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n";
        publisher.write_all(answer).expect("the client reads");
        if head(&mut publisher).is_none() {
            return;
        }
    }
}

/// Reads a head, and no byte behind it.
fn head(connection: &mut TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        connection.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}
