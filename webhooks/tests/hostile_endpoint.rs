//! The sender against hostile endpoints, and its connections to ordinary ones.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use harness::{TestServer, Wire};
use serde_json::{Value, json};
use setup::{
    Called, OK, Program, Scratch, Sink, endpoint, local, publish, register, send_until_cut, soon,
    start,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use webhooks::{Config, schedule::Schedule};

/// One attempt for each message.
fn once() -> Config {
    Config {
        schedule: Schedule::new([]),
        ..local()
    }
}

async fn attempts(sender: &TestServer, path: &str) -> Vec<Value> {
    let deliveries = sender.get(&format!("{path}/deliveries")).await.json();
    deliveries["attempts"].as_array().unwrap().clone()
}

/// One more request on a connection that is open.
async fn again(wire: Wire) -> Called {
    let mut called = Called {
        wire,
        head: String::new(),
        body: Vec::new(),
    };
    called.head = called.wire.read_head().await;
    let length = called.field("content-length").parse().unwrap();
    called.body = called.wire.read_exact(length).await;
    called
}

/// A sender whose only endpoint has given `answer` to a message, and the endpoint's path.
async fn answered(answer: &str) -> (TestServer, String) {
    let (sender, sink) = (start(once()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "hello").await;
    sink.answers(answer).await;
    (sender, path)
}

/// The endpoint answers one delivery with `answer`, and then sends `then` until the connection is closed. The
/// delivery fails with `class`.
async fn fails(answer: &str, then: &str, class: &str) {
    let (sender, sink) = (start(once()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "hello").await;
    let mut called = sink.called().await;
    called.wire.send(answer).await;
    if !then.is_empty() {
        send_until_cut(&mut called.wire, then).await;
    }
    endpoint(&sender, &path, |endpoint| endpoint["dead"] == 1).await;
    let attempts = attempts(&sender, &path).await;
    assert_eq!(attempts[0]["error"], class, "{answer}: {attempts:?}");
    assert_eq!(sender.get("/healthz").await.status, 200);
    sender.stop().await;
}

#[tokio::test]
async fn a_flood_of_interim_answers_is_ended() {
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(100);
    fails("", &interim, "broken").await;
}

#[tokio::test]
async fn an_answer_without_a_status_is_a_failure() {
    for answer in [
        "HTTP/1.1 99999 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\n",
    ] {
        let (sender, path) = answered(answer).await;
        endpoint(&sender, &path, |endpoint| endpoint["dead"] == 1).await;
        assert_eq!(
            attempts(&sender, &path).await[0]["error"],
            "broken",
            "{answer}"
        );
        sender.stop().await;
    }
}

/// The endpoint has the message, so a repeat would only be a duplicate.
#[tokio::test]
async fn after_a_whole_2xx_head_nothing_can_fail_a_delivery() {
    let many: String = (0..120).map(|field| format!("X-{field}: y\r\n")).collect();
    for answer in [
        "HTTP/1.1 200 OK\r\nServer : sloppy\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Control: \u{1}\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        "HTTP/1.1 204\r\nTransfer-Encoding: x\r\n\r\n",
        "HTTP/1.1 103 E\r\n\r\nHTTP/1.1 202 A\r\nbad field\r\n\r\n",
        &format!("HTTP/1.1 200 OK\r\n{many}\r\n"),
    ] {
        let (sender, path) = answered(answer).await;
        let ended = |endpoint: &Value| endpoint["dead"] == 1 || endpoint["delivered"] == 1;
        let endpoint = endpoint(&sender, &path, ended).await;
        assert_eq!(endpoint["delivered"], 1, "{answer}: {endpoint}");
        sender.stop().await;
    }
}

/// It is throttling, so the delivery waits. Without `Retry-After` it would be a failure, and here the last one.
#[tokio::test]
async fn a_sloppy_field_does_not_hide_retry_after() {
    let others = |count: usize| "X: y\r\n".repeat(count - 2);
    for (sloppy, state) in [
        ("Server : sloppy\r\n", "waiting"),
        ("X-Folded: a\r\n b\r\n", "waiting"),
        ("X-Control: \u{1}\r\n", "waiting"),
        ("no colon\r\n", "waiting"),
        (&others(128), "waiting"),
        (&others(129), "dead"),
    ] {
        let fields = format!("{sloppy}Retry-After: 60\r\nContent-Length: 0\r\n");
        let (sender, path) = answered(&format!("HTTP/1.1 503 S\r\n{fields}\r\n")).await;
        let ended = |endpoint: &Value| endpoint["dead"] == 1 || endpoint["waiting"] == 1;
        let endpoint = endpoint(&sender, &path, ended).await;
        assert_eq!(endpoint[state], 1, "{sloppy:.100}: {endpoint}");
    }
}

/// They come when the next request is already under way.
#[tokio::test]
async fn bytes_after_an_answer_do_not_fail_the_next_delivery() {
    for answer in [
        "HTTP/1.1 204 N\r\n\r\n",
        "HTTP/1.1 204 N\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ] {
        let (sender, sink) = (start(once()).await, Sink::open().await);
        let path = register(&sender, &sink.url()).await;
        publish(&sender, "hello").await;
        let mut called = sink.called().await;
        called.wire.send(answer).await;
        endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 1).await;
        publish(&sender, "again").await;
        let mut called = again(called.wire).await;
        called.wire.send("2\r\nok\r\n0\r\n\r\n").await;
        for byte in answer.split_inclusive(|_| true) {
            called.wire.send(byte).await;
        }
        let ended = |endpoint: &Value| endpoint["dead"] == 1 || endpoint["delivered"] == 2;
        let endpoint = endpoint(&sender, &path, ended).await;
        assert_eq!(endpoint["delivered"], 2, "{answer}: {endpoint}");
        sender.stop().await;
    }
}

#[tokio::test]
async fn endless_extensions_of_a_chunk_are_ended() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "hello").await;
    let mut called = sink.called().await;
    called
        .wire
        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;")
        .await;
    send_until_cut(&mut called.wire, &"x".repeat(1_024)).await;
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 1).await;
    sender.stop().await;
}

