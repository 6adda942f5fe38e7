//! What all five servers promise about invalid requests, caches, vanished peers, connection limits, and a log
//! without a reader. Each member's tests call these functions.

mod http11;
#[cfg(unix)]
mod log;

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

pub use self::http11::{is_not_confused, speaks_http};
#[cfg(unix)]
pub use self::log::{
    exits_at_a_second_signal, gap, outlives_its_log, writes_few_and_short_lines,
    writes_few_and_short_lines_about_gaps,
};
use super::{End, RawResponse, TestServer, Wire};

/// `--max-message` of the server that [`refuses_bad_input`] gets. Small, so that its limit is quickly reached.
pub const MAX_MESSAGE: usize = 1_024;
/// Its `--read-timeout`, in seconds.
pub const READ_TIMEOUT: f64 = 0.5;
/// The only origin that the server allows.
pub const ALLOWED_ORIGIN: &str = "app://page.example";

/// The longest `detail`, in characters. It may repeat a part of the request.
const MAX_DETAIL: usize = 300;

/// One invalid request.
#[derive(Debug, Clone)]
pub struct Row {
    /// The whole request, as it is sent.
    pub request: Vec<u8>,
    /// The status of the answer.
    pub status: u16,
    /// The problem's `detail`, or its beginning if the rest is another crate's text. Empty if hyper itself refuses,
    /// with a bare head.
    pub detail: String,
}

impl Row {
    /// A row without a body. `"GET /x"` becomes a whole HTTP/1.1 head with a `Host`.
    pub fn head(line: &str, fields: &[&str], status: u16, detail: impl Into<String>) -> Self {
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        Self {
            request: request.into(),
            status,
            detail: detail.into(),
        }
    }

    /// A POST with a body.
    pub fn post(
        target: &str,
        fields: &[&str],
        body: &[u8],
        status: u16,
        detail: impl Into<String>,
    ) -> Self {
        let length = format!("Content-Length: {}", body.len());
        let mut row = Self::head(
            &format!("POST {target}"),
            &[fields, &[&length]].concat(),
            status,
            detail,
        );
        row.request.extend_from_slice(body);
        row
    }
}

/// Sends each row on its own connection, and compares the answer. After each row, publishes once to check that the
/// server still works.
///
/// # Panics
/// If an answer differs. The message names the row.
pub async fn refuses_bad_input(server: &TestServer, rows: impl IntoIterator<Item = Row>) {
    for row in rows {
        let mut wire = server.wire().await;
        wire.send(&row.request).await;
        check(&row, &wire.read_response().await);
        let good = server.post("/topics/good", "news").await;
        assert_eq!(
            good.status,
            201,
            "after {:?}",
            row.request.escape_ascii().to_string()
        );
    }
}

fn check(row: &Row, response: &RawResponse) {
    let request = row.request.escape_ascii().to_string();
    assert_eq!(
        response.status,
        row.status,
        "{request}: {}",
        response.text()
    );
    if row.detail.is_empty() {
        assert_eq!(
            response.text(),
            "",
            "{request}: hyper's own refusal is a bare head"
        );
        return;
    }
    assert_eq!(
        response.header("content-type"),
        Some("application/problem+json"),
        "{request}"
    );
    let problem: Value = serde_json::from_str(response.text()).expect("a problem is JSON");
    assert_eq!(problem["status"], row.status, "{request}");
    assert_eq!(
        response.header("x-content-type-options"),
        Some("nosniff"),
        "{request}"
    );
    assert_eq!(response.header("vary"), Some("origin"), "{request}");
    assert_eq!(
        response.header("cache-control"),
        Some("no-store"),
        "{request}"
    );
    assert_eq!(
        response.header("allow").is_some(),
        row.status == 405,
        "{request}"
    );
    let detail = problem["detail"].as_str().expect("a problem has a detail");
    assert!(detail.len() <= MAX_DETAIL, "{request}: {detail}");
    assert!(detail.starts_with(&row.detail), "{request}: {detail}");
}

