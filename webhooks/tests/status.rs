//! What the sender tells an operator about an endpoint.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use std::time::{Duration, SystemTime};

use harness::TestServer;
use serde_json::{Value, json};
use setup::{FAILED, Sink, endpoint, local, patch, publish, register, start};
use webhooks::{Config, schedule::Schedule};

const DELAY: Duration = Duration::from_secs(3_600);

/// A sender that retries once, an hour later, and an endpoint that has failed.
async fn failed() -> (TestServer, String) {
    let config = Config {
        schedule: Schedule::new([DELAY]),
        ..local()
    };
    let (sender, sink) = (start(config).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "hello").await;
    sink.answers(FAILED).await;
    endpoint(&sender, &path, |endpoint| endpoint["waiting"] == 1).await;
    (sender, path)
}

fn oldest_due(endpoint: &Value) -> SystemTime {
    let due = endpoint["oldest_due"].as_str().unwrap();
    humantime::parse_rfc3339(due).unwrap()
}

#[tokio::test]
async fn the_oldest_due_is_when_what_waits_is_attempted_next() {
    let before = SystemTime::now() - Duration::from_millis(1); // the text has no more digits
    let (sender, path) = failed().await;
    let due = oldest_due(&sender.get(&path).await.json());
    assert!(due >= before + DELAY, "{due:?}: not before the delay");
    assert!(
        due <= SystemTime::now() + DELAY.mul_f64(1.2),
        "{due:?}: nor after its jitter"
    );
    let deliveries = sender.get(&format!("{path}/deliveries")).await.json();
    let next = deliveries["attempts"][0]["next_attempt"].as_str().unwrap();
    let next = humantime::parse_rfc3339(next).unwrap();
    let apart = next.max(due).duration_since(next.min(due)).unwrap();
    assert!(apart < Duration::from_secs(1), "{due:?} is {next:?}");
}

#[tokio::test]
async fn where_nothing_waits_nothing_is_due() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    assert_eq!(sender.get(&path).await.json()["oldest_due"], Value::Null);
    // A dead message is not due.
    let attempts = 3;
    publish(&sender, "hello").await;
    for _ in 0..attempts {
        sink.answers(FAILED).await;
    }
    let last = endpoint(&sender, &path, |endpoint| endpoint["dead"] == 1).await;
    assert_eq!(last["oldest_due"], Value::Null);
    sender.stop().await;
}

#[tokio::test]
async fn what_waits_is_shown_of_an_endpoint_that_is_not_called_too() {
    let (sender, path) = failed().await;
    let before = oldest_due(&sender.get(&path).await.json());
    let disabled = patch(&sender, &path, json!({"enabled": false})).await;
    let disabled = disabled.json();
    assert_eq!(disabled["disabled"]["reason"], "by hand");
    assert_eq!(disabled["waiting"], 1);
    let due = oldest_due(&disabled);
    let apart = before.max(due).duration_since(before.min(due)).unwrap();
    assert!(apart < Duration::from_secs(1), "{due:?} is {before:?}");
}
