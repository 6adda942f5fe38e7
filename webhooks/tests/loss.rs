//! Kill -9, fifty times during publish and delivery: what was answered with 201 arrives, and what
//! arrives again is counted.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use harness::Client;
use serde_json::{Value, json};
use setup::{Killable, Program, SECRET, Scratch, soon};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
    time::{sleep, timeout},
};

const KILLS: usize = 50;
const LONG: Duration = Duration::from_millis(20);
const PUBLISHERS: usize = 4;
/// Concurrent attempts of one endpoint.
const CONCURRENCY: usize = 8;
/// The first attempt of each message whose number is a multiple of this is answered with 500.
const FAILS: usize = 100;
/// One of this many requests takes long, and does not count if the sender is gone by then.
const SLOW: usize = 5;
/// Failed messages come again after 5 to 6 seconds, one at a time.
const AT_THE_END: Duration = Duration::from_secs(60);

/// What came to the endpoint.
#[derive(Default)]
struct Arrived {
    requests: AtomicUsize,
    /// By id: the body, and how often it was answered with 200.
    messages: Mutex<BTreeMap<String, (Vec<u8>, usize)>>,
}

impl Arrived {
    /// Notes a message, and returns whether to answer with 200.
    fn take(&self, id: String, body: Vec<u8>) -> bool {
        let mut messages = self.messages.lock().unwrap();
        let count = messages.len();
        let is_new = !messages.contains_key(&id);
        let (first, delivered) = messages.entry(id).or_insert((body.clone(), 0));
        assert_eq!(*first, body, "the same id with another body");
        let fails = is_new && count % FAILS == FAILS / 2;
        *delivered += usize::from(!fails);
        !fails
    }

    fn delivered(&self) -> BTreeSet<String> {
        let messages = self.messages.lock().unwrap();
        let delivered = messages.iter().filter(|(_, (_, times))| *times > 0);
        delivered.map(|(id, _)| id.clone()).collect()
    }
}

/// An endpoint that answers at once and keeps its connections.
async fn sink(listener: TcpListener, arrived: Arc<Arrived>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(answer(stream, arrived.clone()));
    }
}

/// Answers until the connection ends, which may happen anywhere.
async fn answer(stream: TcpStream, arrived: Arc<Arrived>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut id, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            match line.trim_end().split_once(": ") {
                Some(("webhook-id", value)) => id = value.to_owned(),
                Some(("content-length", value)) => length = value.parse().unwrap(),
                _ if line == "\r\n" => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        if arrived
            .requests
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(SLOW)
        {
            let left = timeout(LONG, stream.get_ref().peek(&mut [0])).await.is_ok();
            if left {
                return Ok(());
            }
        }
        let status = if arrived.take(id, body) {
            "200 OK"
        } else {
            "500 E"
        };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// What the publishers know.
#[derive(Default)]
struct Progress {
    next: AtomicUsize,
    /// The ids that were answered with 201.
    ids: Mutex<BTreeSet<String>>,
}

/// Publishes until the sender is gone. Notifies when there are `many` answers.
async fn publisher(
    addr: SocketAddr,
    progress: Arc<Progress>,
    (many, enough): (usize, Arc<Notify>),
) -> std::io::Result<()> {
    let mut sender = Killable::connect(addr).await?;
    loop {
        let text = progress.next.fetch_add(1, Ordering::Relaxed).to_string();
        let length = text.len();
        let request = format!(
            "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{text}"
        );
        let (status, body) = sender.ask(&request).await?;
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
        let answer: Value = serde_json::from_slice(&body).unwrap();
        let mut ids = progress.ids.lock().unwrap();
        ids.insert(answer["id"].as_str().unwrap().to_owned());
        if ids.len() >= many {
            enough.notify_one();
        }
    }
}

async fn register(client: &Client, url: &str) {
    let registration = json!({"url": url, "topics": ["a"], "secret": SECRET}).to_string();
    let request = client.post("/endpoints", registration);
    let request = request.header("content-type", "application/json");
    assert_eq!(request.send().await.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_with_201_arrives_over_fifty_kills_and_few_come_again() {
    let (scratch, progress) = (Scratch::new(), Arc::new(Progress::default()));
    let arrived = Arc::new(Arrived::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(sink(listener, arrived.clone()));
    for kill in 1..=KILLS {
        let sender = Program::sender(&scratch, |_| {});
        if kill == 1 {
            register(&sender.client(), &url).await;
        }
        let many = progress.ids.lock().unwrap().len() + 10 + kill % 7 * 5;
        // A new one for each kill, because the last answers before a kill may notify after the wait has ended.
        let enough = Arc::new(Notify::new());
        let mut publishers = JoinSet::new();
        for _ in 0..PUBLISHERS {
            let enough = (many, enough.clone());
            publishers.spawn(publisher(sender.addr, progress.clone(), enough));
        }
        soon(enough.notified()).await;
        assert!(
            progress.ids.lock().unwrap().len() >= many,
            "killed under load"
        );
        // So that the kill is not always at the same point of a commit.
        sleep(Duration::from_micros(137 * kill as u64)).await;
        sender.kill();
        while let Some(ended) = soon(publishers.join_next()).await {
            // A broken connection is expected here.
            let _ = ended.expect("every answer was 201");
        }
    }

    let sender = Program::sender(&scratch, |_| {});
    let told = progress.ids.lock().unwrap().clone();
    let all_arrived = async {
        while !told.is_subset(&arrived.delivered()) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = timeout(AT_THE_END, all_arrived).await.is_ok();
    let delivered = arrived.delivered();
    let lost: Vec<_> = told.difference(&delivered).collect();
    assert!(in_time, "answered with 201 and lost: {lost:?}");
    let ended = soon(sender.stop()).await;
    assert_eq!(ended.code, Some(0), "{}", ended.log);

    let messages = arrived.messages.lock().unwrap();
    let repeats: usize = messages
        .values()
        .map(|(_, times)| times.saturating_sub(1))
        .sum();
    println!(
        "{} told, {} delivered, {repeats} repeats in {KILLS} kills",
        told.len(),
        delivered.len()
    );
    assert!(repeats <= KILLS * CONCURRENCY, "{repeats} came again");
    assert!(told.len() > KILLS * 10, "there was a load");
}