#[tokio::test]
async fn a_redirect_to_the_metadata_service_is_told_and_not_followed() {
    let (sender, sink) = (start(once()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "hello").await;
    sink.answers("HTTP/1.1 307 T\r\nLocation: http://169.254.169.254/latest/meta-data/\r\nContent-Length: 0\r\n\r\n")
        .await;
    let dead = endpoint(&sender, &path, |endpoint| endpoint["dead"] == 1).await;
    let told =
        "answered 307 Temporary Redirect; not followed to http://169.254.169.254/latest/meta-data/";
    assert_eq!(dead["last_error"], told);
    sender.stop().await;
}

/// Every delivery of an endpoint keeps its last failure. 16 KB each would fill the disk.
#[tokio::test]
async fn of_a_long_location_a_hundred_characters_are_kept() {
    let (sender, sink) = (start(once()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "hello").await;
    let location = "l".repeat(15_000);
    sink.answers(&format!(
        "HTTP/1.1 302 T\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    ))
    .await;
    let dead = endpoint(&sender, &path, |endpoint| endpoint["dead"] == 1).await;
    let told = format!("answered 302 Found; not followed to {}", &location[..100]);
    assert_eq!(dead["last_error"], told);
    let list = sender.get(&format!("{path}/deliveries")).await;
    assert_eq!(list.json()["dead"][0]["reason"], told);
    sender.stop().await;
}

/// The sender requests no encoding, and decodes none.
#[tokio::test]
async fn a_bomb_is_so_many_bytes_and_not_what_they_unpack_to() {
    let (sender, sink) = (start(once()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "hello").await;
    let mut called = sink.called().await;
    assert!(!called.head.to_lowercase().contains("accept-encoding"));
    let bomb = "\u{1f}\u{8}".repeat(500);
    let head = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length";
    called
        .wire
        .send(format!("{head}: {}\r\n\r\n{bomb}", bomb.len()))
        .await;
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 1).await;
    sender.stop().await;
}

#[tokio::test]
async fn a_retry_after_beyond_all_measure_is_a_day_or_nothing() {
    for (asked, expected) in [("99999999999999999999", 86_400), ("1e99", 0)] {
        let config = Config {
            schedule: Schedule::new([Duration::ZERO]),
            ..local()
        };
        let (sender, sink) = (start(config).await, Sink::open().await);
        let path = register(&sender, &sink.url()).await;
        publish(&sender, "hello").await;
        sink.answers(&format!(
            "HTTP/1.1 500 S\r\nRetry-After: {asked}\r\nContent-Length: 0\r\n\r\n"
        ))
        .await;
        endpoint(&sender, &path, |endpoint| {
            endpoint["last_error"].is_string()
        })
        .await;
        let attempt = attempts(&sender, &path).await[0].clone();
        let time =
            |field: &str| humantime::parse_rfc3339(attempt[field].as_str().unwrap()).unwrap();
        let pause = time("next_attempt").duration_since(time("at")).unwrap();
        assert!(
            (expected..expected + 60).contains(&pause.as_secs()),
            "{pause:?}"
        );
    }
}

#[tokio::test]
async fn gone_is_the_end_of_a_delivery() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "hello").await;
    sink.answers("HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
        .await;
    endpoint(&sender, &path, |endpoint| endpoint["dead"] == 1).await;
    assert_eq!(attempts(&sender, &path).await.len(), 1);
    sender.stop().await;
}

#[tokio::test]
async fn an_overload_of_different_messages_spends_no_other_messages_attempts() {
    for status in [429, 502, 503, 504] {
        let config = Config {
            schedule: Schedule::new([Duration::from_secs(3_600)]),
            ..local()
        };
        let (sender, sink) = (start(config).await, Sink::open().await);
        let path = register(&sender, &sink.url()).await;
        for failed in 1..=3 {
            publish(&sender, "hello").await;
            sink.answers(&format!("HTTP/1.1 {status} S\r\nContent-Length: 0\r\n\r\n"))
                .await;
            endpoint(&sender, &path, |endpoint| endpoint["waiting"] == failed).await;
        }
        let paused = sender.get(&path).await.json();
        publish(&sender, "another").await;
        let still = sender.get(&path).await.json();
        assert_eq!(
            still["after"], paused["after"],
            "{status}: it is not claimed"
        );
        assert_eq!(attempts(&sender, &path).await.len(), 3);
    }
}

/// What a hostile endpoint does to each request, as long as the connection is open.
const HOSTILE: [(&str, &str); 9] = [
    ("HTTP/1.1 200 OK\r\n\r\n", "endless "),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "8\r\nendless \r\n",
    ),
    ("HTTP/1.1 200 OK\r\n", "x: endless\r\n"),
    ("", "HTTP/1.1 103 Early Hints\r\n\r\n"),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        "x: endless\r\n",
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "",
    ),
    (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "x",
    ),
    (
        "HTTP/1.1 500 E\r\nRetry-After: 1e99\r\nContent-Length: 0\r\n\r\n",
        "",
    ),
    (
        "HTTP/1.1 307 T\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
        "",
    ),
];

/// Does it on each connection as soon as a request has come.
async fn hostile(answer: &'static str, then: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let then = then.repeat(1_000);
    tokio::spawn(async move {
        loop {
            let ((mut stream, _), then) = (listener.accept().await.unwrap(), then.clone());
            tokio::spawn(async move {
                let _request = stream.read(&mut [0; 4_096]).await?;
                stream.write_all(answer.as_bytes()).await?;
                while !then.is_empty() {
                    stream.write_all(then.as_bytes()).await?;
                }
                stream.read(&mut [0]).await
            });
        }
    });
    url
}

/// All of them at once, and one healthy endpoint. The sender is its own process.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hostile_take_no_memory_and_delay_nobody_else() {
    let scratch = Scratch::new();
    let sender = Program::sender(&scratch, |_| {});
    let client = sender.client();
    let mut paths = Vec::new();
    let mut urls = vec![hostile("", "").await]; // says nothing
    for (answer, then) in HOSTILE {
        urls.push(hostile(answer, then).await);
    }
    let sink = Sink::open().await;
    urls.push(sink.url());
    for url in urls {
        let registration = json!({"url": url, "topics": ["a"]}).to_string();
        let request = client.post("/endpoints", registration);
        let request = request.header("content-type", "application/json");
        paths.push(request.send().await.header("location").unwrap().to_owned());
    }
    let before = sender.resident();
    for number in 0..200 {
        let text = number.to_string();
        let published = client.post("/topics/a", text.clone()).send().await;
        assert_eq!(published.status, 201);
        assert_eq!(sink.answers(OK).await, text, "it comes at once and in turn");
    }
    let grown = sender.resident().saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB more");
    // A whole head with 200 counts, whatever follows it. Nothing else does.
    for (path, (answer, then)) in paths[1..].iter().zip(HOSTILE) {
        let endpoint = client.get(path).send().await.json();
        let believed = endpoint["delivered"] != 0;
        let expected = answer.starts_with("HTTP/1.1 200") && answer.contains("\r\n\r\n");
        assert_eq!(believed, expected, "{answer}{then}: {endpoint}");
    }
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_delivery() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "0").await;
    let mut called = sink.called().await;
    for number in 1..5 {
        called.wire.send(OK).await;
        endpoint(&sender, &path, |endpoint| endpoint["delivered"] == number).await;
        publish(&sender, &number.to_string()).await;
        called = soon(again(called.wire)).await;
        assert_eq!(called.text(), number.to_string());
    }
    called.wire.send(OK).await;
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 5).await;
    sender.stop().await;
}

