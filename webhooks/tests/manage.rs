//! What can be done with a registered endpoint.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Feed, Retention};
use harness::TestServer;
use serde_json::{Value, json};
use setup::{
    Called, FAILED, OK, SECRET, Sink, endpoint, local, patch, publish, register, send_json, soon,
    start, start_with,
};
use webhooks::{
    Config,
    schedule::Schedule,
    verify::{
        Tolerance, Unverified,
        standard::{Secret, verify},
    },
};

const GONE: &str = "HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n";

fn is_genuine(called: &Called, secret: &str) -> bool {
    let fields = ["webhook-id", "webhook-timestamp", "webhook-signature"];
    let fields = fields.map(|name| (name, called.field(name).as_bytes()));
    let secrets = [secret.parse::<Secret>().unwrap()];
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let body = Unverified::new(&called.body);
    verify(body, fields, &secrets, now.as_secs(), Tolerance::default()).is_ok()
}

async fn post(sender: &TestServer, path: &str, body: Value) -> Value {
    let reply = send_json(sender, path, &body.to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// A schedule without retries.
fn never_again() -> Config {
    Config {
        schedule: Schedule::new([]),
        ..local()
    }
}

#[tokio::test]
async fn an_endpoint_is_called_elsewhere_and_about_something_else_after_a_change() {
    let (sender, old, new) = (start(local()).await, Sink::open().await, Sink::open().await);
    let path = register(&sender, &old.url()).await;
    publish(&sender, "old").await;
    assert_eq!(old.answers(OK).await, "old");
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 1).await;
    let change = json!({"url": new.url(), "topics": ["a", "b"], "types": ["x"]});
    let changed = patch(&sender, &path, change).await.json();
    assert_eq!(changed["url"], new.url());
    assert_eq!(changed["topics"], json!(["a", "b"]));
    publish(&sender, "of another type").await;
    sender.post("/topics/b?type=x", "new").await;
    assert_eq!(new.answers(OK).await, "new");
    let changed = patch(&sender, &path, json!({"types": null})).await.json();
    assert_eq!(
        (&changed["types"], &changed["url"]),
        (&json!(null), &json!(new.url()))
    );
    publish(&sender, "any").await;
    assert_eq!(new.answers(OK).await, "any");
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 3).await;
    sender.stop().await;
}

#[tokio::test]
async fn after_a_rotation_the_new_secret_signs_first_and_the_old_one_along() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    let rotated = post(&sender, &format!("{path}/rotate"), json!({})).await;
    let new = rotated["secret"].as_str().unwrap();
    assert_eq!(new.parse::<Secret>().unwrap().key().len(), 32);
    publish(&sender, "hello").await;
    let mut called = sink.called().await;
    called.wire.send(OK).await;
    assert!(is_genuine(&called, new) && is_genuine(&called, SECRET));
    let first = called.field("webhook-signature").split(' ').next().unwrap();
    let only_first = called
        .head
        .replace(called.field("webhook-signature"), first);
    let only_first = Called {
        head: only_first,
        ..called
    };
    assert!(is_genuine(&only_first, new));
    assert!(!sender.get(&path).await.text().contains("secret"));
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 1).await;
    sender.stop().await;
}

#[tokio::test]
async fn of_secrets_at_most_ten_sign_at_one_time() {
    let sender = start(local()).await;
    let path = register(&sender, &Sink::open().await.url()).await;
    let rotate = format!("{path}/rotate");
    for _ in 1..10 {
        post(&sender, &rotate, json!({})).await;
    }
    let reply = send_json(&sender, &rotate, "{}").await;
    assert_eq!(reply.status, 409, "{}", reply.text());
    sender.stop().await;
}

