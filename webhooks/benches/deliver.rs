//! What a delivery costs beside the bare client: `cargo bench -p webhooks --bench deliver`.
//!
//! The sender delivers published messages to one sink, over 8 connections (one endpoint) and over 64
//! (eight of them, eight attempts each), with its feed in memory and in a file. Beside it, in turns, as many
//! loops over hyper's client connection that sign a body of the same size and POST it. The sink is the same:
//! it answers 200 to each request and does nothing else. All of it shares this machine's cores.

use std::{
    env, fs,
    net::SocketAddr,
    process,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use common::{Cursor, Data, Draft, Feed, FeedSource, Retention};
use harness::{Client, Reply};
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
    time::sleep,
};
use webhooks::{
    Config,
    verify::standard::{Secret, sign},
};

const RUNS: usize = 5;
const DELIVERIES: usize = 40_000;
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const TARGET: f64 = 0.7;
const PUBLISHERS: usize = 100;
/// Attempts of one endpoint at one time.
const EACH: usize = 8;

#[tokio::main]
async fn main() {
    let sink = Sink::open().await;
    println!(
        "{:<8} {:<12} {:>12} {:>12} {:>6}",
        "feed", "connections", "sender", "bare", "ratio"
    );
    for (home, connections) in [("memory", 8), ("memory", 64), ("file", 8), ("file", 64)] {
        let mut rows = Vec::new();
        for _ in 0..RUNS {
            let bare = bare(sink.addr, connections).await;
            let sent = delivered(&sink, connections / EACH, home == "file").await;
            rows.push((sent / bare, sent, bare));
        }
        rows.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
        let (ratio, sent, bare) = rows[RUNS / 2];
        let met = if ratio >= TARGET {
            ""
        } else {
            "  under the aim of 0.7"
        };
        let (least, most) = (rows[0].0, rows[RUNS - 1].0);
        println!(
            "{home:<8} {connections:<12} {sent:>10.0}/s {bare:>10.0}/s {ratio:>6.2}  ({least:.2} – {most:.2}){met}"
        );
    }
}

/// Answers 200 to each request.
struct Sink {
    addr: SocketAddr,
    answered: Arc<AtomicUsize>,
}

impl Sink {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let addr = listener.local_addr().expect("it is bound");
        let answered = Arc::new(AtomicUsize::new(0));
        let count = answered.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                tokio::spawn(answer(stream, count.clone()));
            }
        });
        Self { addr, answered }
    }
}

