//! What it costs that a feed is in a file or on NATS: `cargo bench -p sse --features file,nats --bench cluster`.
//! Linux only, since it reads `/proc`. It needs `nats-server`.
//!
//! Everything goes over HTTP to a server in another process. The four kinds of feed take turns, so that other
//! load on the machine falls on all of them. A ratio is to the feed in memory, in the same round.

use std::{
    collections::BTreeMap,
    env, fs,
    net::SocketAddr,
    process,
    time::{Duration, Instant},
};

use harness::{Client, NatsServers, Process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sse");
const ROUNDS: usize = 3;
/// Published one after the other.
const IN_TURN: usize = 200;
/// Publishers at one time, and what each publishes.
const PUBLISHERS: usize = 64;
const EACH: usize = 600;
/// Streams that receive every message.
const READERS: usize = 100;
const DELIVERED: usize = 4_000;
/// Streams that receive nothing.
const IDLE: usize = 2_000;
/// Keyed publishes for what a key costs the NATS server.
const KEYS: usize = 30_000;
const TEXT: usize = 128;

/// The figures of one round for one kind of feed.
struct Round {
    latency: f64,
    publishes: f64,
    deliveries: f64,
    idle: f64,
}

#[tokio::main]
async fn main() {
    let folder = env::temp_dir().join(format!("cluster-{}", process::id()));
    fs::create_dir_all(&folder).expect("there is a folder for temporary files");
    let (one, three) = (NatsServers::start(1).await, NatsServers::start(3).await);
    let mut rounds: BTreeMap<&str, Vec<Round>> = BTreeMap::new();
    for round in 0..ROUNDS {
        let file = folder.join(round.to_string());
        for (name, feed) in [
            ("memory", "memory".to_owned()),
            ("file", format!("file:{}", file.display())),
            ("nats, 1 replica", one.feed()),
            ("nats, 3 replicas", three.feed()),
        ] {
            rounds.entry(name).or_default().push(measure(&feed).await);
        }
    }
    println!("medians of {ROUNDS} rounds; in brackets the ratio to memory");
    show("one publish over HTTP (µs)", &rounds, |round| {
        round.latency
    });
    show("publishes per second, 64 at a time", &rounds, |round| {
        round.publishes
    });
    show("deliveries per second to 100 streams", &rounds, |round| {
        round.deliveries
    });
    show("an idle stream, resident (bytes)", &rounds, |round| {
        round.idle
    });
    println!(
        "an Idempotency-Key in the memory of a NATS server: {} bytes",
        key_cost().await
    );
    // If it fails, files are left in the temporary folder only.
    let _ = fs::remove_dir_all(folder);
}

fn show(what: &str, rounds: &BTreeMap<&str, Vec<Round>>, figure: fn(&Round) -> f64) {
    println!("{what}");
    for (name, own) in rounds {
        let values = own.iter().map(figure);
        let ratios = own.iter().zip(&rounds["memory"]);
        let ratios = ratios.map(|(own, memory)| figure(own) / figure(memory));
        println!(
            "  {name:<18} {:>9.0}  ({:.2})",
            median(values.collect()),
            median(ratios.collect())
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn measure(feed: &str) -> Round {
    let server = Process::start(PROGRAM, &["--feed", feed, "--retain", "10000"]).await;
    let idle = idle(&server).await;
    let latency = latency(server.addr()).await;
    let started = Instant::now();
    publish(server.addr(), PUBLISHERS, EACH).await;
    let publishes = (PUBLISHERS * EACH) as f64 / started.elapsed().as_secs_f64();
    let deliveries = deliveries(server.addr()).await;
    Round {
        latency,
        publishes,
        deliveries,
        idle,
    }
}

async fn idle(server: &Process) -> f64 {
    let before = server.resident();
    let mut streams = Vec::new();
    for _ in 0..IDLE {
        streams.push(open(server.addr(), "idle").await);
    }
    server.resident().saturating_sub(before) as f64 / IDLE as f64
}

/// The median time of one publish.
async fn latency(server: SocketAddr) -> f64 {
    let client = Client::keep_alive(server).await;
    let mut micros = Vec::new();
    for _ in 0..IN_TURN {
        let started = Instant::now();
        let reply = client.post("/topics/turn", "x".repeat(TEXT)).send().await;
        micros.push(started.elapsed().as_secs_f64() * 1e6);
        assert_eq!(reply.status, 201, "{}", reply.text());
    }
    median(micros)
}

async fn publish(server: SocketAddr, publishers: usize, each: usize) {
    let mut publishing = JoinSet::new();
    for _ in 0..publishers {
        publishing.spawn(async move {
            let client = Client::keep_alive(server).await;
            for _ in 0..each {
                let reply = client.post("/topics/many", "x".repeat(TEXT)).send().await;
                assert_eq!(reply.status, 201, "{}", reply.text());
            }
        });
    }
    publishing.join_all().await;
}

async fn deliveries(server: SocketAddr) -> f64 {
    let mut reading = JoinSet::new();
    for _ in 0..READERS {
        let stream = open(server, "many").await;
        reading.spawn(read(stream));
    }
    let started = Instant::now();
    publish(server, 16, DELIVERED / 16).await;
    reading.join_all().await;
    (READERS * DELIVERED) as f64 / started.elapsed().as_secs_f64()
}

/// An event stream whose head has come.
async fn open(server: SocketAddr, topic: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server).await.expect("it listens");
    let request = format!("GET /topics/{topic} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let sent = stream.write_all(request.as_bytes()).await;
    sent.expect("it reads");
    let mut head = [0; 2_048];
    let read = stream.read(&mut head).await.expect("it answers");
    assert!(head[..read].starts_with(b"HTTP/1.1 200 "));
    stream
}

/// Reads until all has come: each message has one line that begins with `data`.
async fn read(mut stream: TcpStream) {
    let (mut buffer, mut line, mut came) = (vec![0; 64 * 1024], Vec::new(), 0);
    while came < DELIVERED {
        let read = stream.read(&mut buffer).await.expect("it goes on");
        assert!(read > 0, "it ended after {came}");
        for byte in &buffer[..read] {
            match byte {
                b'\n' => {
                    came += usize::from(line.starts_with(b"data: "));
                    line.clear();
                }
                _ if line.len() < 6 => line.push(*byte),
                _ => {}
            }
        }
    }
}

/// The memory that a key takes after its message is gone: the same publishes with and without a key.
async fn key_cost() -> i64 {
    let mut growth = Vec::new();
    for keyed in [false, true] {
        let nats = NatsServers::start(1).await;
        let server = Process::start(PROGRAM, &["--feed", &nats.feed(), "--retain", "100"]).await;
        let before = nats.resident(0);
        let mut publishing = JoinSet::new();
        for publisher in 0..PUBLISHERS {
            let addr = server.addr();
            publishing.spawn(async move {
                let client = Client::keep_alive(addr).await;
                for number in 0..KEYS / PUBLISHERS {
                    let post = client.post("/topics/keys", "x");
                    let key = format!("{publisher}-{number}");
                    let name = if keyed { "idempotency-key" } else { "x-no-key" };
                    assert_eq!(post.header(name, &key).send().await.status, 201);
                }
            });
        }
        publishing.join_all().await;
        tokio::time::sleep(Duration::from_secs(2)).await; // Go collects its garbage in its own time
        growth.push(nats.resident(0) as i64 - before as i64);
    }
    (growth[1] - growth[0]) / KEYS as i64
}