/// Like a server whose idle limit ends just as the next request comes.
#[tokio::test]
async fn a_kept_connection_that_ends_without_an_answer_costs_no_attempt() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "first").await;
    let mut called = sink.called().await;
    called.wire.send(OK).await;
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 1).await;
    publish(&sender, "second").await;
    again(called.wire).await.wire.reset();
    assert_eq!(sink.answers(OK).await, "second");
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 2).await;
    let attempts = attempts(&sender, &path).await;
    assert_eq!(attempts.len(), 2);
    assert!(
        attempts
            .iter()
            .all(|attempt| attempt["status"] == json!(200))
    );
    sender.stop().await;
}

#[tokio::test]
async fn a_kept_connection_that_began_to_answer_is_a_failure_like_any() {
    let (sender, sink) = (start(once()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "first").await;
    let mut called = sink.called().await;
    called.wire.send(OK).await;
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 1).await;
    publish(&sender, "second").await;
    let mut called = again(called.wire).await;
    called.wire.send("HTTP/1.1 2").await;
    called.wire.half_close().await;
    endpoint(&sender, &path, |endpoint| endpoint["dead"] == 1).await;
    assert_eq!(attempts(&sender, &path).await[1]["error"], "broken");
    sender.stop().await;
}

#[tokio::test]
async fn what_follows_16_kib_is_left_unread_and_the_connection_is_not_kept() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "first").await;
    let mut called = sink.called().await;
    let long = "x".repeat(20_000);
    called
        .wire
        .send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n{long}"
        ))
        .await;
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 1).await;
    called.wire.closed().await;
    sender.stop().await;
}

