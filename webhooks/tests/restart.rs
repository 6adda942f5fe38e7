//! What the sender promises across its own restart, with its feed in a file: endpoints stay registered, and
//! what was owed is still owed.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use std::time::Duration;

use common::{Feed, FeedSource, Retention};
use harness::TestServer;
use serde_json::{Value, json};
use setup::{
    FAILED, OK, Scratch, Sink, endpoint, local, patch, publish, register, register_as, send_json,
    soon, start_with,
};
use tokio::task::yield_now;
use webhooks::{Config, schedule::Schedule};

/// The feed, as soon as the previous server has closed it.
async fn open(scratch: &Scratch) -> Feed {
    let source = FeedSource::File(scratch.feed());
    let opening = async {
        loop {
            match source.open(Retention::default(), false).await {
                Ok(feed) => return feed,
                Err(_) => yield_now().await,
            }
        }
    };
    soon(opening).await
}

async fn start(scratch: &Scratch, config: Config) -> TestServer {
    start_with(open(scratch).await, config).await
}

/// Retries once, after this many seconds.
fn once(seconds: u64) -> Config {
    Config {
        schedule: Schedule::new([Duration::from_secs(seconds)]),
        ..local()
    }
}

#[tokio::test]
async fn who_registered_is_called_by_the_next_process_too() {
    let (scratch, sink) = (Scratch::new(), Sink::open().await);
    let sender = start(&scratch, local()).await;
    let registration = json!({"url": sink.url(), "topics": ["a", "b"], "types": ["message", "x"]});
    let path = register_as(&sender, registration).await;
    let before = sender.get(&path).await.json();
    sender.stop().await;

    let sender = start(&scratch, local()).await;
    assert_eq!(sender.get(&path).await.json(), before);
    publish(&sender, "hello").await;
    assert_eq!(sink.answers(OK).await, "hello");
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 1).await;
    sender.stop().await;
}

#[tokio::test]
async fn what_waits_is_not_lost_and_comes_again_with_the_same_id_and_bytes() {
    let (scratch, sink) = (Scratch::new(), Sink::open().await);
    let sender = start(&scratch, once(1)).await;
    let path = register(&sender, &sink.url()).await;
    let id = publish(&sender, "hello").await;
    let mut first = sink.called().await;
    first.wire.send(FAILED).await;
    endpoint(&sender, &path, |endpoint| endpoint["waiting"] == 1).await;
    // Stopping with it is no loss, so the server ends without an error.
    sender.stop().await;

    let sender = start(&scratch, once(1)).await;
    endpoint(&sender, &path, |endpoint| endpoint["waiting"] == 1).await;
    let mut second = sink.called().await;
    second.wire.send(OK).await;
    assert_eq!(second.field("webhook-id"), id);
    assert_eq!(second.body, first.body);
    let last = endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 1).await;
    assert_eq!(last["waiting"], 0);
    assert_eq!(last["last_error"], "answered 500 Internal Server Error");
    let deliveries = sender.get(&format!("{path}/deliveries")).await.json();
    let attempts = deliveries["attempts"].as_array().unwrap();
    // The list is in memory. The number of the attempt is not.
    let numbers: Vec<_> = attempts.iter().map(|one| &one["attempt"]).collect();
    assert_eq!(numbers, [2], "{deliveries}");
    sender.stop().await;
}

#[tokio::test]
async fn the_next_process_begins_where_this_one_ended() {
    let (scratch, sink) = (Scratch::new(), Sink::open().await);
    let sender = start(&scratch, local()).await;
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "one").await;
    sink.answers(OK).await;
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 1).await;
    sender.stop().await;

    // Nothing is delivered meanwhile.
    let feed = open(&scratch).await;
    let draft = common::Draft::new(common::Data::text("two"));
    feed.publish("a".parse().unwrap(), draft).await.unwrap();
    drop(feed);

    let sender = start(&scratch, local()).await;
    assert_eq!(sink.answers(OK).await, "two", "and not one again");
    let last = endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 2).await;
    assert_eq!(last["waiting"], 0);
    sender.stop().await;
}