/// The bodies of this bench end with `"}` and nothing else does.
async fn answer(mut stream: TcpStream, answered: Arc<AtomicUsize>) {
    let mut buffer = vec![0; 8_192];
    let mut read = 0;
    while let Ok(more @ 1..) = stream.read(&mut buffer[read..]).await {
        read += more;
        if buffer[..read].ends_with(b"\"}") {
            read = 0;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            if stream.write_all(answer).await.is_err() {
                return;
            }
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn text() -> String {
    "x".repeat(900)
}

/// Deliveries per second of loops that sign, send, and wait for the answer.
async fn bare(addr: SocketAddr, connections: usize) -> f64 {
    let message = format!(
        r#"{{"id":"0qnjo29vklqq-100000","topic":"a","type":"message","timestamp":"2026-11-23T21:03:24.829Z","data":"{}"}}"#,
        text()
    );
    let body = Bytes::from(message);
    let mut loops = JoinSet::new();
    let started = Instant::now();
    for _ in 0..connections {
        loops.spawn(send(addr, body.clone(), DELIVERIES / connections));
    }
    while let Some(done) = loops.join_next().await {
        done.expect("the sink answers");
    }
    DELIVERIES as f64 / started.elapsed().as_secs_f64()
}

async fn send(addr: SocketAddr, body: Bytes, count: usize) {
    let secret: Secret = SECRET.parse().expect("the constant is a secret");
    let stream = TcpStream::connect(addr).await.expect("it listens");
    stream.set_nodelay(true).expect("it is open");
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.expect("it is open");
    tokio::spawn(connection);
    for number in 0..count {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.expect("it is after 1970").as_secs();
        let id = format!("0qnjo29vklqq-{number}");
        let mut request = Request::post("/webhook")
            .header("host", "localhost")
            .header("content-type", "application/json");
        for (name, value) in sign(std::slice::from_ref(&secret), &id, now, &body) {
            request = request.header(name, value);
        }
        let request = request
            .body(Full::new(body.clone()))
            .expect("it is a request");
        sender.ready().await.expect("it is kept open");
        let answer = sender.send_request(request).await.expect("it answers");
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.expect("it has a body");
    }
}

/// Deliveries per second of the sender to this many endpoints, from their start to the last answer. All is
/// published before: what that costs is told by the bench `publish`.
async fn delivered(sink: &Sink, endpoints: usize, durable: bool) -> f64 {
    let retention = Retention {
        messages: DELIVERIES,
        topic_bytes: 256 << 20,
        ..Retention::default()
    };
    let folder = env::temp_dir().join(format!("deliver-bench-{}", process::id()));
    fs::create_dir_all(&folder).expect("there is a folder for temporary files");
    let source = match durable {
        true => FeedSource::File(folder.join("feed.sqlite")),
        false => FeedSource::Memory,
    };
    let feed = source
        .open(retention, false)
        .await
        .expect("a feed is created");
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    let config = Config {
        allow_http: true,
        allow_loopback: true,
        ..Config::default()
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async { drop(stopped.await) };
    let server = tokio::spawn(webhooks::run(listener, feed.clone(), config, shutdown));
    publish(&feed, DELIVERIES / endpoints).await;
    let mut paths = Vec::new();
    for _ in 0..endpoints {
        paths.push(register(addr, sink.addr).await);
    }
    let start = Cursor {
        seq: 0,
        ..feed.head()
    };
    let start = format!(r#"{{"after":"{start}"}}"#);
    let before = sink.answered.load(Ordering::Relaxed);
    let started = Instant::now();
    for path in paths {
        post(addr, &format!("{path}/replay"), start.clone(), 200).await;
    }
    while sink.answered.load(Ordering::Relaxed) < before + DELIVERIES {
        sleep(Duration::from_millis(1)).await;
    }
    let elapsed = started.elapsed();
    let _ = stop.send(());
    server
        .await
        .expect("it does not panic")
        .expect("nothing is owed");
    drop(feed);
    let _ = fs::remove_dir_all(&folder); // what stays is in the temporary folder
    DELIVERIES as f64 / elapsed.as_secs_f64()
}

/// Many at a time, so that a sync is for many.
async fn publish(feed: &Feed, count: usize) {
    let mut publishers = JoinSet::new();
    for _ in 0..PUBLISHERS {
        let feed = feed.clone();
        publishers.spawn(async move {
            for _ in 0..count / PUBLISHERS {
                let topic = "a".parse().expect("it is a topic");
                let published = feed.publish(topic, Draft::new(Data::text(&text()))).await;
                published.expect("there is room");
            }
        });
    }
    while let Some(done) = publishers.join_next().await {
        done.expect("all is published");
    }
}

/// Returns the endpoint's path.
async fn register(sender: SocketAddr, sink: SocketAddr) -> String {
    let body = format!(r#"{{"url":"http://{sink}/webhook","topics":["a"],"secret":"{SECRET}"}}"#);
    let answer = post(sender, "/endpoints", body, 201).await;
    answer.header("location").expect("it is created").to_owned()
}

async fn post(sender: SocketAddr, path: &str, body: String, status: u16) -> Reply {
    let client = Client::new(sender);
    let request = client.post(path, body);
    let request = request.header("content-type", "application/json");
    let answer = request.send().await;
    assert_eq!(answer.status, status, "{}", answer.text());
    answer
}