/// serde alone would read the fields of a struct from an array.
#[tokio::test]
async fn an_array_is_no_command() {
    let sender = start(local()).await;
    let path = register(&sender, "http://127.0.0.1:1/").await;
    for (command, body) in [
        ("enable", "[]"),
        ("test", " []"),
        ("rotate", "[null]"),
        ("replay", r#"["earliest"]"#),
        ("dead/a-1/retry", "[]"),
    ] {
        let reply = send_json(&sender, &format!("{path}/{command}"), body).await;
        assert_eq!(reply.status, 400, "{command}: {}", reply.text());
    }
    sender.stop().await;
}

#[tokio::test]
async fn who_answers_410_is_not_called_until_it_is_enabled_and_then_gets_what_it_missed() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    let first = publish(&sender, "first").await;
    sink.answers(GONE).await;
    let gone = endpoint(&sender, &path, |endpoint| endpoint["disabled"].is_object()).await;
    assert_eq!(gone["disabled"]["reason"], "answered 410 Gone");
    endpoint(&sender, &path, |endpoint| endpoint["dead"] == 1).await;
    publish(&sender, "missed").await;

    let enabled = post(&sender, &format!("{path}/enable"), json!({})).await;
    assert_eq!(enabled["disabled"], json!(null));
    assert_eq!(sink.answers(OK).await, "missed");
    // The refused message is dead, and is sent when its retry is requested.
    post(&sender, &format!("{path}/dead/{first}/retry"), json!({})).await;
    assert_eq!(sink.answers(OK).await, "first");
    let last = endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 2).await;
    assert_eq!(last["dead"], 0);
    sender.stop().await;
}

#[tokio::test]
async fn who_has_only_failed_for_too_long_is_disabled() {
    let config = Config {
        give_up: Duration::ZERO,
        ..never_again()
    };
    let (sender, sink) = (start(config).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    for failed in 1..=5 {
        publish(&sender, "hello").await;
        sink.answers(FAILED).await;
        endpoint(&sender, &path, |endpoint| endpoint["dead"] == failed).await;
    }
    let disabled = |endpoint: &Value| endpoint["disabled"].is_object();
    let disabled = endpoint(&sender, &path, disabled).await;
    assert_eq!(disabled["disabled"]["reason"], "no success for 0s");
    sender.stop().await;
}

#[tokio::test]
async fn an_endpoint_can_be_disabled_by_hand() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    let disabled = patch(&sender, &path, json!({"enabled": false}))
        .await
        .json();
    assert_eq!(disabled["disabled"]["reason"], "by hand");
    publish(&sender, "hello").await;
    let enabled = patch(&sender, &path, json!({"enabled": true})).await.json();
    assert_eq!(enabled["disabled"], json!(null));
    assert_eq!(sink.answers(OK).await, "hello");
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 1).await;
    sender.stop().await;
}

#[tokio::test]
async fn for_who_is_disabled_too_long_nothing_is_kept_and_that_is_told() {
    let feed = Feed::new(Retention {
        messages: 2,
        ..Retention::default()
    });
    let config = Config {
        hold: Duration::ZERO,
        schedule: Schedule::new([Duration::from_secs(3_600)]),
        ..local()
    };
    let (sender, sink) = (start_with(feed.clone(), config).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    let first = publish(&sender, "first").await;
    sink.answers(FAILED).await;
    endpoint(&sender, &path, |endpoint| endpoint["waiting"] == 1).await;
    patch(&sender, &path, json!({"enabled": false})).await;
    let expired = |endpoint: &Value| endpoint["disabled"]["expired"].is_string();
    let expired = endpoint(&sender, &path, expired).await;
    assert_eq!(
        (&expired["waiting"], &expired["dead"]),
        (&json!(0), &json!(1))
    );
    let deliveries = sender.get(&format!("{path}/deliveries")).await.json();
    let dead = &deliveries["dead"][0];
    assert_eq!(dead["id"], json!(first));
    let reason = "held for too long; answered 500 Internal Server Error";
    assert_eq!(dead["reason"], reason);

    for text in ["2", "3", "4", "5", "6", "7"] {
        publish(&sender, text).await;
    }
    soon(async {
        while feed.counts().messages > 2 {
            publish(&sender, "8").await;
        }
    })
    .await;
    post(&sender, &format!("{path}/enable"), json!({})).await;
    for _ in 0..2 {
        sink.answers(OK).await;
    }
    let delivered = |endpoint: &Value| endpoint["delivered"] == 2;
    endpoint(&sender, &path, delivered).await;
    let deliveries = sender.get(&format!("{path}/deliveries")).await.json();
    assert_eq!(deliveries["gaps"][0]["reason"], "trimmed");
    sender.stop().await;
}

#[tokio::test]
async fn a_change_whose_asker_leaves_is_made_all_the_same() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "hello").await;
    // The change waits for the attempt, and then cuts it.
    let hangs = sink.called().await;
    let mut wire = sender.wire().await;
    let body = r#"{"topics":["a","b"]}"#;
    wire.send(format!(
        "PATCH {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
    .await;
    drop(wire);
    let topics = json!(["a", "b"]);
    endpoint(&sender, &path, |endpoint| endpoint["topics"] == topics).await;
    assert_eq!(sink.answers(OK).await, "hello");
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 1).await;
    drop(hangs);
    sender.stop().await;
}

