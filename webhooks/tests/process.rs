//! The two programs and their log.
#![cfg(unix)]

mod setup;

use std::process::Command;

use harness::{
    Metered,
    contract::{outlives_its_log, writes_few_and_short_lines},
};
use serde_json::json;
use setup::{Program, SECRET, Scratch, soon};
use tokio::task::yield_now;

/// A request without a signature.
const UNSIGNED: &str = "POST /webhook HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

#[tokio::test]
async fn a_log_that_nobody_reads_costs_the_sender_lines_and_nothing_else() {
    let body = r#"{"url":"https://1.1.1.1/","topics":["a"]}"#;
    let register = format!(
        "POST /endpoints HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    outlives_its_log(env!("CARGO_BIN_EXE_webhooks"), &[], &register).await;
}

#[tokio::test]
async fn a_log_that_nobody_reads_costs_the_receiver_lines_and_nothing_else() {
    let scratch = Scratch::new();
    let (program, inbox) = (env!("CARGO_BIN_EXE_receiver"), scratch.inbox());
    let args = [
        "--secret",
        SECRET,
        "--inbox",
        inbox.to_str().expect("a path of text"),
    ];
    outlives_its_log(program, &args, UNSIGNED).await;
    writes_few_and_short_lines(program, &args, UNSIGNED).await;
}

#[test]
fn a_receiver_that_cannot_open_its_inbox_does_not_say_that_it_listens() {
    let mut receiver = Command::new(env!("CARGO_BIN_EXE_receiver"));
    receiver.args(["--listen", "localhost:0", "--inbox", "/dev/null/inbox"]);
    let ended = receiver.output().expect("it runs");
    let error = String::from_utf8(ended.stderr).expect("text");
    assert_eq!((ended.status.code(), ended.stdout), (Some(1), Vec::new()));
    assert!(error.contains("error: "), "{error}");
}

#[tokio::test]
async fn the_sender_and_the_receiver_tell_what_became_of_each_attempt() {
    let scratch = Scratch::new();
    let inbox = scratch.inbox();
    let inbox = inbox.to_str().expect("a path of text");
    let args = ["--secret", SECRET, "--inbox", inbox];
    let receiver = Metered::start(env!("CARGO_BIN_EXE_receiver"), &args).await;
    let args = ["--allow-http", "--allow-loopback"];
    let sender = Metered::start(env!("CARGO_BIN_EXE_webhooks"), &args).await;
    let client = sender.server.client();
    let url = format!("http://{}/webhook", receiver.server.addr());
    // The second secret is another one, so the receiver refuses the signature.
    for secret in [SECRET, "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        let endpoint = json!({"url": url, "topics": ["a"], "secret": secret}).to_string();
        let request = client.post("/endpoints", endpoint);
        let request = request.header("Content-Type", "application/json");
        assert_eq!(request.send().await.status, 201);
    }
    assert_eq!(client.post("/topics/a", "one").send().await.status, 201);
    sender.until("feed_waiting_deliveries 1").await;
    let unsigned = receiver.server.client();
    let unsigned = unsigned.post("/webhook", "{}");
    let unsigned = unsigned.header("Content-Type", "application/json");
    assert_eq!(unsigned.send().await.status, 401);
    sender
        .until(r#"feed_attempts_total{outcome="delivered"} 1"#)
        .await;
    let samples = sender.samples().await;
    for sample in [
        r#"feed_answers_total{status="201"} 3"#,
        r#"feed_attempts_total{outcome="delivered"} 1"#,
        r#"feed_attempts_total{outcome="status"} 1"#,
        "feed_head 1",
        "feed_waiting_deliveries 1",
    ] {
        assert!(
            samples.contains(&sample.to_owned()),
            "{sample} {samples:#?}"
        );
    }
    let samples = receiver.samples().await;
    for sample in [
        r#"feed_answers_total{status="200"} 1"#,
        r#"feed_answers_total{status="401"} 2"#,
        r#"feed_received_total{outcome="absent"} 1"#,
        r#"feed_received_total{outcome="accepted"} 1"#,
        r#"feed_received_total{outcome="mismatch"} 1"#,
    ] {
        assert!(
            samples.contains(&sample.to_owned()),
            "{sample} {samples:#?}"
        );
    }
}

#[tokio::test]
async fn a_failed_attempt_is_a_line_and_rust_log_shows_the_peer_of_a_connection() {
    for level in [None, Some("debug")] {
        let scratch = Scratch::new();
        let sender = Program::sender(&scratch, |command| {
            command.env_remove("RUST_LOG");
            command.envs(level.map(|level| ("RUST_LOG", level)));
        });
        let mut garbage = sender.wire().await;
        garbage.send("\0\r\n\r\n").await;
        garbage.closed().await;
        let client = sender.client();
        let endpoint = r#"{"url":"http://127.0.0.1:1/","topics":["a"]}"#;
        let request = client.post("/endpoints", endpoint);
        let request = request.header("Content-Type", "application/json");
        assert_eq!(request.send().await.status, 201);
        assert_eq!(client.post("/topics/a", "one").send().await.status, 201);
        soon(async {
            while !sender.log().contains("an attempt has failed") {
                yield_now().await;
            }
        })
        .await;
        let log = soon(sender.stop()).await.log;
        let line = log.lines().find(|line| line.contains("connection ended"));
        let names_its_peer = |line: &str| line.contains("connection{peer=127.0.0.1:");
        assert_eq!(line.map(names_its_peer), level.map(|_| true), "{log}");
    }
}
