//! Every limit at its boundary.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use std::time::Duration;

use common::{Data, Draft, Feed, Retention};
use harness::{
    Fault, FaultProxy, Faults,
    contract::{closes_the_longest_idle, keeps_its_reserve},
};
use serde_json::{Value, json};
use setup::{
    FAILED, OK, SHORT, Sink, endpoint, local, publish, register, send_json, send_until_cut, small,
    soon, start, start_with,
};
use tokio::{net::TcpSocket, time::Instant};
use webhooks::{Config, schedule::Schedule};

/// One attempt with a short time limit.
fn hasty() -> Config {
    Config {
        attempt_timeout: SHORT,
        schedule: Schedule::new([]),
        ..local()
    }
}

#[tokio::test]
async fn at_the_endpoint_limit_one_more_is_refused_and_the_rest_goes_on() {
    let config = Config {
        max_endpoints: 2,
        ..local()
    };
    let (sender, sink) = (start(config).await, Sink::open().await);
    let first = register(&sender, &sink.url()).await;
    let dead = register(&sender, &Sink::open().await.url()).await;
    let registration = json!({"url": sink.url(), "topics": ["a"]}).to_string();
    let refused = send_json(&sender, "/endpoints", &registration).await;
    assert_eq!(refused.status, 503);
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((5..=10).contains(&seconds), "{seconds}");
    assert_eq!(
        refused.json()["detail"],
        "there are already 2 endpoints (--max-endpoints)"
    );
    // Within a second. On a busy machine this may need several tries; a blocked server fails them all.
    soon(async {
        let mut took = Duration::MAX;
        while took > Duration::from_secs(1) {
            let asked = Instant::now();
            assert_eq!(sender.get("/healthz").await.status, 200);
            assert_eq!(sender.post("/topics/other", "hello").await.status, 201);
            took = asked.elapsed();
        }
    })
    .await;
    publish(&sender, "hello").await;
    assert_eq!(sink.answers(OK).await, "hello");
    sender
        .client()
        .request(hyper::Method::DELETE, &dead)
        .send()
        .await;
    register(&sender, &sink.url()).await;
    endpoint(&sender, &first, |endpoint| endpoint["delivered"] == 1).await;
    sender.stop().await;
}

#[tokio::test]
async fn an_endpoint_has_eight_attempts_at_one_time_and_one_while_it_fails() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    for n in 0..12 {
        publish(&sender, &n.to_string()).await;
    }
    let full = endpoint(&sender, &path, |endpoint| endpoint["in_flight"] == 8).await;
    assert!(full["after"].as_str().unwrap().ends_with("-8"), "{full}");
    for _ in 0..8 {
        sink.called().await.wire.send(FAILED).await;
    }
    // The first attempt of the next group is alone until it succeeds.
    let mut only = sink.called().await;
    endpoint(&sender, &path, |endpoint| {
        endpoint["in_flight"] == 1 && endpoint["waiting"] != 0
    })
    .await;
    only.wire.send(OK).await;
    endpoint(&sender, &path, |endpoint| endpoint["in_flight"] == 8).await;
}

/// Dead messages stay, so the limit is that no more are accepted.
#[tokio::test]
async fn when_what_is_owed_and_dead_takes_the_whole_disk_nothing_is_published_until_there_is_room()
{
    let config = Config {
        disk: 300_000,
        schedule: Schedule::new([]),
        ..local()
    };
    let sender = start(config).await;
    let path = register(&sender, &Sink::open().await.url()).await; // nobody is there
    let long = "x".repeat(10_000);
    let refused = soon(async {
        loop {
            let reply = sender.post("/topics/a", long.clone()).await;
            if reply.status != 201 {
                return reply;
            }
        }
    })
    .await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    let client = sender.client();
    let removed = client.request(hyper::Method::DELETE, &path).send().await;
    assert_eq!(removed.status, 204);
    soon(async { while sender.post("/topics/a", "hello").await.status != 201 {} }).await;
    sender.stop().await;
}

