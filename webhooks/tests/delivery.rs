//! What the sender promises to its endpoints, and the receiver to its senders.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{After, Feed, PageLimit, Retention};
use serde_json::{Value, json};
use setup::{
    Called, FAILED, OK, SECRET, SHORT, Sink, endpoint, local, patch, publish, receiver, register,
    register_as, send_json, soon, start, start_with,
};
use webhooks::{
    Config,
    schedule::Schedule,
    verify::{
        Tolerance, Unverified,
        standard::{Secret, verify},
    },
};

fn is_genuine(called: &Called, secret: &str) -> bool {
    let fields = ["webhook-id", "webhook-timestamp", "webhook-signature"];
    let fields = fields.map(|name| (name, called.field(name).as_bytes()));
    let secrets = [secret.parse::<Secret>().unwrap()];
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let body = Unverified::new(&called.body);
    verify(body, fields, &secrets, now, Tolerance::default()).is_ok()
}

/// The payment system and your back end.
#[tokio::test]
async fn the_payment_system_posts_and_hears_200_ok() {
    let (app, received) = receiver().await;
    let payment = start(local()).await;
    let registration =
        json!({"url": app.url("/webhook"), "topics": ["payments"], "secret": SECRET});
    let path = register_as(&payment, registration).await;

    let paid = send_json(
        &payment,
        "/topics/payments?type=payment.succeeded",
        r#"{"status":"success"}"#,
    )
    .await;
    let id = paid.json()["id"].clone();

    let topics = "webhook".parse().unwrap();
    let page = soon(received.next(&topics, &After::Earliest, PageLimit::default()))
        .await
        .unwrap();
    let event: Value = serde_json::from_slice(&page.messages[0].json).unwrap();
    assert_eq!(event["type"], "payment.succeeded");
    assert_eq!(event["data"]["id"], id);
    assert_eq!(
        event["data"]["payload"]["data"],
        json!({"status": "success"})
    );

    endpoint(&payment, &path, |endpoint| endpoint["delivered"] == 1).await;
    let deliveries = payment.get(&format!("{path}/deliveries")).await.json();
    assert_eq!(deliveries["attempts"][0]["status"], 200);
    payment.stop().await;
    app.stop().await;
}

