//! The example client against the sender.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../examples/webhooks_client.rs"]
#[allow(dead_code, unreachable_pub, reason = "its main is not called here")]
mod client;
mod setup;

use std::io;

use client::{Args, run};
use common::harness::TestServer;
use setup::{endpoint, local, publish, soon, start};
use tokio::{sync::mpsc, task::JoinHandle};
use webhooks::Config;

/// Sends each line to the test.
struct Lines(mpsc::UnboundedSender<String>);

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line).into_owned();
        self.0.send(text).map_err(io::Error::other)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn spawn(sender: &TestServer) -> (mpsc::UnboundedReceiver<String>, JoinHandle<String>) {
    let (lines, printed) = mpsc::unbounded_channel();
    let args = Args {
        sender: sender.url("").parse().unwrap(),
        topics: vec!["a".into()],
        listen: "127.0.0.1:0".parse().unwrap(),
    };
    let ended = async { run(args, Lines(lines)).await.unwrap_err().to_string() };
    (printed, tokio::spawn(ended))
}

#[tokio::test]
async fn it_prints_each_message_once() {
    let sender = start(local()).await;
    let (mut printed, _client) = spawn(&sender);
    endpoint(&sender, "/endpoints", |list| {
        list["endpoints"][0].is_object()
    })
    .await;
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
async fn a_refusal_ends_it_with_the_reason() {
    let sender = start(Config::default()).await;
    let (_printed, client) = spawn(&sender);
    let reason = soon(client).await.unwrap();
    assert!(
        reason.contains("plain http is not allowed (--allow-http)"),
        "{reason}"
    );
    sender.stop().await;
}
