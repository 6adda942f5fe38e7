//! Requests that are wrong: each gets a status and a named reason, and does no harm.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use common::{Feed, Retention};
use harness::{
    TestServer,
    contract::{
        MAX_MESSAGE, READ_TIMEOUT, Row, answers_who_sends_no_more, closes_slow_heads,
        leaves_nothing_to_caches, publishes_no_half_bodies, refuses_bad_input,
        rows_of_every_server, trusts_the_allowed_origin,
    },
};
use serde_json::Value;
use setup::{Scratch, hasty, local, receiver, receiver_with, receiving, small, start};
use webhooks::Config;

const JSON: &str = "Content-Type: application/json";

fn config() -> Config {
    Config {
        server: small(),
        allow_loopback: false,
        ..local()
    }
}

#[tokio::test]
async fn every_wrong_request_is_refused_by_name() {
    let server = start(config()).await;
    refuses_bad_input(&server, rows_of_every_server()).await;
    trusts_the_allowed_origin(&server).await;
    refuses_bad_input(&server, routes()).await;
    refuses_bad_input(&server, registrations()).await;
    server.stop().await;
}

#[tokio::test]
async fn a_cache_in_front_answers_for_nothing() {
    let server = start(config()).await;
    leaves_nothing_to_caches(&server).await;
    server.stop().await;
    let (server, _) = receiver().await;
    leaves_nothing_to_caches(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_no_more_is_answered() {
    let server = start(config()).await;
    answers_who_sends_no_more(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_slow_head_is_closed() {
    let server = start(config()).await;
    closes_slow_heads(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn half_a_body_is_not_published() {
    let feed = Feed::new(Retention::default());
    let server = setup::start_with(feed.clone(), config()).await;
    publishes_no_half_bodies(&server).await;
    assert_eq!(feed.counts().messages, 0);
    server.stop().await;
}

fn routes() -> Vec<Row> {
    vec![
        // The technique is a push, so there is no GET to subscribe.
        Row::head("GET /topics/a", &[], 405, "this path takes POST"),
        Row::head(
            "PUT /endpoints",
            &[],
            405,
            "this path takes GET, HEAD, POST",
        ),
        Row::head("GET /endpoints/", &[], 404, "nothing is at /endpoints/"),
        Row::head("GET /endpointsx", &[], 404, "nothing is at /endpointsx"),
        Row::head(
            "GET /endpoints/ep_0",
            &[],
            404,
            "nothing is at /endpoints/ep_0",
        ),
        Row::head(
            "DELETE /endpoints/ep_0",
            &[],
            404,
            "nothing is at /endpoints/ep_0",
        ),
        Row::head(
            "DELETE /endpoints/ep_0",
            &["Origin: https://elsewhere.example"],
            403,
            "Origin https://elsewhere.example is not allowed (--allow-origin)",
        ),
        Row::post(
            "/endpoints",
            &[JSON, "Origin: https://elsewhere.example"],
            b"{}",
            403,
            "Origin https://elsewhere.example is not allowed (--allow-origin)",
        ),
    ]
}

fn registrations() -> Vec<Row> {
    let bad =
        |body: &str, detail: &str| Row::post("/endpoints", &[JSON], body.as_bytes(), 400, detail);
    let url =
        |url: &str, detail: &str| bad(&format!(r#"{{"url":"{url}","topics":["a"]}}"#), detail);
    let with = |field: &str, detail: &str| {
        bad(
            &format!(r#"{{"url":"http://1.1.1.1/","topics":["a"],{field}}}"#),
            detail,
        )
    };
    let big = vec![b' '; MAX_MESSAGE + 1];
    let not_json = "Content-Type is not application/json";
    let headers: Vec<String> = (0..17).map(|name| format!(r#""x{name}":"y""#)).collect();
    let mut rows = vec![
        Row::post("/endpoints", &[], b"{}", 415, not_json),
        Row::post(
            "/endpoints",
            &["Content-Type: text/plain"],
            b"{}",
            415,
            not_json,
        ),
        Row::post(
            "/endpoints",
            &[JSON],
            &big,
            413,
            format!("the body is over {MAX_MESSAGE} bytes"),
        ),
        bad("", "the body is no endpoint: EOF"),
        bad("[]", "the body is no endpoint: invalid "),
        bad(
            r#"["http://1.1.1.1/",["a"],null,{},null,null,false,null]"#,
            "the body is no endpoint: invalid type: sequence, expected an object",
        ),
        bad("{}", "the body is no endpoint: missing field `url`"),
        bad(
            r#"{"url":"http://1.1.1.1/"}"#,
            "the body is no endpoint: missing field `topics`",
        ),
        with(
            r#""topic":"a""#,
            "the body is no endpoint: unknown field `topic`",
        ),
        with(
            r#""url":"http://1.1.1.1/""#,
            "the body is no endpoint: duplicate field `url`",
        ),
        bad(
            r#"{"url":"http://1.1.1.1/","topics":"orders"}"#,
            "the body is no endpoint: topics and types are lists: invalid type: string \"orders\"",
        ),
        with(
            r#""types":"x""#,
            "the body is no endpoint: topics and types are lists: ",
        ),
        bad(
            r#"{"url":"http://1.1.1.1/","topics":[]}"#,
            "topics: no topic is named",
        ),
        bad(
            r#"{"url":"http://1.1.1.1/","topics":["a b"]}"#,
            "topics: topic \"a b\": a topic is ",
        ),
        with(
            r#""types":[]"#,
            "types: none is named; leave it out for all",
        ),
        with(r#""types":["a b"]"#, "types: type \"a b\": a type is "),
        with(r#""timeout":0"#, "timeout: not 1 to 30"),
        with(r#""timeout":31"#, "timeout: not 1 to 30"),
        with(r#""concurrency":0"#, "concurrency: not 1 to 8"),
        with(r#""concurrency":9"#, "concurrency: not 1 to 8"),
        with(
            r#""headers":{"Host":"a"}"#,
            "headers: Host is the sender's own",
        ),
        with(
            r#""headers":{"Webhook-Id":"a"}"#,
            "headers: Webhook-Id is the sender's own",
        ),
        with(r#""headers":{"a b":"c"}"#, "headers: a b is no field name"),
        with(r#""headers":{"a":"b\n"}"#, "headers: a has no valid value"),
        with(r#""headers":{"a":"1","A":"2"}"#, "headers: a is repeated"),
        with(
            &format!(r#""headers":{{{}}}"#, headers.join(",")),
            "headers: over 16 fields or 4096 bytes",
        ),
        with(
            r#""secret":"hunter2""#,
            "secret: a secret is whsec_BASE64: it does not begin with whsec_",
        ),
        with(
            r#""secret":"whsec_AAAAAAAAAAAAAAAAAAAAAA==""#,
            "secret: its key is under 24 bytes",
        ),
    ];
    rows.extend([
        url("", "url: relative URL without a base"),
        url("/webhook", "url: relative URL without a base"),
        url("http://", "url: empty host"),
        // In its normal form it has 2,049 bytes, because each é takes six.
        url(
            &format!("http://1.1.1.1/{}", "é".repeat(339)),
            "url: over 2048 bytes",
        ),
        url("http://a:99999/", "url: invalid port number"),
        url(
            "ftp://1.1.1.1/",
            "url: the scheme is neither https nor http",
        ),
        url(
            "https://127.0.0.1/",
            "url: 127.0.0.1 is this machine (--allow-loopback)",
        ),
        url(
            "http://u:p@1.1.1.1/",
            "url: the URL carries a user name or password",
        ),
        url(
            "http://127.0.0.1/",
            "url: 127.0.0.1 is this machine (--allow-loopback)",
        ),
        url(
            "http://0x7f.1/",
            "url: 127.0.0.1 is this machine (--allow-loopback)",
        ),
        url(
            "http://[::ffff:127.0.0.1]/",
            "url: ::ffff:127.0.0.1 is this machine (--allow-loopback)",
        ),
        url("http://localhost/", "url: "),
        url(
            "http://10.0.0.1/",
            "url: 10.0.0.1 is a private address (--allow-private)",
        ),
        url(
            "http://169.254.169.254/",
            "url: 169.254.169.254 is not a public address",
        ),
    ]);
    rows
}

#[tokio::test]
async fn plain_http_needs_its_flag() {
    let server = start(Config::default()).await;
    let row = Row::post(
        "/endpoints",
        &[JSON],
        br#"{"url":"http://1.1.1.1/","topics":["a"]}"#,
        400,
        "url: plain http is not allowed (--allow-http)",
    );
    refuses_bad_input(&server, [row]).await;
    server.stop().await;
}

#[tokio::test]
async fn the_receiver_refuses_what_no_sender_writes() {
    let (server, feed) = receiver_with(hasty).await;
    let fields =
        |id: &'static str, time: &'static str| [JSON, id, time, "webhook-signature: v1,AAAA"];
    let body = format!("the body took longer than {READ_TIMEOUT} s");
    for row in [
        Row::head("GET /webhook", &[], 405, "this path takes POST"),
        Row::head(
            "POST /events",
            &["Content-Length: 0"],
            405,
            "this path takes GET, HEAD",
        ),
        Row::head(
            "GET /events?after=x",
            &[],
            400,
            "parameter after=x: not the number of an event",
        ),
        Row::head("GET /events?after=+1", &[], 400, "parameter after=+1"),
        Row::head("GET /events?after=-1", &[], 400, "parameter after=-1"),
        Row::head("GET /events?after=01", &[], 400, "parameter after=01"),
        Row::head(
            "GET /webhook/stripe",
            &[],
            404,
            "nothing is at /webhook/stripe",
        ),
        Row::head("GET /topics/a", &[], 404, "nothing is at /topics/a"),
        Row::post(
            "/webhook",
            &[],
            b"{}",
            415,
            "Content-Type is not application/json",
        ),
        Row::post(
            "/webhook",
            &[JSON],
            &[b' '; MAX_MESSAGE + 1],
            413,
            "the body is over 1024 bytes",
        ),
        Row::head(
            "POST /webhook",
            &[JSON, "Content-Length: 9", "", "slow"],
            408,
            body,
        ),
        Row::post("/webhook", &[JSON], b"{}", 401, "not genuine"),
        Row::post(
            "/webhook",
            &fields("webhook-id: a b", "webhook-timestamp: 1"),
            b"{}",
            400,
            "webhook-id is not ",
        ),
        Row::post(
            "/webhook",
            &fields("webhook-id: a", "webhook-timestamp: 1x"),
            b"{}",
            400,
            "webhook-timestamp is not ",
        ),
        Row::post(
            "/webhook",
            &[JSON, "webhook-id: a", "webhook-id: a"],
            b"{}",
            400,
            "webhook-id is repeated",
        ),
    ] {
        refused(&server, row).await;
    }
    assert_eq!(feed.counts().messages, 0);
    server.stop().await;
}

/// The receiver accepts no unsigned messages, so the harness has no good request for it.
async fn refused(server: &TestServer, row: Row) {
    let mut wire = server.wire().await;
    wire.send(&row.request).await;
    let response = wire.read_response().await;
    let request = row.request.escape_ascii().to_string();
    assert_eq!(
        response.status,
        row.status,
        "{request}: {}",
        response.text()
    );
    let problem: Value = serde_json::from_str(response.text()).unwrap();
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with(&row.detail), "{request}: {detail}");
    assert_eq!(server.get("/healthz").await.status, 200, "after {request}");
}

#[tokio::test]
async fn without_a_secret_nothing_is_received() {
    let feed = Feed::new(Retention::default());
    let scratch = Scratch::new();
    let mut config = receiving(&scratch);
    config.secret.clear();
    let run = |listener, shutdown| webhooks::receiver::run(listener, feed, config, shutdown);
    let server = TestServer::start(run).await;
    let row = Row::post("/webhook", &[JSON], b"{}", 404, "nothing is at /webhook");
    refused(&server, row).await;
    server.stop().await;
}