#[tokio::test]
async fn what_is_dead_stays_listed_with_its_reason() {
    let (scratch, sink) = (Scratch::new(), Sink::open().await);
    let config = Config {
        schedule: Schedule::new([]),
        ..local()
    };
    let sender = start(&scratch, config).await;
    let path = register(&sender, &sink.url()).await;
    let id = publish(&sender, "hello").await;
    sink.answers(FAILED).await;
    endpoint(&sender, &path, |endpoint| endpoint["dead"] == 1).await;
    sender.stop().await;

    let sender = start(&scratch, local()).await;
    assert_eq!(sender.get(&path).await.json()["dead"], 1);
    let deliveries = sender.get(&format!("{path}/deliveries")).await.json();
    let dead = &deliveries["dead"][0];
    assert_eq!((&dead["id"], &dead["attempts"]), (&json!(id), &json!(1)));
    assert_eq!(dead["reason"], "answered 500 Internal Server Error");
    sender.stop().await;
}

#[tokio::test]
async fn who_was_removed_is_not_called_again() {
    let (scratch, sink) = (Scratch::new(), Sink::open().await);
    let sender = start(&scratch, once(3_600)).await;
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "hello").await;
    sink.answers(FAILED).await;
    endpoint(&sender, &path, |endpoint| endpoint["waiting"] == 1).await;
    let client = sender.client();
    let deleted = client.request(hyper::Method::DELETE, &path).send().await;
    assert_eq!(deleted.status, 204);
    sender.stop().await;

    let sender = start(&scratch, local()).await;
    let list = sender.get("/endpoints").await.json();
    assert_eq!(list, json!({"endpoints": []}));
    sender.stop().await;
}

#[tokio::test]
async fn a_slow_answer_holds_up_neither_newer_messages_nor_what_is_recorded_of_them() {
    let (scratch, slow) = (Scratch::new(), Sink::open().await);
    let mut config = local();
    config.server.drain = Duration::ZERO;
    let sender = start(&scratch, config.clone()).await;
    let path = register(&sender, &slow.url()).await;
    publish(&sender, "slow").await;
    let hangs = slow.called().await;
    // More than there are other slots.
    for n in 0..20 {
        publish(&sender, &n.to_string()).await;
        assert_eq!(slow.answers(OK).await, n.to_string());
    }
    endpoint(&sender, &path, |endpoint| {
        endpoint["delivered"].as_u64() >= Some(7)
    })
    .await;
    sender.stop().await;
    drop(hangs);

    // The slow one comes again. Of the others, only those that were not recorded may come again.
    let sender = start(&scratch, config).await;
    let mut again = Vec::new();
    soon(async {
        while !again.contains(&"slow".to_owned()) {
            again.push(slow.answers(OK).await);
        }
    })
    .await;
    assert!(again.len() <= 8, "{again:?}");
    endpoint(&sender, &path, |endpoint| endpoint["waiting"] == 0).await;
    sender.stop().await;
}

#[tokio::test]
async fn what_an_endpoint_has_lost_stays_listed() {
    let (scratch, sink) = (Scratch::new(), Sink::open().await);
    let source = FeedSource::File(scratch.feed());
    let few = Retention {
        messages: 2,
        ..Retention::default()
    };
    let feed = source.open(few, false).await.unwrap();
    let config = Config {
        hold: Duration::ZERO,
        ..local()
    };
    let sender = start_with(feed.clone(), config).await;
    let path = register(&sender, &sink.url()).await;
    let disabled = patch(&sender, &path, json!({"enabled": false})).await;
    assert_eq!(disabled.status, 200);
    let expired = |endpoint: &Value| endpoint["disabled"]["expired"].is_string();
    endpoint(&sender, &path, expired).await;
    for text in ["1", "2", "3"] {
        publish(&sender, text).await;
    }
    soon(async {
        while feed.counts().messages > 2 {
            publish(&sender, "more").await;
        }
    })
    .await;
    drop(feed);
    let enabled = send_json(&sender, &format!("{path}/enable"), "{}").await;
    assert_eq!(enabled.status, 200);
    for _ in 0..2 {
        sink.answers(OK).await;
    }
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 2).await;
    let deliveries = format!("{path}/deliveries");
    let gaps = sender.get(&deliveries).await.json()["gaps"].take();
    assert_eq!(gaps[0]["reason"], "trimmed");
    sender.stop().await;

    let sender = start(&scratch, local()).await;
    assert_eq!(sender.get(&deliveries).await.json()["gaps"], gaps);
    sender.stop().await;
}
