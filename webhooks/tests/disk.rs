//! A full disk, and a disk on which a sync fails: the program's system calls really fail, because a small
//! library is loaded into it. The C compiler that built SQLite builds the library.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Command,
};

use common::{After, FeedSource, PageLimit, Retention};
use harness::{Client, Reply};
use serde_json::{Value, json};
use setup::{OK, Program, Scratch, Sink, listed, send, soon, when_all};

/// A receiver or a sender whose disk fails on demand.
struct Disk {
    scratch: Scratch,
    library: PathBuf,
}

impl Disk {
    fn new() -> Self {
        let scratch = Scratch::new();
        let library = scratch.path().join("faults.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/disk/faults.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-o"]).arg(&library);
        assert!(cc.arg(source).arg("-ldl").status().unwrap().success());
        Self { scratch, library }
    }

    fn start(&self) -> Program {
        Program::start(&self.scratch, |receiver| self.prepare(receiver))
    }

    fn sender(&self) -> Program {
        Program::sender(&self.scratch, |sender| self.prepare(sender))
    }

    fn prepare(&self, program: &mut Command) {
        program.env("LD_PRELOAD", &self.library);
        program.env("DISK_FAULTS", self.scratch.path());
    }

    fn begins(&self, fault: &str) {
        File::create(self.scratch.path().join(fault)).unwrap();
    }

    fn ends(&self, fault: &str) {
        fs::remove_file(self.scratch.path().join(fault)).unwrap();
    }
}

#[tokio::test]
async fn on_a_full_disk_the_answer_is_503_until_there_is_room() {
    let disk = Disk::new();
    let receiver = disk.start();
    let client = receiver.client();
    assert_eq!(send(&client, "before").await.status, 200);
    disk.begins("full");
    let refused = send(&client, "lost").await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
    disk.ends("full");
    assert_eq!(send(&client, "after").await.status, 200);
    assert_eq!(listed(&client).await, ["before", "after"]);
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_accepted_and_the_process_says_so() {
    let disk = Disk::new();
    let receiver = disk.start();
    let client = receiver.client();
    assert_eq!(send(&client, "before").await.status, 200);
    when_all(&client, |event| event["state"] == "handled").await;
    let mut kept = receiver.wire().await;
    disk.begins("sync");
    assert_eq!(send(&client, "unsure").await.status, 503);
    disk.ends("sync");
    // The disk works again, and its contents are unknown. On a connection that was open already:
    if kept.try_send(setup::request("later")).await.is_ok() {
        let (_, answer) = kept.closed().await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let ended = soon(receiver.ended()).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.log.contains("the inbox has failed"), "{}", ended.log);

    // The next start reads what the disk really has, and the sender retries.
    let receiver = disk.start();
    let client = receiver.client();
    assert_eq!(send(&client, "unsure").await.status, 200);
    assert_eq!(send(&client, "later").await.status, 200);
    let listed = listed(&client).await;
    assert_eq!(listed, ["before", "unsure", "later"]);
}

async fn publish(client: &Client, text: &'static str) -> Reply {
    client.post("/topics/a", text).send().await
}

/// What is in the sender's feed after it has ended.
async fn published(disk: &Disk) -> Vec<String> {
    let source = FeedSource::File(disk.scratch.feed());
    let feed = source.open(Retention::default(), false).await.unwrap();
    let (topics, all) = ("a".parse().unwrap(), After::Earliest);
    let page = feed
        .read(&topics, &all, PageLimit::default())
        .await
        .unwrap();
    let messages = page.messages.iter();
    let data = messages.map(|message| serde_json::from_slice::<Value>(&message.json).unwrap());
    data.map(|json| json["data"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_published_until_there_is_room() {
    let disk = Disk::new();
    let sender = disk.sender();
    let client = sender.client();
    assert_eq!(publish(&client, "before").await.status, 201);
    disk.begins("full");
    let refused = publish(&client, "lost").await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    assert_eq!(client.get("/healthz").send().await.status, 200);
    disk.ends("full");
    let after = publish(&client, "after").await;
    assert_eq!(after.status, 201);
    assert!(
        after.text().contains("-2\""),
        "no number is spent: {}",
        after.text()
    );
    sender.kill();
    assert_eq!(published(&disk).await, ["before", "after"]);
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_published_until_a_restart() {
    let disk = Disk::new();
    let sender = disk.sender();
    let client = sender.client();
    assert_eq!(publish(&client, "before").await.status, 201);
    disk.begins("sync");
    assert_eq!(publish(&client, "unsure").await.status, 503);
    disk.ends("sync");
    // The disk works again, and its contents are unknown.
    for _ in 0..3 {
        assert_eq!(publish(&client, "later").await.status, 503);
    }
    let health = client.get("/healthz").send().await;
    assert_eq!(health.status, 503);
    assert!(
        health.text().contains("until a restart"),
        "{}",
        health.text()
    );
    sender.kill();
    let sender = disk.sender();
    assert_eq!(publish(&sender.client(), "after").await.status, 201);
    sender.kill();
    let published = published(&disk).await;
    let told: Vec<&str> = published.iter().map(String::as_str).collect();
    assert!(
        matches!(
            told[..],
            ["before", "after"] | ["before", "unsure", "after"]
        ),
        "{told:?}"
    );
}

/// Registers the sink for the topic `a`.
async fn register(client: &Client, sink: &Sink) -> String {
    let registration = json!({"url": sink.url(), "topics": ["a"]}).to_string();
    let request = client.post("/endpoints", registration);
    let request = request.header("content-type", "application/json");
    let reply = request.send().await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply.header("location").unwrap().to_owned()
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_called_done_and_the_next_start_repeats_it() {
    let (disk, sink) = (Disk::new(), Sink::open().await);
    let sender = Program::sender(&disk.scratch, |sender| {
        disk.prepare(sender);
        sender.args(["--drain", "0.2"]); // what cannot be recorded is not waited for
    });
    let client = sender.client();
    let path = register(&client, &sink).await;
    assert_eq!(publish(&client, "one").await.status, 201);
    let mut first = sink.called().await;
    disk.begins("sync");
    assert_eq!(publish(&client, "unsure").await.status, 503);
    disk.ends("sync");
    first.wire.send(OK).await;
    assert_eq!(client.get("/healthz").send().await.status, 503);
    let after = client.get(&path).send().await.json();
    assert_eq!(
        (&after["delivered"], &after["in_flight"]),
        (&json!(0), &json!(1))
    );
    let ended = soon(sender.stop()).await;
    assert!(ended.log.contains("the feed has failed"), "{}", ended.log);

    let sender = disk.sender();
    // The message with an unknown outcome may be stored. Then it is delivered, perhaps before the others.
    let again = soon(async {
        loop {
            let mut called = sink.called().await;
            called.wire.send(OK).await;
            if called.field("webhook-id") == first.field("webhook-id") {
                return called;
            }
        }
    })
    .await;
    assert_eq!(again.body, first.body);
    let client = sender.client();
    delivered_all(&client, &path, &sink).await;
}

/// Answers all other requests, until nothing is owed.
async fn delivered_all(client: &Client, path: &str, sink: &Sink) {
    let owed = async {
        loop {
            let endpoint = client.get(path).send().await.json();
            if endpoint["in_flight"] == 0 && endpoint["delivered"] != 0 {
                return;
            }
        }
    };
    let answering = async {
        loop {
            sink.called().await.wire.send(OK).await;
        }
    };
    tokio::select! {
        () = soon(owed) => {}
        () = answering => {}
    }
}
