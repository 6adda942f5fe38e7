//! Whether the sick delay the healthy: `cargo bench -p webhooks --bench crowd`.
//!
//! A thousand endpoints, of which each gets each message, ten messages a second. In turns: 980 that are
//! healthy alone, and with 20 that are not: 5 refuse the connection, 5 take it and say nothing, and 10
//! answer after 5 seconds. Counted is how long after its publish a message is at each of the healthy. The
//! endpoints are in this process too.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::{Data, Draft, Feed, Retention};
use harness::Client;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::{interval, sleep},
};
use webhooks::Config;

const RUNS: usize = 3;
const MESSAGES: usize = 50;
const PACE: Duration = Duration::from_millis(100);
const HEALTHY: usize = 980;
const SLOW: Duration = Duration::from_secs(5);
const TARGET: f64 = 1.5;

#[tokio::main]
async fn main() {
    let mut rows = Vec::new();
    for _ in 0..RUNS {
        let alone = run(false).await;
        let among = run(true).await;
        let ratio = among[1].as_secs_f64() / alone[1].as_secs_f64();
        rows.push((ratio, alone, among));
    }
    rows.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
    let (ratio, alone, among) = rows[RUNS / 2];
    for (name, [p50, p99]) in [("alone", alone), ("among the sick", among)] {
        println!(
            "{name:<16} p50 {:>6.1} ms  p99 {:>6.1} ms",
            millis(p50),
            millis(p99)
        );
    }
    let missed = if ratio > TARGET {
        "  over the aim of 1.5"
    } else {
        ""
    };
    println!(
        "p99 ratio {ratio:.2} ({:.2} – {:.2}){missed}",
        rows[0].0,
        rows[RUNS - 1].0
    );
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// What an endpoint does.
#[derive(Clone)]
enum Health {
    Well(Arc<Mutex<Vec<Duration>>>, Instant),
    Slow,
    Silent,
}

/// The median and the 99th percentile of the healthy.
async fn run(with_sick: bool) -> [Duration; 2] {
    let feed = Feed::new(Retention::default());
    let mut config = Config {
        allow_http: true,
        allow_loopback: true,
        ..Config::default()
    };
    config.fit(); // raises the limit of descriptors
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async { drop(stopped.await) };
    let server = tokio::spawn(webhooks::run(listener, feed.clone(), config, shutdown));

    let (taken, began) = (Arc::new(Mutex::new(Vec::new())), Instant::now());
    let well = sink(Health::Well(taken.clone(), began)).await;
    for _ in 0..HEALTHY {
        register(addr, well).await;
    }
    if with_sick {
        let (slow, silent) = (sink(Health::Slow).await, sink(Health::Silent).await);
        let refusing = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let refusing = refusing.local_addr().expect("it was bound"); // and is not any more
        for sick in [slow, slow, refusing, silent].iter().cycle().take(20) {
            register(addr, *sick).await;
        }
    }
    let mut pace = interval(PACE);
    for _ in 0..MESSAGES {
        pace.tick().await;
        let text = began.elapsed().as_micros().to_string();
        let topic = "a".parse().expect("it is a topic");
        let published = feed.publish(topic, Draft::new(Data::text(&text))).await;
        published.expect("memory takes it");
    }
    let count = || taken.lock().expect("nobody panics").len();
    while count() < HEALTHY * MESSAGES {
        sleep(Duration::from_millis(10)).await;
    }
    let _ = stop.send(());
    // With the sick it ends with what they are owed.
    let _ = server.await.expect("it does not panic");
    let mut taken = taken.lock().expect("nobody panics");
    taken.sort_unstable();
    [taken[taken.len() / 2], taken[taken.len() * 99 / 100]]
}

async fn sink(health: Health) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, health.clone()));
        }
    });
    addr
}

/// The bodies of this bench end with `"}` and nothing else does.
async fn answer(mut stream: TcpStream, health: Health) {
    let mut buffer = vec![0; 4_096];
    let mut read = 0;
    while let Ok(more @ 1..) = stream.read(&mut buffer[read..]).await {
        read += more;
        if !buffer[..read].ends_with(b"\"}") {
            continue;
        }
        match &health {
            Health::Well(taken, began) => {
                let taken_now = began.elapsed() - published(&buffer[..read]);
                taken.lock().expect("nobody panics").push(taken_now);
            }
            Health::Slow => sleep(SLOW).await,
            Health::Silent => std::future::pending().await,
        }
        read = 0;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

/// The data is when it was published, in microseconds.
fn published(request: &[u8]) -> Duration {
    let text = str::from_utf8(request).expect("it is text");
    let (_, data) = text.rsplit_once(r#""data":""#).expect("it is a message");
    let micros = data
        .trim_end_matches("\"}")
        .parse()
        .expect("it is a number");
    Duration::from_micros(micros)
}

async fn register(sender: SocketAddr, sink: SocketAddr) {
    let body = format!(r#"{{"url":"http://{sink}/","topics":["a"]}}"#);
    let client = Client::new(sender);
    let request = client.post("/endpoints", body);
    let request = request.header("content-type", "application/json");
    let answer = request.send().await;
    assert_eq!(answer.status, 201, "{}", answer.text());
}