/// How often a message was accepted, by its id.
type Accepted = Arc<Mutex<BTreeMap<String, usize>>>;

/// How an endpoint that fails in every way treats a request, and whether it then has the message.
const FICKLE: [(&str, bool); 6] = [
    (OK, true),
    ("HTTP/1.1 500 E\r\nContent-Length: 0\r\n\r\n", false),
    ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", true),
    ("", false),
    ("HTTP/1.1 204 N\r\n\r\n", true),
    ("HTTP/1.1 2", false),
];
/// It does this rarely, because each time costs a second.
const THROTTLED: &str = "HTTP/1.1 429 T\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n";

async fn fickle(mut stream: TcpStream, accepted: Accepted) -> std::io::Result<()> {
    let mut request = Vec::new();
    while stream.read_buf(&mut request).await? > 0 {
        if !request.ends_with(b"}") {
            continue;
        }
        let text = String::from_utf8(std::mem::take(&mut request)).unwrap();
        let (_, id) = text.split_once("webhook-id: ").unwrap();
        let (id, _) = id.split_once('\r').unwrap();
        let (answer, accepts) = match rand::random_range(0..120) {
            0 => (THROTTLED, false),
            number => FICKLE[number % FICKLE.len()],
        };
        if accepts {
            *accepted.lock().unwrap().entry(id.to_owned()).or_default() += 1;
        }
        stream.write_all(answer.as_bytes()).await?;
        if !answer.ends_with("\r\n\r\n") {
            break;
        }
    }
    Ok(())
}

#[tokio::test]
async fn before_an_endpoint_that_fails_in_every_way_each_message_is_delivered_once_or_dead() {
    const MESSAGES: u64 = 200;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let accepted = Accepted::default();
    let counted = accepted.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(fickle(stream, counted.clone()));
        }
    });
    let sender = start(local()).await;
    let path = register(&sender, &url).await;
    for _ in 0..MESSAGES {
        publish(&sender, "hello").await;
    }
    let count = |endpoint: &Value, field: &str| endpoint[field].as_u64().unwrap();
    let settled =
        |endpoint: &Value| count(endpoint, "delivered") + count(endpoint, "dead") == MESSAGES;
    let last = endpoint(&sender, &path, settled).await;
    assert_eq!(last["waiting"], 0);
    assert!(count(&last, "dead") > 0, "{last}");
    let accepted = accepted.lock().unwrap();
    assert_eq!(accepted.len() as u64, count(&last, "delivered"));
    assert!(accepted.values().all(|times| *times == 1));
}
