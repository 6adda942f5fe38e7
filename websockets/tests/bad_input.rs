//! Wrong requests and frames. Each gets a status or a close code with a reason, and does no harm.

mod setup;

use harness::{
    End, Frame, TestServer, WsWire,
    contract::{
        MAX_MESSAGE, answers_who_sends_no_more, closes_slow_heads, leaves_nothing_to_caches,
        publishes_no_half_bodies, refuses_bad_input, rows_of_every_server, rows_of_subscribing,
        trusts_the_allowed_origin,
    },
};
use serde_json::{Value, json};
use setup::{ask, feed, is_alive, small, start, start_with};

const HANDSHAKE: &[&str] = &[
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

#[tokio::test]
async fn every_wrong_request_is_refused_by_name() {
    let server = start(small()).await;
    refuses_bad_input(&server, rows_of_every_server()).await;
    trusts_the_allowed_origin(&server).await;
    refuses_bad_input(&server, rows_of_subscribing(HANDSHAKE)).await;
    server.stop().await;
}

#[tokio::test]
async fn a_cache_in_front_answers_for_nothing() {
    let server = start(small()).await;
    leaves_nothing_to_caches(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_no_more_is_answered() {
    let server = start(small()).await;
    answers_who_sends_no_more(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_slow_head_is_closed() {
    let server = start(small()).await;
    closes_slow_heads(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn half_a_body_is_not_published() {
    let feed = feed();
    let server = start_with(feed.clone(), small()).await;
    publishes_no_half_bodies(&server).await;
    assert_eq!(feed.counts().messages, 0);
    server.stop().await;
}

/// Commands that cannot be done, each with its error. The session goes on afterwards.
fn commands() -> Vec<(Value, Value)> {
    let error = |status: u16, detail: &str| json!({"status": status, "detail": detail});
    let error_1 = |status: u16, detail: &str| json!({"ref": 1, "status": status, "detail": detail});
    let topic = "a topic is words of [A-Za-z0-9_-] joined by single dots, at most 64 bytes";
    let cursor = "a cursor is EPOCH-SEQ, such as m3k9qf-42";
    let many: Vec<_> = (0..65).map(|n| format!("t{n}")).collect();
    let publish = |publish: Value| json!({"publish": publish});
    let subscribe = |subscribe: Value| json!({"subscribe": subscribe});
    vec![
        (
            publish(json!({"topic": "a b", "data": 1, "ref": 1})),
            error_1(400, &format!("topic \"a b\": {topic}")),
        ),
        (
            publish(json!({"topic": "a", "type": "", "data": 1, "ref": 1})),
            error_1(400, "type \"\": a type is 1 to 128 bytes of [A-Za-z0-9._-]"),
        ),
        (
            publish(json!({"topic": "a", "key": " ", "data": 1, "ref": 1})),
            error_1(400, "an Idempotency-Key is 1 to 255 visible ASCII bytes"),
        ),
        (
            subscribe(json!({"topics": [], "ref": 1})),
            error_1(400, "no topic is named"),
        ),
        (
            subscribe(json!({"topics": ["a,b"], "ref": 1})),
            error_1(400, &format!("topic \"a,b\": {topic}")),
        ),
        (
            subscribe(json!({"topics": many, "ref": 1})),
            error_1(400, "more than 64 topics"),
        ),
        (
            subscribe(json!({"topics": ["a"], "after": "", "ref": 1})),
            error_1(400, &format!("after: {cursor}")),
        ),
        (
            subscribe(json!({"topics": ["a"], "after": "e-01", "ref": 1})),
            error_1(400, &format!("after: {cursor}")),
        ),
        (
            json!({"unsubscribe": {"topics": [], "ref": 1}}),
            error_1(400, "no topic is named"),
        ),
        (json!({"received": {"id": "7"}}), error(400, cursor)),
    ]
}

#[tokio::test]
async fn a_command_that_cannot_be_done_is_refused_by_name() {
    let server = start(small()).await;
    let mut session = server.websocket("/topics").await;
    for (command, error) in commands() {
        let shown = command.to_string();
        assert_eq!(ask(&mut session, command).await["error"], error, "{shown}");
        assert!(is_alive(&mut session).await);
    }
    drop(session);
    server.stop().await;
}

/// Texts that are not commands, each with words of the error.
const NOT_COMMANDS: &[(&str, &str)] = &[
    ("", "EOF while parsing"),
    ("hello", "expected value"),
    ("1", "expected an object"),
    ("[]", "expected an object"),
    (r#"["ping",{}]"#, "expected an object"),
    ("{}", "expected an object with one member"),
    (r#""ping""#, "expected an object"),
    (r#"{"ping":{}} x"#, "trailing characters"),
    (
        r#"{"ping":{},"ping":{}}"#,
        "expected an object with one member",
    ),
    (
        r#"{"ping":[]}"#,
        "ping: invalid type: sequence, expected an object",
    ),
    (r#"{"ping":null}"#, "ping: invalid type: null"),
    (
        r#"{"ping":{"id":1}}"#,
        "ping: id is unknown, or there twice",
    ),
    (r#"{"message":{}}"#, "message: no such command"),
    (
        r#"{"publish":["a",null,1,null,1]}"#,
        "publish: invalid type: sequence, expected an object",
    ),
    (
        r#"{"publish":{"topic":"a","ref":1}}"#,
        "publish: data is missing",
    ),
    (
        r#"{"publish":{"topic":"a","data":1}}"#,
        "publish: ref is missing",
    ),
    (
        r#"{"publish":{"topic":"a","data":1,"ref":null}}"#,
        "publish: ref: a ref is a string or a number",
    ),
    (
        r#"{"publish":{"topic":"a","data":1,"ref":{}}}"#,
        "publish: ref: a ref is a string or a number",
    ),
    (
        r#"{"publish":{"topic":1,"data":1,"ref":1}}"#,
        "publish: topic: invalid type: integer",
    ),
    (
        r#"{"publish":{"topic":"a","topic":"b","data":1,"ref":1}}"#,
        "publish: topic is unknown, or there twice",
    ),
    (
        r#"{"subscribe":{"topics":["a"],"afer":"earliest","ref":1}}"#,
        "subscribe: afer is unknown",
    ),
    (
        r#"{"subscribe":{"topics":"a","ref":1}}"#,
        "subscribe: topics: invalid type: string",
    ),
    (
        r#"{"subscribe":{"topics":["a",{"b":1}],"ref":1}}"#,
        "subscribe: topics: invalid type: map",
    ),
    (
        r#"{"unsubscribe":{"topics":["a"],"after":"earliest","ref":1}}"#,
        "unsubscribe: after is unknown",
    ),
    (
        r#"{"received":{"id":"e-1","x":1}}"#,
        "received: x is unknown",
    ),
    (
        r#"{"subscribe":{"topics":["a"],"newest":0,"ref":1}}"#,
        "newest: it is 1, true or absent",
    ),
    (
        r#"{"subscribe":{"topics":["a"],"newest":1,"newest":1,"ref":1}}"#,
        "newest is unknown, or there twice",
    ),
];

#[tokio::test]
async fn a_text_that_is_not_a_command_is_answered_and_the_session_goes_on() {
    let server = start(small()).await;
    let mut session = server.websocket("/topics").await;
    for (text, words) in NOT_COMMANDS {
        session.send_text(text).await;
        let error = session.next_json().await["error"].take();
        let detail = error["detail"].as_str().unwrap();
        assert_eq!(error["status"], 400, "{text}");
        let has_ref = text.ends_with(r#""ref":1}}"#);
        assert_eq!(error.get("ref"), has_ref.then_some(&json!(1)), "{text}");
        assert!(detail.starts_with("not a command: "), "{text}: {detail}");
        assert!(detail.contains(words), "{text}: {detail}");
    }
    let long = format!(
        r#"{{"publish":{{"topic":"a","data":1,"ref":"{}"}}}}"#,
        "r".repeat(63)
    );
    session.send_text(&long).await;
    assert_eq!(session.next_json().await["error"]["status"], 400);
    let nested = ["[".repeat(65), "]".repeat(65)].concat();
    let nested = format!(r#"{{"publish":{{"topic":"a","data":{nested},"ref":1}}}}"#);
    session.send_text(&nested).await;
    let error = json!({"ref": 1, "status": 400, "detail": "the body nests deeper than 64"});
    assert_eq!(session.next_json().await["error"], error);
    assert!(is_alive(&mut session).await);
    drop(session);
    server.stop().await;
}

/// Bytes after the handshake that end a session, each with the close code and the reason.
fn frames() -> Vec<(Vec<u8>, u16, &'static str)> {
    let frame = |opcode, payload: &[u8]| Frame::client(opcode, payload);
    let reserved = Frame {
        rsv: 4,
        ..Frame::text("{}")
    };
    let unmasked = Frame {
        masked: false,
        ..Frame::text("{}")
    };
    let part = Frame {
        fin: false,
        ..Frame::text("{}")
    };
    let split_ping = Frame {
        fin: false,
        ..Frame::ping("")
    };
    let over = "x".repeat(MAX_MESSAGE + 1);
    let half = Frame {
        fin: false,
        ..Frame::text(&over[..MAX_MESSAGE])
    };
    let rest = frame(0, b"xx");
    let huge = [
        0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4,
    ];
    let (two, none) = ("text messages only", "");
    vec![
        (Frame::binary("{}").encode(), 1003, two),
        (reserved.encode(), 1002, "reserved bits are set"),
        (unmasked.encode(), 1002, "a frame without a mask"),
        (frame(3, b"").encode(), 1002, none),
        (frame(11, b"").encode(), 1002, none),
        (frame(0, b"x").encode(), 1002, none),
        ([part.encode(), part.encode()].concat(), 1002, none),
        (split_ping.encode(), 1002, none),
        (Frame::ping([0; 126]).encode(), 1002, none),
        (frame(8, b"x").encode(), 1002, none),
        (Frame::close(1005, "").encode(), 1002, none),
        (Frame::close(999, "").encode(), 1002, none),
        (frame(1, b"\xff").encode(), 1007, none),
        (frame(8, b"\x03\xe8\xff").encode(), 1007, none),
        (
            Frame::text(&over).encode(),
            1009,
            "a message over the limit",
        ),
        ([half.encode(), rest.encode()].concat(), 1009, none),
        (huge.to_vec(), 1009, none),
    ]
}

#[tokio::test]
async fn frames_that_break_the_protocol_are_answered_with_their_close_code() {
    let server = start(small()).await;
    for (bytes, code, reason) in frames() {
        let shown = bytes[..bytes.len().min(40)].escape_ascii().to_string();
        let mut session = server.websocket("/topics").await;
        session.send_raw(&bytes).await;
        // The server never parses these bytes. They must not turn its close into a reset.
        session.send_raw([0xff; 2000]).await;
        let (closed, why) = session.expect_close().await;
        assert_eq!(closed, code, "{shown}: {why}");
        assert!(reason.is_empty() || why == reason, "{shown}: {why}");
        if code != 1002 {
            session.wire().half_close().await; // Or the server waits for a close frame.
        }
        assert_eq!(
            session.wire().closed().await,
            (End::Eof, Vec::new()),
            "{shown}"
        );
        goes_on(&server).await;
    }
    server.stop().await;
}

async fn goes_on(server: &TestServer) {
    let mut session: WsWire = server.websocket("/topics").await;
    assert!(is_alive(&mut session).await);
}
