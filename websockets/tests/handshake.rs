//! The opening handshake: what is accepted, what is refused, and the literal answers.

mod setup;

use harness::{Frame, TestServer, Wire, WsWire, handshake};
use serde_json::Value;
use setup::{config, is_alive, live, start};

/// A good handshake. Each row of the table changes one thing.
const GOOD: &str = "GET /topics/a HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";

/// What to replace, its replacement, the status, fields of the answer, and the problem's detail.
struct Row(
    &'static str,
    &'static str,
    u16,
    &'static [(&'static str, &'static str)],
    &'static str,
);

const UPGRADE: &[(&str, &str)] = &[("upgrade", "websocket"), ("connection", "upgrade")];
const NOT_ASKED: &str = "this path is a WebSocket: send Upgrade: websocket";
const NOT_13: &str = "Sec-WebSocket-Version must be 13";
const BAD_KEY: &str = "Sec-WebSocket-Key is not 16 bytes in Base64";
const ONE_KEY: &str = "Sec-WebSocket-Key must occur exactly once";
const NO_UPGRADE: &str = "Connection does not contain Upgrade; a proxy may have removed it";
const PROTOCOL: &str = "Sec-WebSocket-Protocol does not offer feed.v1.json";
const V13: &[(&str, &str)] = &[
    ("sec-websocket-version", "13"),
    ("upgrade", "websocket"),
    ("connection", "upgrade"),
];

const ROWS: &[Row] = &[
    Row(
        "GET",
        "PUT",
        405,
        &[("allow", "GET, HEAD, POST")],
        "this path takes GET, HEAD, POST",
    ),
    Row(
        "GET /topics/a",
        "POST /topics",
        405,
        &[("allow", "GET, HEAD")],
        "this path takes GET, HEAD",
    ),
    Row(
        "GET",
        "POST",
        405,
        &[("allow", "GET, HEAD, POST")],
        "this path takes GET, HEAD, POST",
    ),
    Row("Upgrade: websocket\r\n", "", 426, UPGRADE, NOT_ASKED),
    Row(
        "Upgrade: websocket",
        "Upgrade: h2c",
        426,
        UPGRADE,
        NOT_ASKED,
    ),
    Row(
        "Upgrade: websocket",
        "Upgrade: websockets",
        426,
        UPGRADE,
        NOT_ASKED,
    ),
    Row("Connection: Upgrade\r\n", "", 400, &[], NO_UPGRADE),
    Row(
        "Connection: Upgrade",
        "Connection: keep-alive",
        400,
        &[],
        NO_UPGRADE,
    ),
    Row(
        "Connection: Upgrade",
        "Connection: NotUpgrade",
        400,
        &[],
        NO_UPGRADE,
    ),
    Row(
        "HTTP/1.1",
        "HTTP/1.0",
        400,
        &[],
        "a websocket needs HTTP/1.1",
    ),
    Row(VERSION, "", 426, V13, NOT_13),
    Row("Version: 13", "Version: 8", 426, V13, NOT_13),
    Row("Version: 13", "Version: 13, 8", 426, V13, NOT_13),
    Row(
        VERSION,
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13\r\n",
        426,
        V13,
        NOT_13,
    ),
    Row(KEY, "", 400, &[], ONE_KEY),
    Row(
        KEY,
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        400,
        &[],
        ONE_KEY,
    ),
    Row("dGhlIHNhbXBsZSBub25jZQ==", "", 400, &[], BAD_KEY),
    Row(
        "dGhlIHNhbXBsZSBub25jZQ==",
        "dGhlIHNhbXBsZSBub25jZQ",
        400,
        &[],
        BAD_KEY,
    ),
    Row(
        "dGhlIHNhbXBsZSBub25jZQ==",
        "dGhlIHNhbXBsZSBub25jZSE=",
        400,
        &[],
        BAD_KEY,
    ),
    Row(
        "dGhlIHNhbXBsZSBub25jZQ==",
        "!!!!!!!!!!!!!!!!!!!!!!==",
        400,
        &[],
        BAD_KEY,
    ),
    Row(
        "dGhlIHNhbXBsZSBub25jZQ==",
        "dGhlIHNhbXBsZSBub25j-_==",
        400,
        &[],
        BAD_KEY,
    ),
    Row(
        "\r\n\r\n",
        "\r\nSec-WebSocket-Protocol: chat, feed.v2.json\r\n\r\n",
        400,
        &[],
        PROTOCOL,
    ),
    Row(
        "\r\n\r\n",
        "\r\nSec-WebSocket-Protocol: FEED.V1.JSON\r\n\r\n",
        400,
        &[],
        PROTOCOL,
    ),
    Row(
        "\r\n\r\n",
        "\r\nContent-Length: 2\r\n\r\nhi",
        400,
        &[],
        "a GET has no body",
    ),
    Row(
        "\r\n\r\n",
        "\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        400,
        &[],
        "a GET has no body",
    ),
    Row(
        "\r\n\r\n",
        "\r\nOrigin: https://elsewhere.example\r\n\r\n",
        403,
        &[],
        "Origin https://elsewhere.example is not allowed (--allow-origin)",
    ),
    Row(
        "\r\n\r\n",
        "\r\nOrigin: null\r\n\r\n",
        403,
        &[],
        "Origin null is not allowed (--allow-origin)",
    ),
    Row(
        "localhost",
        "rebound.example",
        421,
        &[],
        "Host rebound.example is neither a loopback name nor the host of an allowed origin (--allow-origin)",
    ),
    Row(
        "/topics/a",
        "/topics/a..b",
        400,
        &[],
        "topic \"a..b\": a topic is words of [A-Za-z0-9_-] joined by single dots, at most 64 bytes",
    ),
    Row(
        "/topics/a",
        "/topics/a?after=x",
        400,
        &[],
        "parameter after=x: a cursor is EPOCH-SEQ, such as m3k9qf-42",
    ),
    Row(
        "/topics/a",
        "/topics/a?heartbeat=0",
        400,
        &[],
        "parameter heartbeat=0: number would be zero for non-zero type",
    ),
    Row("/topics/a", "/", 200, &[], ""),
    Row("/topics/a", "/nothing", 404, &[], "nothing is at /nothing"),
];

