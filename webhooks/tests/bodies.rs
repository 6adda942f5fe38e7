//! Large or slow bodies at the receiver: how much memory they may hold, and that others are not delayed.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use std::time::Duration;

use common::{Feed, Retention};
use harness::{PATIENCE, TestServer, Wire};
use setup::{SHORT, Scratch, receiving, send_body, signed, soon};
use webhooks::receiver::{self, BodyLimits};

const BLOCK: usize = 64 << 10;
const CHUNKED: &str = "POST /webhook HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n";

/// A receiver that accepts slow bodies of up to 4 MiB, with this budget.
async fn start(bodies: BodyLimits) -> TestServer {
    let scratch = Scratch::new();
    let mut config = receiving(&scratch);
    config.server.max_message = 4 << 20;
    config.server.read_timeout = PATIENCE * 2;
    config.store_timeout = PATIENCE;
    config.bodies = bodies;
    TestServer::start(async move |listener, shutdown| {
        let _scratch = scratch;
        let feed = Feed::new(Retention::default());
        receiver::run(listener, feed, config, shutdown).await
    })
    .await
}

/// Room for one large body.
fn one_at_a_time() -> BodyLimits {
    BodyLimits {
        budget: 0,
        pace: PATIENCE * 2,
        patience: PATIENCE * 2,
    }
}

/// A stranger's chunked body that has begun with this many bytes and never ends.
async fn stranger(server: &TestServer, bytes: usize) -> Wire {
    let mut wire = server.wire().await;
    let chunk = "x".repeat(bytes);
    wire.send(format!("{CHUNKED}\r\n{bytes:x}\r\n{chunk}\r\n"))
        .await;
    wire
}

fn large() -> String {
    format!("\"{}\"", "x".repeat(3 * BLOCK))
}

/// A genuine chunked event whose last byte is not sent yet.
async fn begin(server: &TestServer, id: &str, body: &str) -> Wire {
    let mut wire = server.wire().await;
    let fields = signed(id, body).map(|(name, value)| format!("{name}: {value}\r\n"));
    let (size, sent) = (body.len(), &body[..body.len() - 1]);
    wire.send(format!(
        "{CHUNKED}{}\r\n{size:x}\r\n{sent}",
        fields.concat()
    ))
    .await;
    wire
}

async fn end(mut wire: Wire, body: &str) -> u16 {
    wire.send(format!("{}\r\n0\r\n\r\n", &body[body.len() - 1..]))
        .await;
    wire.read_response().await.status
}

#[tokio::test]
async fn the_first_64_kib_of_a_body_hold_nothing_that_others_wait_for() {
    let server = start(one_at_a_time()).await;
    let mut strangers = Vec::new();
    for _ in 0..8 {
        strangers.push(stranger(&server, BLOCK).await);
    }
    let small = begin(&server, "small", "{}").await;
    assert_eq!(soon(end(small, "{}")).await, 200);
    let (client, body) = (server.client(), large());
    assert_eq!(soon(send_body(&client, "large", &body)).await.status, 200);
    drop(strangers);
    server.stop().await;
}

#[tokio::test]
async fn one_byte_more_holds_a_part_of_the_budget_and_another_body_gets_a_503_in_time() {
    let server = start(BodyLimits {
        patience: SHORT,
        ..one_at_a_time()
    })
    .await;
    let stranger = stranger(&server, BLOCK + 1).await;
    // The stranger's bytes may not have been read yet.
    let refused = soon(async {
        loop {
            let reply = send_body(&server.client(), "large", &large()).await;
            if reply.status != 200 {
                return reply;
            }
        }
    });
    let refused = refused.await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.json()["detail"], "too many large bodies");
    assert!(refused.header("retry-after").is_some());
    drop(stranger);
    soon(async { while send_body(&server.client(), "large", &large()).await.status != 200 {} })
        .await;
    server.stop().await;
}

#[tokio::test]
async fn a_large_body_that_stops_coming_is_given_up() {
    let server = start(BodyLimits {
        pace: SHORT,
        ..one_at_a_time()
    })
    .await;
    for bytes in [BLOCK + 1, 3 * BLOCK] {
        let mut stranger = stranger(&server, bytes).await;
        let response = soon(stranger.read_response()).await;
        assert_eq!(response.status, 408);
        let detail = "less than 65536 bytes of the body came in 0.3 s";
        assert!(response.text().contains(detail), "{}", response.text());
    }
    assert_eq!(
        send_body(&server.client(), "large", &large()).await.status,
        200
    );
    server.stop().await;
}

/// Each holds a part of the budget and needs more than is left.
#[tokio::test]
async fn large_bodies_do_not_wait_for_each_other_for_ever() {
    let server = start(BodyLimits {
        budget: 2 * BLOCK,
        ..one_at_a_time()
    })
    .await;
    let body = large();
    let mut begun = Vec::new();
    for id in ["a", "b", "c", "d"] {
        let mut wire = server.wire().await;
        let fields = signed(id, &body).map(|(name, value)| format!("{name}: {value}\r\n"));
        let (size, first) = (body.len(), &body[..BLOCK + 1]);
        wire.send(format!(
            "{CHUNKED}{}\r\n{size:x}\r\n{first}",
            fields.concat()
        ))
        .await;
        begun.push(wire);
    }
    for wire in &mut begun {
        wire.send(format!("{}\r\n0\r\n\r\n", &body[BLOCK + 1..]))
            .await;
    }
    for wire in &mut begun {
        assert_eq!(soon(wire.read_response()).await.status, 200);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_chunked_body_of_the_limit_is_taken_and_one_byte_more_is_not() {
    for limit in [1_000, BLOCK + 1_000] {
        let scratch = Scratch::new();
        let mut config = receiving(&scratch);
        config.server.max_message = limit;
        let feed = Feed::new(Retention::default());
        let run = |listener, shutdown| receiver::run(listener, feed, config, shutdown);
        let server = TestServer::start(run).await;
        for (size, status) in [(limit, 200), (limit + 1, 413)] {
            let body = format!("\"{}\"", "x".repeat(size - 2));
            let wire = begin(&server, &size.to_string(), &body).await;
            assert_eq!(soon(end(wire, &body)).await, status, "{size} of {limit}");
        }
        server.stop().await;
    }
}

/// A large body that keeps coming has a time limit, too.
#[tokio::test]
async fn a_body_that_keeps_its_pace_is_given_up_at_the_body_timeout() {
    let scratch = Scratch::new();
    let mut config = receiving(&scratch);
    config.server.max_message = 64 << 20;
    config.server.read_timeout = Duration::from_millis(500);
    let feed = Feed::new(Retention::default());
    let run = |listener, shutdown| receiver::run(listener, feed, config, shutdown);
    let server = TestServer::start(run).await;
    let mut stranger = stranger(&server, BLOCK + 1).await;
    let more = format!("{BLOCK:x}\r\n{}\r\n", "x".repeat(BLOCK));
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    soon(async {
        while stranger.try_send(&more).await.is_ok() {
            ticks.tick().await;
        }
    })
    .await;
    server.stop().await;
}
