//! The two programs and their log.
#![cfg(unix)]

mod setup;

use std::process::Command;

use harness::contract::{outlives_its_log, writes_few_and_short_lines};
use setup::{SECRET, Scratch};

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
