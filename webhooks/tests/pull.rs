//! Who cannot be called fetches, and misses nothing.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use common::{Feed, Retention};
use harness::{Client, TestServer};
use serde_json::{Value, json};
use setup::{
    OK, Scratch, Sink, endpoint, local, patch, publish, register, register_as, send_json, soon,
    start, start_with,
};

/// An endpoint that is not called.
async fn disabled(sender: &TestServer, registration: Value) -> String {
    let path = register_as(sender, registration).await;
    let reply = patch(sender, &path, json!({"enabled": false})).await;
    assert_eq!(reply.status, 200);
    path
}

fn quiet(topics: &[&str]) -> Value {
    json!({"url": "http://127.0.0.1:9/", "topics": topics})
}

fn ids(page: &Value) -> Vec<&str> {
    let messages = page["messages"].as_array().unwrap().iter();
    messages
        .map(|message| message["id"].as_str().unwrap())
        .collect()
}

async fn waits(feed: &Feed) {
    soon(async {
        while feed.waiters() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn while_it_is_called_an_endpoint_does_not_fetch() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    let reply = sender.get(&format!("{path}/messages")).await;
    assert_eq!(reply.status, 409, "{}", reply.text());
    let reply = sender.post(&format!("{path}/messages"), "").await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("allow")),
        (405, Some("GET, HEAD"))
    );
    sender.stop().await;
}

#[tokio::test]
async fn what_it_fetches_is_what_it_would_have_been_called_about() {
    let sender = start(local()).await;
    publish(&sender, "before").await;
    let mut registration = quiet(&["a", "b"]);
    registration["types"] = json!(["x"]);
    let path = disabled(&sender, registration).await;
    let messages = format!("{path}/messages");
    let mut published = Vec::new();
    for target in ["a?type=x", "c?type=x", "a?type=y", "b?type=x"] {
        let reply = sender.post(&format!("/topics/{target}"), "hello").await;
        published.push(reply.json()["id"].as_str().unwrap().to_owned());
    }
    let page = sender.get(&messages).await.json();
    assert_eq!(ids(&page), [published[0].as_str(), &published[3]]);
    assert_eq!(
        (&page["next"], &page["gap"]),
        (&json!(published[3]), &json!(null))
    );
    // It is given again until it says that it has it.
    let again = sender.get(&messages).await.json();
    assert_eq!(again, page);
    let rest = sender
        .get(&format!("{messages}?after={}", published[0]))
        .await
        .json();
    assert_eq!(ids(&rest), [&published[3]]);
    let rest = sender.get(&messages).await.json();
    assert_eq!(ids(&rest), [&published[3]], "the first is acknowledged");
    for bad in ["after=x", "wait=x", "wait=", "after=earliest&after=latest"] {
        let reply = sender.get(&format!("{messages}?{bad}")).await;
        assert_eq!(reply.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn who_waits_is_answered_with_the_message_and_by_the_drain_with_none() {
    let feed = Feed::new(Retention::default());
    let sender = start_with(feed.clone(), local()).await;
    let path = disabled(&sender, quiet(&["a"])).await;
    let messages = format!("{path}/messages?wait=30");
    let ask = |client: Client, path: String| {
        tokio::spawn(async move { client.get(&path).send().await.json() })
    };
    let waiting = ask(sender.client(), messages.clone());
    waits(&feed).await;
    let id = publish(&sender, "hello").await;
    let page = soon(waiting).await.unwrap();
    assert_eq!(ids(&page), [&id]);
    let mut wire = sender.wire().await;
    wire.send(format!(
        "GET {messages}&after={id} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    ))
    .await;
    waits(&feed).await;
    sender.shut_down();
    let reply = wire.read_response().await;
    let page: Value = serde_json::from_str(reply.text()).unwrap();
    assert_eq!((reply.status, ids(&page).len()), (200, 0));
}

#[tokio::test]
async fn what_was_acknowledged_is_not_delivered_later_and_not_after_a_restart() {
    let scratch = Scratch::new();
    let open = async || {
        let source: common::FeedSource = format!("file:{}", scratch.feed().display())
            .parse()
            .unwrap();
        soon(async {
            loop {
                match source.open(Retention::default(), false).await {
                    Ok(feed) => return feed,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        })
        .await
    };
    let (sender, sink) = (start_with(open().await, local()).await, Sink::open().await);
    let path = disabled(&sender, json!({"url": sink.url(), "topics": ["a"]})).await;
    let first = publish(&sender, "first").await;
    publish(&sender, "second").await;
    let reply = sender.get(&format!("{path}/messages?after={first}")).await;
    assert_eq!(ids(&reply.json()).len(), 1);
    sender.stop().await;

    let sender = start_with(open().await, local()).await;
    assert!(sender.get(&path).await.json()["disabled"].is_object());
    send_json(&sender, &format!("{path}/enable"), "{}").await;
    assert_eq!(sink.answers(OK).await, "second");
    let last = endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 1).await;
    assert_eq!(last["waiting"], 0);
    sender.stop().await;
}
