//! The example client against the sender.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../examples/webhooks_client.rs"]
#[allow(dead_code, unreachable_pub, reason = "its main is not called here")]
mod client;
mod setup;

use std::io;

use client::{Args, run};
use harness::{TestServer, WireListener};
use serde_json::Value;
use setup::{endpoint, local, publish, soon, start};
use tokio::{sync::mpsc, task::JoinHandle};
use webhooks::Config;

/// An output that fails this many times, and then sends each line to the test.
struct Lines {
    printed: mpsc::UnboundedSender<String>,
    failing: usize,
}

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.failing > 0 {
            self.failing -= 1;
            return Err(io::Error::other("the disk is full"));
        }
        let text = String::from_utf8_lossy(line).into_owned();
        self.printed.send(text).map_err(io::Error::other)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn spawn(
    sender: &TestServer,
    failing: usize,
) -> (mpsc::UnboundedReceiver<String>, JoinHandle<String>) {
    spawn_at(&sender.url(""), failing)
}

fn spawn_at(sender: &str, failing: usize) -> (mpsc::UnboundedReceiver<String>, JoinHandle<String>) {
    let (lines, printed) = mpsc::unbounded_channel();
    let lines = Lines {
        printed: lines,
        failing,
    };
    let args = Args {
        sender: sender.parse().unwrap(),
        topics: vec!["a".into()],
        listen: "127.0.0.1:0".parse().unwrap(),
    };
    let ended = async { run(args, lines).await.unwrap_err().to_string() };
    (printed, tokio::spawn(ended))
}

async fn registered(sender: &TestServer) {
    let is_there = |list: &Value| list["endpoints"][0].is_object();
    endpoint(sender, "/endpoints", is_there).await;
}

#[tokio::test]
async fn it_prints_each_message_once() {
    let sender = start(local()).await;
    let (mut printed, _client) = spawn(&sender, 0);
    registered(&sender).await;
    for text in ["one", "two"] {
        let id = publish(&sender, text).await;
        let line = soon(printed.recv()).await.unwrap();
        assert!(
            line.contains(&id) && line.ends_with(&format!("\"data\":\"{text}\"}}\n")),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_sender_that_names_no_place_is_given_up() {
    for location in ["", "Location: a b\r\n"] {
        let sender = WireListener::bind().await;
        let (_printed, client) = spawn_at(&format!("http://{}", sender.addr()), 0);
        let mut peer = sender.accept().await;
        peer.read_head().await;
        let created = format!("HTTP/1.1 201 Created\r\n{location}Content-Length: 0\r\n\r\n");
        peer.send(created).await;
        let ended = soon(client).await.unwrap();
        assert_eq!(ended, "the sender gave no Location that is a URI");
    }
}

#[tokio::test]
async fn what_it_could_not_keep_is_sent_again_and_is_no_repeat() {
    let sender = start(local()).await;
    let (mut printed, _client) = spawn(&sender, 1);
    registered(&sender).await;
    let id = publish(&sender, "hello").await;
    let line = soon(printed.recv()).await.unwrap();
    assert!(line.contains(&id), "{line}");
    let settled = |list: &Value| list["endpoints"][0]["delivered"] == 1;
    let list = endpoint(&sender, "/endpoints", settled).await;
    let error = &list["endpoints"][0]["last_error"];
    assert_eq!(error, "answered 503 Service Unavailable");
}

#[tokio::test]
async fn a_refusal_ends_it_with_the_reason() {
    let sender = start(Config::default()).await;
    let (_printed, client) = spawn(&sender, 0);
    let reason = soon(client).await.unwrap();
    assert!(
        reason.contains("plain http is not allowed (--allow-http)"),
        "{reason}"
    );
    sender.stop().await;
}