#[tokio::test]
async fn a_replay_delivers_the_same_messages_again() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    let mut ids = Vec::new();
    for text in ["one", "two"] {
        ids.push(publish(&sender, text).await);
        sink.answers(OK).await;
    }
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 2).await;
    let replay = format!("{path}/replay");
    post(&sender, &replay, json!({"after": ids[0]})).await;
    let mut again = sink.called().await;
    again.wire.send(OK).await;
    assert_eq!(again.field("webhook-id"), ids[1]);
    drop(again);
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 3).await;
    post(&sender, &replay, json!({"after": "earliest"})).await;
    let mut got = [sink.answers(OK).await, sink.answers(OK).await];
    got.sort();
    assert_eq!(got, ["one", "two"]);
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 5).await;

    for (after, detail) in [
        ("another-1", "after: the feed has no such position"),
        ("soon", "after: "),
    ] {
        let reply = send_json(&sender, &replay, &json!({"after": after}).to_string()).await;
        assert_eq!(reply.status, 400, "{}", reply.text());
        let told = reply.json()["detail"].as_str().unwrap().to_owned();
        assert!(told.starts_with(detail), "{told}");
    }
    sender.stop().await;
}

#[tokio::test]
async fn a_delivery_that_waits_for_a_later_attempt_is_attempted_at_once_on_request() {
    let config = Config {
        schedule: Schedule::new([Duration::from_secs(3_600)]),
        ..local()
    };
    let (sender, sink) = (start(config).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    let id = publish(&sender, "hello").await;
    sink.answers(FAILED).await;
    endpoint(&sender, &path, |endpoint| endpoint["waiting"] == 1).await;
    post(&sender, &format!("{path}/dead/{id}/retry"), json!({})).await;
    assert_eq!(sink.answers(OK).await, "hello");
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 1).await;
    sender.stop().await;
}