#[tokio::test]
async fn the_deadline_holds_for_connecting() {
    // A full backlog: the kernel drops new connections.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let _waiting: Vec<_> = (0..8)
        .map(|_| tokio::spawn(tokio::net::TcpStream::connect(address)))
        .collect();
    let sender = start(hasty()).await;
    let path = register(&sender, &format!("http://{address}/")).await;
    let attempts = async {
        loop {
            publish(&sender, "hello").await;
            let settled = |endpoint: &Value| endpoint["dead"] != 0;
            let endpoint = endpoint(&sender, &path, settled).await;
            if endpoint["last_error"] == "no connection within 0.1 s" {
                break;
            }
        }
    };
    soon(attempts).await;
}

#[tokio::test]
async fn the_head_of_an_answer_has_until_the_deadline_and_its_body_a_second() {
    let (sender, sink) = (start(hasty()).await, Sink::open().await);
    for (begun, last_error) in [
        ("", Some("no answer within 0.3 s")),
        (
            "HTTP/1.1 200 OK\r\nContent-Le",
            Some("no answer within 0.3 s"),
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nslow", None),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
            None,
        ),
        (
            "HTTP/1.1 500 E\r\nContent-Length: 5\r\n\r\nslow",
            Some("answered 500 Internal Server Error"),
        ),
    ] {
        let path = register(&sender, &sink.url()).await;
        publish(&sender, "hello").await;
        let mut called = sink.called().await;
        called.wire.send(begun).await;
        let ended = |endpoint: &Value| endpoint["dead"] == 1 || endpoint["delivered"] == 1;
        let endpoint = endpoint(&sender, &path, ended).await;
        assert_eq!(endpoint["last_error"].as_str(), last_error, "{begun:?}");
        called.wire.closed().await;
        sender
            .client()
            .request(hyper::Method::DELETE, &path)
            .send()
            .await;
    }
    sender.stop().await;
}

#[tokio::test]
async fn of_an_endless_answer_16_kib_are_read() {
    let (sender, sink) = (start(local()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "hello").await;
    let mut called = sink.called().await;
    called.wire.send("HTTP/1.1 200 OK\r\n\r\n").await;
    send_until_cut(&mut called.wire, [b'x'; 4_096]).await;
    endpoint(&sender, &path, |endpoint| endpoint["delivered"] == 1).await;
    sender.stop().await;
}

#[tokio::test]
async fn an_endless_head_is_given_up() {
    let (sender, sink) = (start(hasty()).await, Sink::open().await);
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "hello").await;
    let mut called = sink.called().await;
    called.wire.send("HTTP/1.1 200 OK\r\n").await;
    let fields = "X: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n".repeat(64);
    send_until_cut(&mut called.wire, fields).await;
    endpoint(&sender, &path, |endpoint| endpoint["dead"] == 1).await;
    sender.stop().await;
}

#[tokio::test(start_paused = true)]
async fn silent_clients_do_not_keep_health_and_publishing_out() {
    let mut config = local();
    config.server.max_connections = Some(1);
    let sender = start(config).await;
    keeps_its_reserve(&sender, None).await;
    sender.stop().await;
}

#[tokio::test]
async fn a_newcomer_beyond_the_connections_takes_the_slot_of_the_longest_idle() {
    let mut config = local();
    config.server.max_connections = Some(2);
    let sender = start(config).await;
    closes_the_longest_idle(&sender).await;
    sender.stop().await;
}

#[tokio::test]
async fn a_client_that_takes_no_byte_is_cut_after_the_stall() {
    let mut config = local();
    config.server.stall = SHORT;
    let sender = start(config).await;
    let proxy = FaultProxy::start(sender.addr(), Faults::down(Fault::Stall)).await;
    let mut wire = harness::Wire::connect(proxy.addr()).await;
    // An endless number of pages, none of which is read.
    let requests = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(64);
    send_until_cut(&mut wire, requests).await;
    sender.stop().await;
}

