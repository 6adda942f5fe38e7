//! What the receiver promises to senders, honest and other ones.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use std::time::{SystemTime, UNIX_EPOCH};

use harness::{Client, Reply, TestServer};
use setup::{SECRET, receiver};
use webhooks::verify::standard::{Secret, sign};

const BODY: &str = r#"{"type":"payment.succeeded","data":{"status":"success"}}"#;

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// A webhook that is signed with this secret at this time.
async fn send(server: &TestServer, id: &str, secret: &str, time: u64, body: &str) -> Reply {
    let secret: Secret = secret.parse().unwrap();
    let client: Client = server.client();
    let mut request = client.post("/webhook", body.to_owned());
    for (name, value) in sign(&[secret], id, time, body.as_bytes()) {
        request = request.header(name, &value);
    }
    request
        .header("content-type", "application/json")
        .send()
        .await
}

async fn listed(server: &TestServer) -> Vec<String> {
    let events = server.get("/events").await.json();
    let events = events["events"].as_array().unwrap();
    let id = |event: &serde_json::Value| event["id"].as_str().unwrap().to_owned();
    events.iter().map(id).collect()
}

#[tokio::test]
async fn a_genuine_event_is_answered_200_and_listed_as_it_came() {
    let (server, _) = receiver().await;
    let reply = send(&server, "msg_1", SECRET, now(), BODY).await;
    assert_eq!((reply.status.as_u16(), reply.text()), (200, ""));
    let events = server.get("/events").await;
    let payload = format!(r#""payload":{BODY}"#);
    assert!(events.text().contains(&payload), "{}", events.text());
    assert_eq!(events.json()["events"][0]["type"], "payment.succeeded");
    server.stop().await;
}

#[tokio::test]
async fn a_repeat_is_answered_200_and_listed_once() {
    let (server, _) = receiver().await;
    for time in [now() - 5, now() - 1, now()] {
        let reply = send(&server, "msg_1", SECRET, time, BODY).await;
        assert_eq!(reply.status, 200);
    }
    send(&server, "msg_2", SECRET, now(), BODY).await;
    // The same id over other bytes is against the scheme: the first stands.
    let reply = send(&server, "msg_1", SECRET, now(), "{}").await;
    assert_eq!(reply.status, 200);
    assert_eq!(listed(&server).await, ["msg_1", "msg_2"]);
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_genuine_is_answered_401_and_not_told_why() {
    let (server, _) = receiver().await;
    let other = Secret::from_key([1; 32]).reveal();
    let mut replies = vec![
        send(&server, "m", &other, now(), BODY).await,
        send(&server, "m", SECRET, now() - 1_000, BODY).await,
        send(&server, "m", SECRET, now() + 1_000, BODY).await,
    ];
    let client = server.client();
    let unsigned = client
        .post("/webhook", BODY)
        .header("content-type", "application/json");
    replies.push(unsigned.send().await);
    for reply in replies {
        assert_eq!(reply.status, 401);
        assert_eq!(reply.json()["detail"], "not genuine");
    }
    assert_eq!(listed(&server).await, [""; 0]);
    server.stop().await;
}

#[tokio::test]
async fn events_are_read_on_by_a_cursor() {
    let (server, _) = receiver().await;
    for id in ["m1", "m2", "m3"] {
        send(&server, id, SECRET, now(), BODY).await;
    }
    let rest = server.get("/events?after=1").await.json();
    assert_eq!(rest["events"].as_array().unwrap().len(), 2);
    assert_eq!((&rest["next"], &rest["more"]), (&3.into(), &false.into()));
    server.stop().await;
}

/// A tunnel brings its own name. The signature proves more than a name could.
#[tokio::test]
async fn only_the_signed_path_takes_a_foreign_host() {
    let (server, _) = receiver().await;
    let mut wire = server.wire().await;
    let secret = SECRET.parse().unwrap();
    let fields: String = sign(&[secret], "m", now(), b"{}")
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .concat();
    wire.send(format!(
        "POST /webhook HTTP/1.1\r\nHost: tunnel.example\r\nContent-Type: application/json\r\n{fields}Content-Length: 2\r\n\r\n{{}}"
    ))
    .await;
    assert_eq!(wire.read_response().await.status, 200);
    wire.send("GET /events HTTP/1.1\r\nHost: tunnel.example\r\n\r\n")
        .await;
    assert_eq!(wire.read_response().await.status, 421);
    server.stop().await;
}

#[tokio::test]
async fn a_signature_holds_byte_by_byte() {
    let (server, _) = receiver().await;
    let mut wire = server.wire().await;
    let fields: String = sign(&[SECRET.parse().unwrap()], "m", now(), BODY.as_bytes())
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .concat();
    wire.send_bytewise(format!(
        "POST /webhook HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{fields}Content-Length: {}\r\n\r\n{BODY}",
        BODY.len()
    ))
    .await;
    assert_eq!(wire.read_response().await.status, 200);
    server.stop().await;
}
