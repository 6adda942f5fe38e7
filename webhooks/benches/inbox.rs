//! What a durable 200 costs beside the bare store: `cargo bench -p webhooks --bench inbox`.
//!
//! 64 connections send signed events of 1 KiB to a receiver in this process. Every event is new, and each
//! connection sends one at a time. In turns with it, a bare loop inserts the same rows into SQLite with the same
//! pragmas, 64 per transaction. Both write to the folder for temporary files. Client, receiver and its worker
//! share the cores; the bare loop has them alone.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use common::{Feed, Retention};
use rusqlite::Connection;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::oneshot,
    task::JoinSet,
};
use webhooks::{
    receiver,
    verify::standard::{Secret, sign},
};

const RUNS: usize = 5;
const CONNECTIONS: usize = 64;
const EVENTS: usize = 400; // of each connection
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const TARGET: f64 = 0.25;

fn main() {
    let folder = env::temp_dir().join(format!("webhooks-bench-{}", process::id()));
    let body = format!(
        r#"{{"type":"payment.succeeded","data":"{}"}}"#,
        "x".repeat(985)
    );
    let runtime = Runtime::new().expect("a runtime starts");
    let mut rows = Vec::new();
    for run in 0..RUNS {
        let path = |name: &str| folder.join(format!("{name}-{run}.sqlite"));
        fs::create_dir_all(&folder).expect("there is a folder for temporary files");
        let bare = bare(&path("bare"), &body);
        let received = runtime.block_on(received(path("inbox"), &body));
        rows.push((received / bare, received, bare));
        let _ = fs::remove_dir_all(&folder); // what stays is in the temporary folder
    }
    rows.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
    let (ratio, received, bare) = rows[RUNS / 2];
    println!(
        "{} events of {} bytes, {CONNECTIONS} at a time",
        CONNECTIONS * EVENTS,
        body.len()
    );
    println!("durable 200s {received:>10.0}/s");
    println!("bare inserts {bare:>10.0}/s");
    let met = if ratio >= TARGET {
        ""
    } else {
        "  under the aim of 0.25"
    };
    println!(
        "ratio {ratio:>17.2}  ({:.2} – {:.2}){met}",
        rows[0].0,
        rows[RUNS - 1].0
    );
}

/// Rows per second of the bare loop.
fn bare(path: &Path, body: &str) -> f64 {
    let mut database = Connection::open(path).expect("a database is created");
    for (pragma, value) in [("journal_mode", "WAL"), ("synchronous", "FULL")] {
        let set = database.pragma_update(None, pragma, value);
        set.expect("the pragma is known");
    }
    let table = "CREATE TABLE events (seq INTEGER PRIMARY KEY, id TEXT UNIQUE, payload BLOB)";
    database.execute_batch(table).expect("the table is new");
    let started = Instant::now();
    for group in 0..EVENTS {
        let transaction = database.transaction().expect("nobody else is there");
        for row in 0..CONNECTIONS {
            let mut insert = transaction
                .prepare_cached("INSERT INTO events (id, payload) VALUES (?1, ?2)")
                .expect("the statement is SQL");
            let inserted = insert.execute((format!("msg_{group}_{row}"), body.as_bytes()));
            inserted.expect("there is room");
        }
        transaction.commit().expect("there is room");
    }
    (EVENTS * CONNECTIONS) as f64 / started.elapsed().as_secs_f64()
}

/// Answers with 200 per second, after the event is on the disk.
async fn received(inbox: PathBuf, body: &str) -> f64 {
    let requests: Vec<Vec<Vec<u8>>> = (0..CONNECTIONS)
        .map(|connection| {
            (0..EVENTS)
                .map(|event| request(connection, event, body))
                .collect()
        })
        .collect();
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    let config = receiver::Config {
        secret: vec![SECRET.parse().expect("the constant is a secret")],
        inbox,
        ..receiver::Config::default()
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(async {
        let shutdown = async { drop(stopped.await) };
        receiver::run(listener, Feed::new(Retention::default()), config, shutdown).await
    });
    let mut senders = JoinSet::new();
    let started = Instant::now();
    for requests in requests {
        let stream = TcpStream::connect(addr).await.expect("it listens");
        senders.spawn(send(stream, requests));
    }
    while let Some(sent) = senders.join_next().await {
        sent.expect("every event is answered with 200");
    }
    let elapsed = started.elapsed();
    let _ = stop.send(());
    let drained = tokio::time::timeout(Duration::from_secs(60), server).await;
    drained
        .expect("it drains")
        .expect("it does not panic")
        .expect("the inbox is well");
    (CONNECTIONS * EVENTS) as f64 / elapsed.as_secs_f64()
}

async fn send(mut stream: TcpStream, requests: Vec<Vec<u8>>) {
    let mut answer = [0; 1024];
    for request in requests {
        stream.write_all(&request).await.expect("it reads");
        let mut read = 0;
        while !answer[..read].ends_with(b"\r\n\r\n") {
            let more = stream.read(&mut answer[read..]).await.expect("it answers");
            assert!(more > 0, "it answers to the end");
            read += more;
        }
        assert!(
            answer.starts_with(b"HTTP/1.1 200 OK\r\n"),
            "{}",
            answer[..read].escape_ascii()
        );
    }
}

fn request(connection: usize, event: usize, body: &str) -> Vec<u8> {
    let secret: Secret = SECRET.parse().expect("the constant is a secret");
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it is after 1970");
    let id = format!("msg_{connection}_{event}");
    let fields = sign(&[secret], &id, now.as_secs(), body.as_bytes());
    let fields = fields
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .concat();
    let head = "POST /webhook HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
    format!(
        "{head}\r\n{fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