#[tokio::test]
async fn a_body_of_the_limit_is_taken_and_one_byte_more_is_not() {
    let config = Config {
        server: small(),
        ..local()
    };
    let sender = start(config).await;
    let max = small().max_message;
    assert_eq!(sender.post("/topics/a", "x".repeat(max)).await.status, 201);
    assert_eq!(
        sender.post("/topics/a", "x".repeat(max + 1)).await.status,
        413
    );
    let frame = r#"{"url":"http://127.0.0.1:1/","topics":["a"]}"#;
    let registration = |size: usize| format!("{frame}{}", " ".repeat(size - frame.len()));
    assert_eq!(
        send_json(&sender, "/endpoints", &registration(max))
            .await
            .status,
        201
    );
    assert_eq!(
        send_json(&sender, "/endpoints", &registration(max + 1))
            .await
            .status,
        413
    );
    sender.stop().await;
}

#[tokio::test]
async fn of_one_endpoint_a_thousand_messages_wait_and_newer_ones_stay_in_the_feed() {
    let feed = Feed::new(Retention {
        messages: 5_000,
        ..Retention::default()
    });
    let config = Config {
        schedule: Schedule::new([Duration::from_secs(3_600)]),
        ..local()
    };
    let sender = start_with(feed.clone(), config).await;
    let path = register(&sender, &Sink::open().await.url()).await;
    for _ in 0..1_010 {
        let topic = "a".parse().expect("a topic");
        let draft = Draft::new(Data::text("hello"));
        feed.publish(topic, draft).await.expect("memory takes it");
    }
    let waits = |endpoint: &Value| endpoint["in_flight"] == 0 && endpoint["waiting"] == 1_000;
    let full = endpoint(&sender, &path, waits).await;
    assert!(
        full["after"]
            .as_str()
            .is_some_and(|after| after.ends_with("-1000")),
        "{full}"
    );
    let good = Sink::open().await;
    register(&sender, &good.url()).await;
    publish(&sender, "news").await;
    assert_eq!(good.answers(OK).await, "news");
}

#[tokio::test]
async fn of_one_endpoint_eight_mebibytes_wait_and_newer_messages_stay_in_the_feed() {
    let feed = Feed::new(Retention {
        topic_bytes: 32 << 20,
        ..Retention::default()
    });
    let config = Config {
        schedule: Schedule::new([Duration::from_secs(3_600)]),
        ..local()
    };
    let sender = start_with(feed.clone(), config).await;
    let path = register(&sender, &unreachable().await).await;
    for _ in 0..12 {
        let draft = Draft::new(Data::text(&"x".repeat(1 << 20)));
        feed.publish("a".parse().unwrap(), draft).await.unwrap();
    }
    let waits = |endpoint: &Value| endpoint["in_flight"] == 0 && endpoint["waiting"] == 8;
    let full = endpoint(&sender, &path, waits).await;
    assert!(full["after"].as_str().unwrap().ends_with("-8"), "{full}");
}

#[tokio::test]
async fn endpoints_that_hang_take_no_attempt_from_another() {
    let config = Config {
        max_endpoints: 4,
        ..local()
    };
    let sender = start(config).await;
    let hanging = Sink::open().await;
    let mut paths = Vec::new();
    for _ in 0..3 {
        paths.push(register(&sender, &hanging.url()).await);
    }
    for n in 0..8 {
        publish(&sender, &n.to_string()).await;
    }
    for path in &paths {
        endpoint(&sender, path, |endpoint| endpoint["in_flight"] == 8).await;
    }
    let good = Sink::open().await;
    register(&sender, &good.url()).await;
    publish(&sender, "news").await;
    assert_eq!(good.answers(OK).await, "news");
}

/// A URL at which nothing listens.
async fn unreachable() -> String {
    Sink::open().await.url()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_peer_that_vanished_is_given_up() {
    let mut config = local();
    config.server.stall = Duration::from_millis(300);
    config.server.read_timeout = Duration::from_secs(60);
    let server = start(config).await;
    harness::contract::notices_a_vanished_peer(&server).await;
    server.stop().await;
}