#[tokio::test]
async fn a_delivery_is_these_bytes() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    register(&sender, &format!("{}/é?a=b#c", sink.url())).await;
    let id = publish(&sender, "hello").await;
    let mut called = sink.called().await;
    let host = sink.url().replace("http://", "").replace("/webhook", "");
    let (timestamp, signature) = (
        called.field("webhook-timestamp"),
        called.field("webhook-signature"),
    );
    let head = format!(
        "POST /webhook/%C3%A9?a=b HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
         accept: */*\r\nuser-agent: webhooks/0.1.0\r\nwebhook-id: {id}\r\nwebhook-signature: {signature}\r\n\
         webhook-timestamp: {timestamp}\r\ncontent-length: {}\r\n\r\n",
        called.body.len(),
    );
    assert_eq!(called.head, head);
    let message = String::from_utf8(called.body.clone()).unwrap();
    assert!(
        message.starts_with(&format!(
            r#"{{"id":"{id}","topic":"a","type":"message","timestamp":""#
        )),
        "{message}"
    );
    assert!(message.ends_with(r#","data":"hello"}"#), "{message}");
    assert!(is_genuine(&called, SECRET));
    called.wire.send(OK).await;
    sender.stop().await;
}

#[tokio::test]
async fn the_secret_is_made_of_32_bytes_and_shown_once() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let registration = json!({"url": sink.url(), "topics": ["a"]}).to_string();
    let shown = send_json(&sender, "/endpoints", &registration).await.json();
    let secret = shown["secret"].as_str().unwrap();
    assert_eq!(secret.parse::<Secret>().unwrap().key().len(), 32);
    let path = format!("/endpoints/{}", shown["id"].as_str().unwrap());
    for path in ["/endpoints", &path] {
        assert!(!sender.get(path).await.text().contains("secret"), "{path}");
    }
    publish(&sender, "hello").await;
    let mut called = sink.called().await;
    assert!(is_genuine(&called, secret));
    called.wire.send(OK).await;
    sender.stop().await;
}

#[tokio::test]
async fn a_repeat_is_the_same_message_signed_anew() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    register(&sender, &sink.url()).await;
    publish(&sender, "hello").await;
    let mut first = sink.called().await;
    let closing = "HTTP/1.1 500 E\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    first.wire.send(closing).await;
    let mut second = sink.called().await;
    second.wire.send(OK).await;
    assert_eq!(first.field("webhook-id"), second.field("webhook-id"));
    assert_eq!(first.body, second.body);
    assert!(is_genuine(&first, SECRET) && is_genuine(&second, SECRET));
    sender.stop().await;
}

#[tokio::test]
async fn only_a_whole_2xx_head_counts() {
    let sender = start(local()).await;
    let answer = |status: &str| {
        format!(
            "HTTP/1.1 {status}\r\nContent-Length: 0\r\nLocation: http://169.254.169.254/\r\n\r\n"
        )
    };
    for (bytes, counts) in [
        (answer("200 OK"), true),
        (answer("202 Accepted"), true),
        ("HTTP/1.1 204 No Content\r\n\r\n".into(), true),
        (format!("HTTP/1.1 103 Early Hints\r\n\r\n{OK}"), true),
        ("HTTP/1.0 200\r\n\r\nuntil the close".into(), true),
        (answer("301 Moved Permanently"), false),
        (answer("307 Temporary Redirect"), false),
        (answer("400 Bad Request"), false),
        (answer("410 Gone"), false),
        (answer("503 Service Unavailable"), false),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nshor".into(),
            true,
        ),
        (
            "HTTP/1.1 500 E\r\nContent-Length: 5\r\n\r\nshor".into(),
            false,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n".into(), false),
        ("SSH-2.0-OpenSSH\r\n\r\n".into(), false),
        ("".into(), false),
    ] {
        let sink = Sink::open().await;
        let path = register(&sender, &sink.url()).await;
        publish(&sender, "hello").await;
        sink.answers(&bytes).await;
        let attempted =
            |endpoint: &Value| endpoint["delivered"] == 1 || endpoint["last_error"].is_string();
        let endpoint = endpoint(&sender, &path, attempted).await;
        assert_eq!(endpoint["delivered"] == 1, counts, "{bytes:?}: {endpoint}");
        let client = sender.client();
        client.request(hyper::Method::DELETE, &path).send().await;
    }
    sender.stop().await;
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_is_told() {
    let (sender, sink, elsewhere) = (start(local()).await, Sink::open().await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "hello").await;
    let redirect = format!(
        "HTTP/1.1 307 T\r\nContent-Length: 0\r\nLocation: {}\r\n\r\n",
        elsewhere.url()
    );
    sink.answers(&redirect).await;
    // The next attempt is at the same place.
    sink.answers(OK).await;
    let endpoint = endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 1).await;
    let told = format!(
        "answered 307 Temporary Redirect; not followed to {}",
        elsewhere.url()
    );
    assert_eq!(endpoint["last_error"], told);
    sender.stop().await;
}

#[tokio::test]
async fn a_message_that_failed_does_not_hold_up_newer_ones() {
    let config = Config {
        schedule: Schedule::new([Duration::from_secs(3_600)]),
        ..local()
    };
    let (sender, sink) = (start(config).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "poison").await;
    assert_eq!(sink.answers(FAILED).await, "poison");
    publish(&sender, "newer").await;
    assert_eq!(sink.answers(OK).await, "newer");
    let endpoint = endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 1).await;
    assert_eq!(
        (&endpoint["waiting"], &endpoint["dead"]),
        (&json!(1), &json!(0))
    );
}

#[tokio::test]
async fn a_slow_endpoint_and_a_dead_one_delay_no_other() {
    let (sender, slow, good) = (start(local()).await, Sink::open().await, Sink::open().await);
    let dead = Sink::open().await.url();
    for url in [slow.url(), dead, good.url()] {
        register(&sender, &url).await;
    }
    // More than the slow endpoint may have in flight.
    for n in 0..20 {
        let text = n.to_string();
        publish(&sender, &text).await;
        assert_eq!(good.answers(OK).await, text);
    }
}

#[tokio::test]
async fn after_the_schedule_a_delivery_is_dead_and_listed_with_its_reason() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    let id = publish(&sender, "hello").await;
    for _ in 0..3 {
        sink.answers(FAILED).await;
    }
    endpoint(&sender, &path, |endpoint| endpoint["dead"] == 1).await;
    let deliveries = sender.get(&format!("{path}/deliveries")).await.json();
    let dead = &deliveries["dead"][0];
    assert_eq!((&dead["id"], &dead["attempts"]), (&json!(id), &json!(3)));
    assert_eq!(dead["reason"], "answered 500 Internal Server Error");
    let attempts = deliveries["attempts"].as_array().unwrap();
    for (attempt, number) in attempts.iter().zip(1..) {
        assert_eq!(
            (&attempt["id"], &attempt["attempt"]),
            (&json!(id), &json!(number))
        );
        assert_eq!(
            (&attempt["status"], &attempt["error"]),
            (&json!(500), &json!("status"))
        );
        assert_eq!(attempt["next_attempt"].is_string(), number < 3);
    }
    // A dead message is settled: nothing is owed.
    sender.stop().await;
}

#[tokio::test]
async fn each_class_of_failure_has_its_word() {
    let config = Config {
        attempt_timeout: SHORT,
        schedule: Schedule::new([]),
        ..local()
    };
    let sender = start(config).await;
    let (silent, rude) = (Sink::open().await, Sink::open().await);
    let closed = Sink::open().await.url();
    for (url, class) in [
        (closed.as_str(), "connect"),
        (&silent.url(), "timeout"),
        (&rude.url(), "broken"),
        ("http://name.invalid/", "dns"),
    ] {
        let path = register(&sender, url).await;
        publish(&sender, "hello").await;
        if class == "broken" {
            sink_resets(&rude).await;
        }
        endpoint(&sender, &path, |endpoint| endpoint["dead"] == 1).await;
        let deliveries = sender.get(&format!("{path}/deliveries")).await.json();
        assert_eq!(
            deliveries["attempts"][0]["error"], class,
            "{url}: {deliveries}"
        );
        sender
            .client()
            .request(hyper::Method::DELETE, &path)
            .send()
            .await;
    }
    sender.stop().await;
}

async fn sink_resets(sink: &Sink) {
    sink.called().await.wire.reset();
}

#[tokio::test]
async fn only_the_topics_and_types_asked_for_are_delivered() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let registration = json!({"url": sink.url(), "topics": ["a", "b"], "types": ["x", "y"]});
    let path = register_as(&sender, registration).await;
    for (topic, kind, text) in [
        ("a", "x", "1"),
        ("a", "z", "no"),
        ("c", "x", "no"),
        ("a", "message", "no"),
        ("b", "y", "2"),
    ] {
        sender
            .post(&format!("/topics/{topic}?type={kind}"), text)
            .await;
    }
    let mut got = [sink.answers(OK).await, sink.answers(OK).await];
    got.sort();
    assert_eq!(got, ["1", "2"]);
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 2).await;
    sender.stop().await;
}

#[tokio::test]
async fn an_endpoint_gets_what_is_published_after_it_registered() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    publish(&sender, "before").await;
    register(&sender, &sink.url()).await;
    publish(&sender, "after").await;
    assert_eq!(sink.answers(OK).await, "after");
    sender.stop().await;
}

#[tokio::test]
async fn retry_after_leaves_the_whole_endpoint_alone() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "first").await;
    let busy = "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nRetry-After: 3600\r\n\r\n";
    sink.answers(busy).await;
    let paused = endpoint(&sender, &path, |endpoint| endpoint["waiting"] == 1).await;
    let later = publish(&sender, "later").await;
    let still = sender.get(&path).await.json();
    assert_eq!(still["after"], paused["after"], "{later} is not claimed");
    let attempts = sender.get(&format!("{path}/deliveries")).await.json();
    let attempt = &attempts["attempts"][0];
    let time = |field: &str| humantime::parse_rfc3339(attempt[field].as_str().unwrap()).unwrap();
    let pause = time("next_attempt").duration_since(time("at")).unwrap();
    assert!((3_600..3_660).contains(&pause.as_secs()), "{pause:?}");
}

#[tokio::test]
async fn a_short_retry_after_ends_and_everything_arrives() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    register(&sender, &sink.url()).await;
    publish(&sender, "first").await;
    sink.answers("HTTP/1.1 503 S\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n")
        .await;
    publish(&sender, "later").await;
    let mut got = [sink.answers(OK).await, sink.answers(OK).await];
    got.sort();
    assert_eq!(got, ["first", "later"]);
    sender.stop().await;
}

#[tokio::test]
async fn what_an_endpoint_has_not_got_is_kept_whatever_the_retention() {
    let feed = Feed::new(Retention {
        messages: 2,
        ..Retention::default()
    });
    let (sender, sink) = (start_with(feed.clone(), local()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "1").await;
    let busy = "HTTP/1.1 503 S\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n";
    sink.answers(busy).await;
    endpoint(&sender, &path, |endpoint| endpoint["waiting"] == 1).await;
    for text in ["2", "3", "4", "5"] {
        publish(&sender, text).await;
    }
    let mut got = Vec::new();
    for _ in 0..5 {
        got.push(sink.answers(OK).await);
    }
    got.sort();
    assert_eq!(got, ["1", "2", "3", "4", "5"]);
    let deliveries = sender.get(&format!("{path}/deliveries")).await.json();
    assert_eq!(deliveries["gaps"], json!([]));
    // When the endpoint has them, they are dropped.
    soon(async {
        while feed.counts().messages > 2 {
            publish(&sender, "more").await;
            sink.answers(OK).await;
        }
    })
    .await;
    sender.stop().await;
}

#[tokio::test]
async fn a_feed_that_is_full_of_what_is_owed_answers_503_until_there_is_room() {
    let feed = Feed::new(Retention {
        total_bytes: 2_000,
        ..Retention::default()
    });
    let (sender, sink) = (start_with(feed, local()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    let disabled = patch(&sender, &path, json!({"enabled": false})).await;
    assert_eq!(disabled.status, 200);
    let mut accepted = 0;
    let refused = soon(async {
        loop {
            let reply = sender.post("/topics/a", "hello").await;
            match reply.status.as_u16() {
                201 => accepted += 1,
                _ => break reply,
            }
        }
    })
    .await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("retry-after").is_some());

    send_json(&sender, &format!("{path}/enable"), "{}").await;
    for _ in 0..accepted {
        sink.answers(OK).await;
    }
    // The pins are updated within a second.
    soon(async { while sender.post("/topics/a", "again").await.status != 201 {} }).await;
    assert_eq!(sink.answers(OK).await, "again");
    endpoint(&sender, &path, |endpoint| {
        endpoint["delivered"] == accepted + 1
    })
    .await;
    sender.stop().await;
}

#[tokio::test]
async fn the_last_hundred_attempts_are_listed_and_the_beginning_of_the_last_sixteen_answers() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 1100\r\n\r\n{}",
        "x".repeat(1_100)
    );
    for delivered in 1..=101 {
        publish(&sender, "hello").await;
        sink.answers(&answer).await;
        endpoint(&sender, &path, |it| it["delivered"] == delivered).await;
    }
    let deliveries = sender.get(&format!("{path}/deliveries")).await.json();
    let attempts = deliveries["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 100);
    assert!(attempts[0]["id"].as_str().unwrap().ends_with("-2"));
    let shown = |attempt: &Value| attempt["answer"].as_str().map(str::len);
    assert!(
        attempts[..84]
            .iter()
            .all(|attempt| shown(attempt).is_none())
    );
    assert!(
        attempts[84..]
            .iter()
            .all(|attempt| shown(attempt) == Some(1_024))
    );
}

/// How the operator is notified.
async fn told(sink: &Sink) -> Value {
    let mut called = sink.called().await;
    called.wire.send(OK).await;
    serde_json::from_slice(&called.body).unwrap()
}

#[tokio::test]
async fn the_operator_is_told_of_what_fails_what_is_disabled_and_what_is_dead() {
    let config = Config {
        schedule: Schedule::new([]),
        ..local()
    };
    let (sender, sink, operator) = (start(config).await, Sink::open().await, Sink::open().await);
    let registration = json!({"url": operator.url(), "topics": ["webhooks.endpoints"]});
    register_as(&sender, registration).await;
    let path = register(&sender, &sink.url()).await;
    for _ in 0..3 {
        let id = publish(&sender, "hello").await;
        sink.answers(FAILED).await;
        let mut event = told(&operator).await;
        if event["type"] == "endpoint.failing" {
            assert_eq!(event["data"]["error"], "answered 500 Internal Server Error");
            event = told(&operator).await;
        }
        assert_eq!(event["type"], "delivery.dead");
        let data = &event["data"];
        assert_eq!((&data["id"], &data["attempts"]), (&json!(id), &json!(1)));
        assert!(path.ends_with(data["endpoint"].as_str().unwrap()));
    }
    publish(&sender, "last").await;
    sink.answers("HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
        .await;
    let mut types = Vec::new();
    for _ in 0..2 {
        types.push(told(&operator).await["type"].as_str().unwrap().to_owned());
    }
    types.sort();
    assert_eq!(types, ["delivery.dead", "endpoint.disabled"]);
    let forged = sender.post("/topics/webhooks.endpoints", "forged").await;
    assert_eq!(forged.status, 403);
}

/// Otherwise each such message would cause the next.
#[tokio::test]
async fn the_operator_is_not_told_that_it_was_not_told() {
    let config = Config {
        schedule: Schedule::new([]),
        ..local()
    };
    let (sender, sink) = (start(config).await, Sink::open().await);
    let registration = json!({"url": sink.url(), "topics": ["a", "webhooks.endpoints"]});
    let path = register_as(&sender, registration).await;
    publish(&sender, "hello").await;
    for _ in 0..2 {
        sink.answers_anything(FAILED).await;
    }
    endpoint(&sender, &path, |endpoint| endpoint["dead"] == 2).await;
    publish(&sender, "next").await;
    assert_eq!(sink.answers(OK).await, "next");
}

#[tokio::test]
async fn the_settings_of_an_endpoint_are_followed_and_what_may_be_secret_is_not_shown() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let registration = json!({
        "url": sink.url(), "topics": ["a"], "headers": {"Authorization": "Bearer hunter2"},
        "timeout": 1, "concurrency": 2,
    });
    let path = register_as(&sender, registration).await;
    let shown = sender.get(&path).await;
    assert!(!shown.text().contains("hunter2"));
    let shown = shown.json();
    assert_eq!(shown["headers"], json!(["Authorization"]));
    assert_eq!(
        (&shown["timeout"], &shown["concurrency"]),
        (&json!(1), &json!(2))
    );
    for _ in 0..3 {
        publish(&sender, "hello").await;
    }
    let called = sink.called().await;
    assert_eq!(called.field("authorization"), "Bearer hunter2");
    endpoint(&sender, &path, |endpoint| endpoint["in_flight"] == 2).await;
    let silent = |endpoint: &Value| endpoint["last_error"] == "no answer within 1 s";
    endpoint(&sender, &path, silent).await;
    let cleared = json!({"headers": null, "timeout": null, "concurrency": null});
    let changed = patch(&sender, &path, cleared).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    for field in ["headers", "timeout", "concurrency"] {
        assert_eq!(changed.json()[field], Value::Null);
    }
}

#[tokio::test]
async fn in_order_a_message_waits_until_the_one_before_is_delivered() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let registration = json!({"url": sink.url(), "topics": ["a"], "ordered": true});
    let path = register_as(&sender, registration).await;
    for text in ["1", "2", "3"] {
        publish(&sender, text).await;
    }
    for (text, answer) in [
        ("1", FAILED),
        ("1", OK),
        ("2", FAILED),
        ("2", FAILED),
        ("2", OK),
        ("3", OK),
    ] {
        let closing = answer.replace("Content-Length", "Connection: close\r\nContent-Length");
        assert_eq!(sink.answers(&closing).await, text);
    }
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 3).await;
    sender.stop().await;
}