#[tokio::test]
async fn a_wrong_handshake_is_refused_by_name() {
    let server = start(config()).await;
    for Row(this, that, status, fields, detail) in ROWS {
        let request = GOOD.replacen(this, that, 1);
        let mut wire = server.wire().await;
        wire.send(&request).await;
        let answer = wire.read_response().await;
        assert_eq!(answer.status, *status, "{request}{answer:?}");
        for (field, value) in *fields {
            assert_eq!(answer.header(field), Some(*value), "{request}");
        }
        if !detail.is_empty() {
            let problem: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(problem["detail"], *detail, "{request}");
        }
        is_served(&server).await;
    }
    server.stop().await;
}

async fn is_served(server: &TestServer) {
    let mut wire = server.wire().await;
    wire.send(GOOD).await;
    let mut session = WsWire::on_wire(wire).await;
    live(&mut session).await;
    assert!(is_alive(&mut session).await);
}

#[tokio::test]
async fn the_answer_is_these_bytes() {
    let server = start(config()).await;
    let mut wire = server.wire().await;
    let offer = "\r\nSec-WebSocket-Protocol: feed.v1.json\r\n\r\n";
    wire.send(GOOD.replace("\r\n\r\n", offer)).await;
    let head = wire.read_head().await;
    let (head, date) = head.split_once("Date: ").unwrap();
    assert_eq!(
        head,
        "HTTP/1.1 101 Switching Protocols\r\n\
         Upgrade: websocket\r\n\
         Connection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
         Sec-WebSocket-Protocol: feed.v1.json\r\n\
         X-Content-Type-Options: nosniff\r\n\
         Vary: origin\r\n"
    );
    assert!(date.ends_with("GMT\r\n\r\n"), "{date}");
    drop(wire);
    server.stop().await;
}

#[tokio::test]
async fn tokens_may_be_in_lists_over_several_lines_in_any_case() {
    let server = start(config()).await;
    let request = "GET /topics HTTP/1.1\r\nhost: localhost\r\n\
        upgrade: h2c,\tWebSocket\r\nCONNECTION: keep-alive , foo\r\nConnection:upGRADE\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\
        sec-websocket-protocol: chat\r\nSec-WebSocket-Protocol: x,feed.v1.json\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    let mut wire = server.wire().await;
    wire.send_bytewise(request).await;
    let mut session = WsWire::on_wire(wire).await;
    assert_eq!(
        session.header("sec-websocket-protocol"),
        Some("feed.v1.json")
    );
    assert_eq!(session.header("sec-websocket-extensions"), None);
    assert!(is_alive(&mut session).await);
    drop(session);
    server.stop().await;
}