/// No cache in front answers for the server: for its health, its page, or an error.
///
/// # Panics
/// If a cache may store an answer.
pub async fn leaves_nothing_to_caches(server: &TestServer) {
    for (request, status, cache_control) in [
        ("GET /healthz", 200, "no-store"),
        // Some load balancers send it by default, with or without a path.
        ("OPTIONS /healthz", 200, "no-store"),
        ("OPTIONS /", 200, "no-store"),
        ("PUT /healthz", 405, "no-store"),
        ("GET /nothing", 404, "no-store"),
        // A browser asks the server at each load. `no-store` would also disable its back button for the page.
        ("GET /", 200, "no-cache"),
    ] {
        let mut wire = server.wire().await;
        wire.send(format!("{request} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
            .await;
        let answer = wire.read_response().await;
        assert_eq!(answer.status, status, "{request}");
        let said = answer.header("cache-control");
        assert_eq!(said, Some(cache_control), "{request}");
    }
}

/// The server gives up a peer that vanished after `--stall`, even if everything sent to it fits into the kernel's
/// buffer. `server` has a short `stall`, and a `read_timeout` that is longer than patience.
///
/// # Panics
/// If its connection stays open.
#[cfg(target_os = "linux")]
pub async fn notices_a_vanished_peer(server: &TestServer) {
    let mut vanished = server.wire().await;
    let get = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    vanished.send(get).await;
    assert_eq!(vanished.read_response().await.status, 200);
    vanished.vanish();
    vanished.send(get).await;
    vanished.given_up().await;
}

const TOPIC: &str = "a topic is words of [A-Za-z0-9_-] joined by single dots, at most 64 bytes";
const JSON: &str = "Content-Type: application/json";

/// What every server refuses: invalid publishes, bodies, paths, methods, hosts, heads.
pub fn rows_of_every_server() -> Vec<Row> {
    [
        topics(),
        types_and_keys(),
        routes(),
        contents(),
        lengths(),
        browsers(),
        heads(),
    ]
    .concat()
}

fn topics() -> Vec<Row> {
    let long = "t".repeat(65);
    let names = ["", "a..b", "a%20b", "a,b", "a/b", &long];
    let row = |name: &&str| {
        let detail = format!("topic {name:?}: {TOPIC}");
        Row::post(&format!("/topics/{name}"), &[], b"x", 400, detail)
    };
    let named = names.iter().map(row);
    named.chain([of_any_length()]).collect()
}

/// An error repeats only the beginning of a peer's text.
fn of_any_length() -> Row {
    let name = "t".repeat(8_000);
    let detail = format!("topic {:?}: {TOPIC}", &name[..100]);
    Row::post(&format!("/topics/{name}"), &[], b"x", 400, detail)
}

fn types_and_keys() -> Vec<Row> {
    let kind = |query: &str, detail: &str| {
        Row::post(&format!("/topics/a?{query}"), &[], b"x", 400, detail)
    };
    let key = |fields: &[&str], detail: &str| Row::post("/topics/a", fields, b"x", 400, detail);
    let bad_key = "an Idempotency-Key is 1 to 255 visible ASCII bytes";
    vec![
        kind("type=", "parameter type is empty"),
        kind("type=a&type=b", "parameter type is repeated"),
        kind(
            "type=a%20b",
            "parameter type=a%20b: type \"a%20b\": a type is 1 to 128 bytes of [A-Za-z0-9._-]",
        ),
        key(&["Idempotency-Key: a b"], bad_key),
        key(&["Idempotency-Key:"], bad_key),
        key(
            &["Idempotency-Key: a", "Idempotency-Key: a"],
            "Idempotency-Key is repeated",
        ),
    ]
}

fn routes() -> Vec<Row> {
    let empty = &["Content-Length: 0"];
    let reads = "this path takes GET, HEAD";
    let body = &["Content-Length: 1", "", "x"];
    let long = ["/", &"n".repeat(8_000)].concat();
    let cut = format!("nothing is at {}", &long[..100]);
    vec![
        Row::head("DELETE /topics/a", &[], 405, "this path takes "),
        Row::head("POST /healthz", empty, 405, reads),
        Row::head("POST /", empty, 405, reads),
        Row::head("GET /nothing", &[], 404, "nothing is at /nothing"),
        Row::head(&format!("GET {long}"), &[], 404, cut),
        Row::head("GET /healthz", body, 400, "a GET has no body"),
    ]
}

fn contents() -> Vec<Row> {
    let nested = ["[".repeat(65), "]".repeat(65)].concat();
    let json = |body: &[u8], detail: &str| Row::post("/topics/a", &[JSON], body, 400, detail);
    vec![
        json(b"{", "the body is not JSON: "),
        json(b"", "the body is not JSON: "),
        json(
            br#""\ud800""#,
            "the body has a lone surrogate escape, which is no character",
        ),
        json(nested.as_bytes(), "the body nests deeper than 64"),
        json(b"[1e999]", "the body has a number that no f64 can hold"),
        json(
            "1".repeat(1_001).as_bytes(),
            "the body has a number of more than 1000 bytes",
        ),
        json(b"\"\xff\"", "the body is not UTF-8 at byte 1"),
        Row::post(
            "/topics/a",
            &[],
            b"\xff",
            400,
            "the body is not UTF-8 at byte 0",
        ),
    ]
}

fn lengths() -> Vec<Row> {
    let over = format!("the body is over {MAX_MESSAGE} bytes");
    let late = format!("the body took longer than {READ_TIMEOUT} s");
    let big = vec![b'x'; MAX_MESSAGE + 1];
    let head =
        |fields: &[&str], status, detail: &str| Row::head("POST /topics/a", fields, status, detail);
    let mut chunked = head(&["Transfer-Encoding: chunked"], 413, &over);
    chunked
        .request
        .extend(format!("{:x}\r\n", big.len()).bytes());
    chunked.request.extend(&big);
    chunked.request.extend(b"\r\n0\r\n\r\n");
    let endless = "Content-Length: 4000000000";
    vec![
        Row::post("/topics/a", &[], &big, 413, over.clone()),
        chunked,
        head(&[endless, "Expect: 100-continue"], 413, &over),
        // The rest of these bodies never comes.
        head(&[endless], 408, &late),
        head(&["Content-Length: 10", "", "slow"], 408, &late),
    ]
}

fn browsers() -> Vec<Row> {
    let origin = |origin: &str| {
        let field = format!("Origin: {origin}");
        Row::post(
            "/topics/a",
            &[&field],
            b"x",
            403,
            format!("Origin {origin} is not allowed (--allow-origin)"),
        )
    };
    let raw = |request: &str, status, detail: &str| Row {
        request: request.into(),
        status,
        detail: detail.into(),
    };
    let allowed = format!("Origin: {ALLOWED_ORIGIN}");
    let two_origins = "Origin is repeated";
    vec![
        origin("https://elsewhere.example"),
        origin("null"),
        origin("http://localhost:1"),
        raw(
            "GET / HTTP/1.1\r\nHost: rebound.example\r\n\r\n",
            421,
            "Host rebound.example is neither a loopback name",
        ),
        Row::head("GET /", &["Origin: null", "Origin: null"], 400, two_origins),
        Row::post("/topics/a", &[&allowed, &allowed], b"x", 400, two_origins),
        raw("GET / HTTP/1.1\r\n\r\n", 400, "Host is missing"),
        raw(
            "GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
            400,
            "Host is repeated",
        ),
        raw(
            "GET / HTTP/1.1\r\nHost: a@localhost\r\n\r\n",
            400,
            "Host is not HOST[:PORT]",
        ),
    ]
}

fn heads() -> Vec<Row> {
    let field = format!("X: {}", "x".repeat(32 * 1_024));
    vec![
        Row {
            request: b"NONSENSE\r\n\r\n".to_vec(),
            status: 400,
            detail: String::new(),
        },
        Row::head("GET /\u{1}", &[], 400, ""),
        Row::head("GET /", &[&field], 431, ""),
    ]
}

/// What every server that answers `GET /topics/{a,b}?after=C` refuses. `fields` are header fields that the technique
/// needs.
pub fn rows_of_subscribing(fields: &[&str]) -> Vec<Row> {
    let many = (0..65)
        .map(|n| format!("t{n}"))
        .collect::<Vec<_>>()
        .join(",");
    let get = |target: &str, detail: String| {
        Row::head(&format!("GET /topics/{target}"), fields, 400, detail)
    };
    let topic = |name: &str| format!("topic {name:?}: {TOPIC}");
    let cursor = "a cursor is EPOCH-SEQ, such as m3k9qf-42";
    vec![
        get("", topic("")),
        get("a,,b", topic("")),
        get("a,b%20c", topic("b%20c")),
        get("a%252Cb", topic("a%252Cb")),
        get(&many, "more than 64 topics".into()),
        get("a?newest=", "parameter newest is empty".into()),
        get("a?newest=1&newest=1", "parameter newest is repeated".into()),
        get("a?newest=0", "parameter newest=0: it is 1 or absent".into()),
        get(
            "a?newest=true",
            "parameter newest=true: it is 1 or absent".into(),
        ),
        get("a?after=", "parameter after is empty".into()),
        get(
            "a?after=e-1&after=e-1",
            "parameter after is repeated".into(),
        ),
        get(
            "a?after=newest",
            format!("parameter after=newest: {cursor}"),
        ),
        get("a?after=e-01", format!("parameter after=e-01: {cursor}")),
        get(
            &format!("a?after={}", "e".repeat(8_000)),
            format!("parameter after={}: {cursor}", "e".repeat(100)),
        ),
        get(
            "a?after=e-9223372036854775808",
            format!("parameter after=e-9223372036854775808: {cursor}"),
        ),
    ]
}

/// What a server that answers with pages refuses.
pub fn rows_of_pages() -> Vec<Row> {
    let row =
        |query: &str, detail: &str| Row::head(&format!("GET /topics/a?{query}"), &[], 400, detail);
    let not_a_limit = |text: &str| {
        let words = "a limit is a whole number from 1 to 500";
        row(
            &format!("limit={text}"),
            &format!("parameter limit={text}: {words}"),
        )
    };
    vec![
        not_a_limit("0"),
        not_a_limit("501"),
        not_a_limit("-1"),
        not_a_limit("1.0"),
        not_a_limit("+5"),
        not_a_limit("007"),
        not_a_limit("all"),
        not_a_limit("99999999999999999999"),
        row("limit=", "parameter limit is empty"),
        row("limit", "parameter limit is empty"),
        row("limit=1&limit=1", "parameter limit is repeated"),
    ]
}

/// A page of the allowed origin may send credentials and any header field. No page may frame the server's page.
///
/// # Panics
/// If an answer lacks a field.
pub async fn trusts_the_allowed_origin(server: &TestServer) {
    let preflight = format!(
        "OPTIONS /topics/a HTTP/1.1\r\nHost: localhost\r\nOrigin: {ALLOWED_ORIGIN}\r\n\
         Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: traceparent\r\n\r\n"
    );
    let publish = format!(
        "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nOrigin: {ALLOWED_ORIGIN}\r\n\
         traceparent: 00\r\nContent-Length: 1\r\n\r\nx"
    );
    let page =
        format!("GET / HTTP/1.1\r\nHost: app.localhost.\r\nOrigin: {ALLOWED_ORIGIN}\r\n\r\n");
    let no_frames = ("content-security-policy", "frame-ancestors 'none'");
    let asked = ("access-control-allow-headers", "traceparent");
    let nosniff = ("x-content-type-options", "nosniff");
    for (request, status, own) in [
        (preflight, 204, asked),
        (publish, 201, nosniff),
        (page, 200, no_frames),
    ] {
        let mut wire = server.wire().await;
        wire.send(&request).await;
        let response = wire.read_response().await;
        assert_eq!(response.status, status, "{request}");
        for (name, value) in [
            own,
            ("access-control-allow-origin", ALLOWED_ORIGIN),
            ("access-control-allow-credentials", "true"),
            ("vary", "origin"),
        ] {
            assert_eq!(response.header(name), Some(value), "{name}: {request}");
        }
    }
}

/// A client that half-closes after its request still gets its answer (RFC 9112 §9.6). Repeated, because the server
/// may see the request and the FIN together or one after the other.
///
/// # Panics
/// If an answer does not come.
pub async fn answers_who_sends_no_more(server: &TestServer) {
    let publish = "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx";
    let page = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (request, status) in [(publish, 201), (page, 200)].repeat(50) {
        let mut wire = server.wire().await;
        wire.send(request).await;
        wire.half_close().await;
        assert_eq!(wire.read_response().await.status, status, "{request}");
    }
}

/// The same for a client that waits: it gets a message that is published after its FIN. `request` subscribes to the
/// topic `late`.
///
/// # Panics
/// If the message does not come.
pub async fn tells_who_sends_no_more(server: &TestServer, request: &str) {
    for round in 0..10 {
        let topic = format!("/topics/late{round}");
        let mut wire = server.wire().await;
        wire.send(request.replace("/topics/late", &topic)).await;
        wire.half_close().await;
        // When this is answered, the server has most likely seen the FIN.
        assert_eq!(server.get("/healthz").await.status, 200);
        server.post(&topic, "after its last word").await;
        wire.read_until("\"data\":\"after its last word\"}").await;
    }
}

/// At the connection limit, health checks and publishing are answered at once, even if other clients are silent,
/// slow or refused. The connection that was idle longest is closed for the next one. `server` has one free
/// connection. `refused` is the request of one subscriber too many, if the server has such a limit.
///
/// Run it under a paused clock. That moves only when every task waits, so a busy machine does not matter.
///
/// # Panics
/// If a health check or a publish is not answered within a second.
pub async fn keeps_its_reserve(server: &TestServer, refused: Option<&str>) {
    let silent = ["", "GET / HTTP/1.1\r\nHost: loc"];
    let half = "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf";
    let answered = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut open = Vec::new();
    for sent in silent
        .into_iter()
        .chain([half, answered])
        .chain(refused)
        .cycle()
        .take(15)
    {
        let mut wire = server.wire().await;
        wire.send(sent).await;
        if ![silent[0], silent[1], half].contains(&sent) {
            wire.read_head().await;
        }
        open.push(wire);
        let begun = Instant::now();
        assert_eq!(server.get("/healthz").await.status, 200);
        assert_eq!(server.post("/topics/good", "news").await.status, 201);
        let waited = begun.elapsed();
        assert!(waited < Duration::from_secs(1), "{waited:?} after {sent:?}");
    }
}

/// At the connection limit, the connection that was idle longest is closed. `server` has room for two.
///
/// # Panics
/// If another one is closed.
pub async fn closes_the_longest_idle(server: &TestServer) {
    let get = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let (mut first, mut second) = (server.wire().await, server.wire().await);
    for wire in [&mut first, &mut second] {
        wire.send(get).await;
        assert_eq!(wire.read_response().await.status, 200);
    }
    first.send(get).await;
    assert_eq!(first.read_response().await.status, 200);
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(second.closed().await, (End::Eof, Vec::new()));
    first.send(get).await;
    assert_eq!(first.read_response().await.status, 200);
}

/// A client that does not read its answer is cut after 30 s. `start` returns a server with room for one connection.
/// Its answer to `GET /topics/news` is larger than all buffers. Run it under a paused clock.
///
/// # Panics
/// If it is cut earlier or later.
pub async fn cuts_an_unread_answer(start: impl AsyncFn() -> TestServer) {
    for (seconds, open) in [(29, 1), (31, 0)] {
        let server = start().await;
        let _stalled = does_not_read(&server).await;
        sleep(Duration::from_secs(seconds)).await;
        // An open one ends during the drain, which takes up to ten seconds.
        assert_eq!(server.stop().await.finished, open, "after {seconds} s");
    }
}

/// A client that does not read its answer loses its slot to the next client at once. `server` is as in
/// [`cuts_an_unread_answer`].
///
/// # Panics
/// If the next client waits.
pub async fn closes_who_does_not_read(server: &TestServer) {
    let _stalled = does_not_read(server).await;
    let asked = Instant::now();
    assert_eq!(server.get("/healthz").await.text(), "ok\n");
    assert_eq!(asked.elapsed().as_secs(), 0);
}

async fn does_not_read(server: &TestServer) -> Wire {
    let mut wire = Wire::connect_narrow(server.addr(), 4_096).await;
    wire.send("GET /topics/news HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    wire.read_exact(1).await; // It is being answered.
    wire
}

/// A connection that sends nothing, or a head that never ends, is closed without an answer.
///
/// # Panics
/// If the server answers, or keeps the connection.
pub async fn closes_slow_heads(server: &TestServer) {
    for beginning in ["", "GET / HTTP/1.1\r\nHost: loc"] {
        let mut wire = server.wire().await;
        wire.send(beginning).await;
        let (_, bytes) = wire.closed().await;
        assert_eq!(bytes.escape_ascii().to_string(), "", "after {beginning:?}");
        assert_eq!(server.post("/topics/good", "news").await.status, 201);
    }
}

/// If `Content-Length` is too short, the rest of the body is not a valid request: hyper's bare 400.
///
/// # Panics
/// If the rest is answered as a request, or if the next connection fails.
pub async fn refuses_what_follows_a_short_length(server: &TestServer) {
    let mut wire = server.wire().await;
    wire.send("POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nfour and more\r\n\r\n").await;
    assert_eq!(wire.read_response().await.status, 201);
    let rest = wire.read_response().await;
    assert_eq!((rest.status, rest.text()), (400, ""));
    assert_eq!(server.post("/topics/good", "news").await.status, 201);
}

/// A body that is shorter than its `Content-Length` publishes nothing.
///
/// # Panics
/// If it is answered like a whole body.
pub async fn publishes_no_half_bodies(server: &TestServer) {
    let mut wire = server.wire().await;
    wire.send("POST /topics/half HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf")
        .await;
    wire.half_close().await;
    let (_, bytes) = wire.closed().await;
    let answer = bytes.escape_ascii().to_string();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
        "{answer}"
    );
}