#[tokio::test]
async fn what_is_delivered_or_unknown_cannot_be_tried_again() {
    let (sender, sink) = (start(never_again()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    let id = publish(&sender, "hello").await;
    sink.answers(OK).await;
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 1).await;
    for id in [&id, "a-1", "nothing"] {
        let reply = send_json(&sender, &format!("{path}/dead/{id}/retry"), "{}").await;
        assert_eq!(reply.status, 404, "{id}");
    }
    sender.stop().await;
}

#[tokio::test]
async fn a_change_that_is_none_is_refused() {
    let sender = start(local()).await;
    let path = register(&sender, &Sink::open().await.url()).await;
    for change in [
        json!({"url": "ftp://example.com/"}),
        json!({"url": "http://10.0.0.1/"}),
        json!({"topics": []}),
        json!({"types": []}),
        json!({"secret": SECRET}),
        json!({"enabled": 1}),
        json!({"concurrency": 9}),
    ] {
        let reply = patch(&sender, &path, change.clone()).await;
        assert_eq!(reply.status, 400, "{change}");
        let says_where = reply.text().contains("POST /endpoints/{id}/rotate");
        assert_eq!(
            says_where,
            change.get("secret").is_some(),
            "{}",
            reply.text()
        );
    }
    for (part, body) in [
        ("rotate", r#"{"secret":"whsec_AAAA"}"#),
        ("enable", r#"{"now":true}"#),
        ("replay", "{}"),
    ] {
        let reply = send_json(&sender, &format!("{path}/{part}"), body).await;
        assert_eq!(reply.status, 400, "{part}");
        let reply = sender.get(&format!("{path}/{part}")).await;
        assert_eq!(
            (reply.status.as_u16(), reply.header("allow")),
            (405, Some("POST")),
            "{part}"
        );
        let reply = sender.post(&format!("{path}/{part}"), body).await;
        assert_eq!(reply.status, 415, "{part}");
    }
    sender.stop().await;
}

#[tokio::test]
async fn a_replay_takes_up_what_is_dead_and_what_waits() {
    let hour = Schedule::new([Duration::from_secs(3_600)]);
    for (schedule, state) in [(Schedule::new([]), "dead"), (hour, "waiting")] {
        let config = Config {
            schedule,
            ..local()
        };
        let (sender, sink) = (start(config).await, Sink::open().await);
        let path = register(&sender, &sink.url()).await;
        publish(&sender, "one").await;
        sink.answers(FAILED).await;
        endpoint(&sender, &path, |endpoint| endpoint[state] == 1).await;
        publish(&sender, "two").await;
        sink.answers(OK).await;
        endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 1).await;

        post(
            &sender,
            &format!("{path}/replay"),
            json!({"after": "earliest"}),
        )
        .await;
        let mut got = [sink.answers(OK).await, sink.answers(OK).await];
        got.sort();
        assert_eq!(got, ["one", "two"], "{state}");
        let last = endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 3).await;
        let left = (&last["waiting"], &last["dead"]);
        assert_eq!(left, (&json!(0), &json!(0)), "{state}");
        sender.stop().await;
    }
}

#[tokio::test]
async fn a_hundred_dead_deliveries_are_shown_and_older_ones_when_asked_for() {
    let (sender, sink) = (start(never_again()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    let mut ids = Vec::new();
    let shown = async |count: usize, query: &str| {
        endpoint(&sender, &path, |endpoint| endpoint["dead"] == count).await;
        let path = format!("{path}/deliveries{query}");
        let dead = sender.get(&path).await.json()["dead"].take();
        let dead = dead.as_array().unwrap().clone();
        let dead = dead
            .iter()
            .map(|one| one["id"].as_str().unwrap().to_owned());
        dead.collect::<Vec<_>>()
    };
    for _ in 0..100 {
        ids.push(publish(&sender, "x").await);
        sink.answers(FAILED).await;
    }
    let before = |id: &str| format!("?before={id}");
    assert_eq!(shown(100, "").await, ids);
    assert!(shown(100, &before(&ids[0])).await.is_empty());
    ids.push(publish(&sender, "x").await);
    sink.answers(FAILED).await;
    assert_eq!(shown(101, "").await, ids[1..]);
    assert_eq!(shown(101, &before(&ids[1])).await, ids[..1]);

    for bad in ["soon", "x-9223372036854775808", "x-18446744073709551615"] {
        let refused = sender
            .get(&format!("{path}/deliveries{}", before(bad)))
            .await;
        assert_eq!(refused.status, 400, "{bad}");
        assert!(refused.text().contains("before"), "{}", refused.text());
    }
    sender.stop().await;
}

#[tokio::test]
async fn a_repeated_registration_with_the_same_key_is_the_same_endpoint() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let register = async |body: Value, key: &'static str| {
        let client = sender.client();
        let request = client.post("/endpoints", body.to_string());
        let request = request.header("content-type", "application/json");
        request.header("idempotency-key", key).send().await
    };
    let body = json!({"url": sink.url(), "topics": ["a"]});
    let first = register(body.clone(), "k1").await;
    let again = register(body.clone(), "k1").await;
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (201, 200));
    // The first answer may be lost, and the secret with it.
    assert_eq!(first.json(), again.json());
    assert_eq!(first.header("location"), again.header("location"));
    let other = register(json!({"url": sink.url(), "topics": ["b"]}), "k1").await;
    let detail = "Idempotency-Key k1 was used for another endpoint";
    assert_eq!(
        (other.status.as_u16(), &other.json()["detail"]),
        (422, &json!(detail))
    );
    assert_eq!(register(body, "k2").await.status, 201);
    let all = sender.get("/endpoints").await.json();
    assert_eq!(all["endpoints"].as_array().unwrap().len(), 2);
    sender.stop().await;
}

#[tokio::test]
async fn a_test_is_one_signed_message_and_its_result_is_the_answer() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    let test = format!("{path}/test");
    for (answer, status) in [(OK, 200), (FAILED, 500)] {
        let asking = send_json(&sender, &test, "{}");
        let answering = async {
            let mut called = sink.called().await;
            called.wire.send(answer).await;
            called
        };
        let (reply, called) = tokio::join!(asking, answering);
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.json()["status"], status);
        assert!(is_genuine(&called, SECRET));
        let message: Value = serde_json::from_slice(&called.body).unwrap();
        assert_eq!(
            (&message["topic"], &message["type"]),
            (&json!("a"), &json!("webhooks.test"))
        );
        assert_eq!(message["id"], called.field("webhook-id"));
    }
    let shown = sender.get(&path).await.json();
    assert_eq!(
        (&shown["delivered"], &shown["last_error"]),
        (&json!(0), &Value::Null)
    );
    sender.stop().await;
}
