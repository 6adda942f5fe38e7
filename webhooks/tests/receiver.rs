//! What the receiver promises to honest senders, and how it treats others.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use std::time::{SystemTime, UNIX_EPOCH};

use common::{Feed, Retention};
use harness::{Client, End, Reply, TestServer};
use setup::{Program, SECRET, Scratch, receiver, receiving, signed, soon};
use webhooks::{
    receiver,
    verify::standard::{Secret, sign},
};

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

/// Common parsers fail on the first two, and then on the whole page.
#[tokio::test]
async fn a_payload_that_others_could_not_read_is_listed_as_a_string() {
    let (server, _) = receiver().await;
    let nested = "[".repeat(65) + &"]".repeat(65);
    let payloads = [nested.as_str(), r#""\ud800""#, "no JSON"];
    for (id, payload) in payloads.iter().enumerate() {
        let reply = send(&server, &id.to_string(), SECRET, now(), payload).await;
        assert_eq!(reply.status, 200);
    }
    let events = server.get("/events").await.json();
    for (at, payload) in payloads.into_iter().enumerate() {
        assert_eq!(events["events"][at]["payload"], payload);
    }
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

/// A tunnel brings its own host name. The signature proves more than a name can.
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

/// People who set up a tunnel for webhooks need to learn the right path when theirs is wrong.
#[tokio::test]
async fn through_a_tunnel_a_wrong_path_is_answered_with_the_right_ones() {
    let (server, _) = receiver().await;
    for (request, status, detail) in [
        (
            "POST /webhooks",
            404,
            "nothing is at /webhooks: webhooks are taken at /webhook",
        ),
        (
            "POST /webhook/",
            404,
            "nothing is at /webhook/: webhooks are taken at /webhook",
        ),
        (
            "POST /webhook/stripe",
            404,
            "nothing is at /webhook/stripe: webhooks are taken at /webhook",
        ),
        (
            "GET /webhook/stripe",
            404,
            "nothing is at /webhook/stripe: webhooks are taken at /webhook",
        ),
        (
            "POST /",
            421,
            "only this machine may read this path; webhooks are taken at /webhook",
        ),
        (
            "GET /events",
            421,
            "only this machine may read this path; webhooks are taken at /webhook",
        ),
        (
            "GET /sources",
            421,
            "only this machine may read this path; webhooks are taken at /webhook",
        ),
        (
            "POST /events/1/retry",
            421,
            "only this machine may read this path; webhooks are taken at /webhook",
        ),
        ("GET /webhook", 405, "this path takes POST"),
    ] {
        let mut wire = server.wire().await;
        wire.send(format!(
            "{request} HTTP/1.1\r\nHost: tunnel.example\r\nContent-Length: 0\r\n\r\n"
        ))
        .await;
        let response = wire.read_response().await;
        assert_eq!(response.status, status, "{request}");
        let problem: serde_json::Value = serde_json::from_str(response.text()).unwrap();
        assert_eq!(problem["detail"], detail, "{request}");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_own_time() {
    let default = receiver::Config::default().server.read_timeout;
    assert_eq!(default.as_secs(), 75);
    let scratch = Scratch::new();
    let mut config = receiving(&scratch);
    config.server.read_timeout = setup::SHORT;
    let feed = Feed::new(Retention::default());
    let run = |listener, shutdown| receiver::run(listener, feed, config, shutdown);
    let server = TestServer::start(run).await;
    let mut wire = server.wire().await;
    wire.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(wire.read_response().await.status, 200);
    assert_eq!(soon(wire.closed()).await.0, End::Eof);
    server.stop().await;
}

#[tokio::test]
async fn a_refusal_of_what_is_genuine_is_logged_with_its_reason_and_counted() {
    let scratch = Scratch::new();
    let program = Program::start(&scratch, |receiver| {
        receiver.args(["--max-body", "1000", "--github-secret", "k"]);
    });
    let client = program.client();
    let post = async |kind: &str, body: &str| {
        let request = client.post("/webhook", body.to_owned());
        let request = signed("m", body)
            .iter()
            .fold(request, |request, (name, value)| {
                request.header(name, value)
            });
        request.header("content-type", kind).send().await.status
    };
    assert_eq!(post("application/json", "{}").await, 200);
    assert_eq!(post("text/plain", "{}").await, 415);
    assert_eq!(post("application/json", &"x".repeat(1_001)).await, 413);
    let unsigned = client
        .post("/webhook", "{}")
        .header("content-type", "application/json");
    assert_eq!(unsigned.send().await.status, 401);
    let astray = client
        .post("/webhook/stripe", "{}")
        .header("stripe-signature", "t=1,v1=0");
    assert_eq!(astray.send().await.status, 404);
    let sources = client.get("/sources").send().await.json();
    let expected = serde_json::json!({
        "source": "standard", "path": "/webhook", "enabled": true, "received": 1, "refused": 1, "unverified": 2,
    });
    assert_eq!(sources[0], expected);
    assert_eq!(
        (&sources[1]["enabled"], &sources[2]["enabled"]),
        (&false.into(), &true.into())
    );
    let log = soon(program.stop()).await.log;
    for line in [
        "genuine, but refused source=\"standard\" reason=Content-Type is not application/json refused=1",
        "a webhook for no source reason=\"nothing is at /webhook/stripe: webhooks are taken at /webhook, /webhook/github\"",
        "refused unverified source=\"standard\" reason=\"the body is over 1000 bytes\"",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
}

/// Their names differ, and so do the ways in which they could be overlooked.
#[tokio::test]
async fn requests_with_svixs_names_and_unsigned_ones_are_logged_and_counted_like_others() {
    let scratch = Scratch::new();
    let program = Program::start(&scratch, |receiver| {
        receiver.args(["--github-secret", "k"]);
    });
    let client = program.client();
    let post = async |path: &str, kind: &str, is_signed: bool| {
        let mut request = client.post(path, BODY);
        for (name, value) in signed("m", BODY).into_iter().filter(|_| is_signed) {
            request = request.header(&name.replace("webhook", "svix"), &value);
        }
        request.header("content-type", kind).send().await.status
    };
    let json = "application/json";
    assert_eq!(post("/webhook", json, true).await, 200);
    assert_eq!(post("/webhook", "text/plain", true).await, 415);
    assert_eq!(post("/webhook", "text/plain", false).await, 415);
    assert_eq!(post("/webhook/github", json, true).await, 401);
    assert_eq!(post("/webhooks", json, true).await, 404);
    let sources = client.get("/sources").send().await.json();
    let expected = serde_json::json!({
        "source": "standard", "path": "/webhook", "enabled": true, "received": 1, "refused": 1, "unverified": 1,
    });
    assert_eq!(sources[0], expected);
    let cause = "it has svix-signature, which belongs to /webhook";
    // Found in the background.
    soon(async {
        while !program.log().contains(cause) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let log = soon(program.stop()).await.log;
    for line in [
        "genuine, but refused source=\"standard\" reason=Content-Type is not application/json refused=1",
        "refused unverified source=\"standard\" reason=\"Content-Type is not application/json\"",
        "a webhook for no source reason=\"nothing is at /webhooks: ",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
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