/// What lazy and old clients send, and what is right all the same.
#[tokio::test]
async fn an_unusual_handshake_is_accepted() {
    let server = start(config()).await;
    let offer = |list| format!("\r\nSec-WebSocket-Protocol: {list}\r\n\r\n");
    for (end, chosen) in [
        (offer(""), None),
        (offer(" , ,"), None),
        (offer(",, feed.v1.json ,"), Some("feed.v1.json")),
        ("\r\nContent-Length: 0\r\n\r\n".to_owned(), None),
        (
            "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            None,
        ),
    ] {
        let mut wire = server.wire().await;
        let early = Frame::text(r#"{"ping":{}}"#).encode();
        let request = GOOD.replace("/topics/a", "/topics");
        wire.send([request.replace("\r\n\r\n", &end).as_bytes(), &early].concat())
            .await;
        let mut session = WsWire::on_wire(wire).await;
        assert_eq!(session.header("sec-websocket-protocol"), chosen, "{end}");
        assert_eq!(session.next_text().await, r#"{"pong":{}}"#, "{end}");
    }
    server.stop().await;
}

/// The example of RFC 6455 §4.1 ends in bits that say nothing and are not zero.
#[tokio::test]
async fn a_key_is_any_base64_of_16_bytes() {
    let server = start(config()).await;
    let mut wire = server.wire().await;
    wire.send(GOOD.replace("dGhlIHNhbXBsZSBub25jZQ==", "AQIDBAUGBwgJCgsMDQ4PEC=="))
        .await;
    let head = wire.read_head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(
        head.contains("\r\nSec-WebSocket-Accept: OfS0wDaT5NoxF2gqm7Zj2YtetzM=\r\n"),
        "{head}"
    );
    drop(wire);
    server.stop().await;
}

#[tokio::test]
async fn a_subprotocol_is_echoed_only_if_it_was_offered() {
    let server = start(config()).await;
    let session = server.websocket("/topics").await;
    assert_eq!(session.header("sec-websocket-protocol"), None);
    drop(session);
    server.stop().await;
}

#[tokio::test]
async fn an_own_or_allowed_origin_may_upgrade_and_so_may_none() {
    let mut config = config();
    config.server.allow_origin = vec!["https://app.example".parse().unwrap()];
    let server = start(config).await;
    let own = server.url("");
    for origin in [own.as_str(), "https://app.example"] {
        let fields = [("Origin", origin)];
        let mut session = WsWire::connect_with(server.addr(), "/topics", &fields).await;
        assert!(is_alive(&mut session).await, "{origin}");
    }
    let mut wire = server.wire().await;
    let foreign = [("Origin", "http://app.example")];
    wire.send(handshake("localhost", "/topics", &foreign)).await;
    assert_eq!(wire.read_response().await.status, 403);
    drop(wire);
    server.stop().await;
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_may_read_when_to_publish_again() {
    let mut config = config();
    config.server.allow_origin = vec!["https://app.example".parse().unwrap()];
    let server = start(config).await;
    let client = server.client();
    let request = client.post("/topics/a", "x");
    let reply = request.header("Origin", "https://app.example").send().await;
    let exposed = reply.header("access-control-expose-headers");
    assert_eq!(exposed, Some("Retry-After"));
    server.stop().await;
}

#[tokio::test]
async fn head_is_answered_as_get_without_a_body() {
    let server = start(config()).await;
    let mut wire = server.wire().await;
    wire.send("HEAD /topics/a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    let head = wire.read_head().await;
    assert!(head.starts_with("HTTP/1.1 426 "), "{head}");
    wire.send("HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    let head = wire.read_head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    server.stop().await;
}

#[tokio::test]
async fn a_refused_connection_can_go_on() {
    let server = start(config()).await;
    let mut wire: Wire = server.wire().await;
    wire.send(GOOD.replace("13", "12")).await;
    assert_eq!(wire.read_response().await.status, 426);
    wire.send(GOOD).await;
    let mut session = WsWire::on_wire(wire).await;
    live(&mut session).await;
    assert!(is_alive(&mut session).await);
    drop(session);
    server.stop().await;
}
