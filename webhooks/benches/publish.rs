//! What a durable 201 costs beside the bare store: `cargo bench -p webhooks --bench publish`.
//!
//! 64 publishers publish messages of 1 KiB to a feed in a file, each one at a time: first from tasks of this
//! process, then over 64 connections to a sender in this process. In turns with them, a bare loop inserts the
//! same rows into SQLite with the same pragmas, 64 per transaction. All write to the folder for temporary
//! files. Publishers, server and the writing thread share the cores; the bare loop has them alone.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    time::Instant,
};

use common::{Data, Draft, Feed, FeedSource, Retention, Topic};
use rusqlite::Connection;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::oneshot,
    task::JoinSet,
};
use webhooks::Config;

const RUNS: usize = 5;
const PUBLISHERS: usize = 64;
const MESSAGES: usize = 800; // of each publisher
const DATA: usize = 1_024;
const TARGET: f64 = 0.25;

fn main() {
    let folder = env::temp_dir().join(format!("journal-bench-{}", process::id()));
    let runtime = Runtime::new().expect("a runtime starts");
    let draft = Draft::new(Data::text(&"x".repeat(DATA - 2)));
    let mut rows = Vec::new();
    for run in 0..RUNS {
        let path = |name: &str| folder.join(format!("{name}-{run}.sqlite"));
        fs::create_dir_all(&folder).expect("there is a folder for temporary files");
        let bare = bare(&path("bare"), &draft);
        let straight =
            runtime.block_on(async { straight(open(path("straight")).await, &draft).await });
        let over_http =
            runtime.block_on(async { over_http(open(path("http")).await, &draft).await });
        rows.push([bare, straight, over_http]);
        let _ = fs::remove_dir_all(&folder); // what stays is in the temporary folder
    }
    println!(
        "{} messages of {DATA} bytes of data, {PUBLISHERS} at a time",
        PUBLISHERS * MESSAGES
    );
    for (name, column) in [
        ("bare inserts", 0),
        ("durable publishes", 1),
        ("durable 201s", 2),
    ] {
        report(name, &rows, column);
    }
}

/// The median rate, and the median of its ratio to the bare inserts of the same run.
fn report(name: &str, rows: &[[f64; 3]], column: usize) {
    let sorted = |figure: &dyn Fn(&[f64; 3]) -> f64| {
        let mut figures: Vec<f64> = rows.iter().map(figure).collect();
        figures.sort_unstable_by(f64::total_cmp);
        figures
    };
    let (rates, ratios) = (
        sorted(&|row| row[column]),
        sorted(&|row| row[column] / row[0]),
    );
    let (rate, ratio) = (rates[RUNS / 2], ratios[RUNS / 2]);
    let missed = if ratio < TARGET {
        "  under the aim of 0.25"
    } else {
        ""
    };
    let spread = format!("({:.2} – {:.2})", ratios[0], ratios[RUNS - 1]);
    println!("{name:<18} {rate:>9.0}/s  {ratio:.2} {spread}{missed}");
}

async fn open(path: PathBuf) -> Feed {
    let retention = Retention {
        messages: usize::MAX,
        topic_bytes: usize::MAX,
        ..Retention::default()
    };
    let feed = FeedSource::File(path).open(retention, false).await;
    feed.expect("a feed is created")
}

/// Rows per second of the bare loop.
fn bare(path: &Path, draft: &Draft) -> f64 {
    let mut database = Connection::open(path).expect("a database is created");
    for (pragma, value) in [("journal_mode", "WAL"), ("synchronous", "FULL")] {
        let set = database.pragma_update(None, pragma, value);
        set.expect("the pragma is known");
    }
    let table = "CREATE TABLE messages (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT, type TEXT, published INTEGER, data TEXT)";
    database.execute_batch(table).expect("the table is new");
    let started = Instant::now();
    for group in 0..MESSAGES {
        let transaction = database.transaction().expect("nobody else is there");
        for row in 0..PUBLISHERS {
            let topic = format!("t{}", row % 8);
            let mut insert = transaction
                .prepare_cached(
                    "INSERT INTO messages (topic, type, published, data) VALUES (?1, ?2, ?3, ?4)",
                )
                .expect("the statement is SQL");
            let inserted = insert.execute((topic, "message", group, draft.data.as_str()));
            inserted.expect("there is room");
        }
        transaction.commit().expect("there is room");
    }
    (MESSAGES * PUBLISHERS) as f64 / started.elapsed().as_secs_f64()
}

/// Publishes per second from tasks.
async fn straight(feed: Feed, draft: &Draft) -> f64 {
    let mut publishers = JoinSet::new();
    let started = Instant::now();
    for publisher in 0..PUBLISHERS {
        let (feed, draft) = (feed.clone(), draft.clone());
        publishers.spawn(async move {
            let topic: Topic = format!("t{}", publisher % 8).parse().expect("a topic");
            for _ in 0..MESSAGES {
                let published = feed.publish(topic.clone(), draft.clone()).await;
                published.expect("there is room");
            }
        });
    }
    while let Some(ended) = publishers.join_next().await {
        ended.expect("every message is published");
    }
    (PUBLISHERS * MESSAGES) as f64 / started.elapsed().as_secs_f64()
}

/// Publishes per second over connections, answered with 201.
async fn over_http(feed: Feed, draft: &Draft) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async { drop(stopped.await) };
    let server = tokio::spawn(webhooks::run(listener, feed, Config::default(), shutdown));
    let mut publishers = JoinSet::new();
    let started = Instant::now();
    for publisher in 0..PUBLISHERS {
        let stream = TcpStream::connect(addr).await.expect("it listens");
        publishers.spawn(publish(stream, request(publisher, draft)));
    }
    while let Some(ended) = publishers.join_next().await {
        ended.expect("every message is answered with 201");
    }
    let elapsed = started.elapsed();
    let _ = stop.send(());
    let drained = server.await.expect("it does not panic");
    drained.expect("nothing is lost");
    (PUBLISHERS * MESSAGES) as f64 / elapsed.as_secs_f64()
}

async fn publish(mut stream: TcpStream, request: Vec<u8>) {
    let mut answer = [0; 1_024];
    for _ in 0..MESSAGES {
        stream.write_all(&request).await.expect("it reads");
        let mut read = 0;
        while !answer[..read].ends_with(b"}") {
            let more = stream.read(&mut answer[read..]).await;
            let more = more.expect("it answers");
            assert!(more > 0, "it answers to the end");
            read += more;
        }
        let answer = &answer[..read];
        assert!(
            answer.starts_with(b"HTTP/1.1 201 "),
            "{}",
            answer.escape_ascii()
        );
    }
}

fn request(publisher: usize, draft: &Draft) -> Vec<u8> {
    let (topic, data) = (publisher % 8, draft.data.as_str());
    let head = format!(
        "POST /topics/t{topic} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
    );
    format!("{head}\r\nContent-Length: {}\r\n\r\n{data}", data.len()).into_bytes()
}
