//! Wrong requests. Each gets a status with a reason, and does no harm.

#![allow(clippy::unwrap_used, reason = "a test")]

mod setup;

use harness::contract::{
    answers_who_sends_no_more, closes_slow_heads, leaves_nothing_to_caches,
    publishes_no_half_bodies, refuses_bad_input, refuses_what_follows_a_short_length,
    rows_of_every_server, rows_of_subscribing, tells_who_sends_no_more, trusts_the_allowed_origin,
};
use setup::{small, start};
use sse::Config;

#[tokio::test]
async fn every_wrong_request_is_refused_by_name() {
    let server = start(small()).await;
    refuses_bad_input(&server, rows_of_every_server()).await;
    trusts_the_allowed_origin(&server).await;
    refuses_bad_input(&server, rows_of_subscribing(&[])).await;
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
    for takeover in [true, false] {
        let config = Config {
            takeover,
            ..small()
        };
        let server = start(config).await;
        answers_who_sends_no_more(&server).await;
        let request = "GET /topics/late?after=earliest HTTP/1.1\r\nHost: localhost\r\n\r\n";
        tells_who_sends_no_more(&server, request).await;
        server.stop().await;
    }
}

#[tokio::test]
async fn a_slow_head_is_closed() {
    let server = start(small()).await;
    closes_slow_heads(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn what_follows_a_short_length_is_refused() {
    let server = start(small()).await;
    refuses_what_follows_a_short_length(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn half_a_body_is_not_published() {
    let server = start(small()).await;
    publishes_no_half_bodies(&server).await;
    let client = server.client();
    let mut stream = client.get("/topics/half?after=earliest").open().await;
    server.post("/topics/half", "whole").await;
    let text = stream.read_until("\"data\":\"whole\"").await;
    assert!(!text.contains("\"data\":\"half"), "{text}");
    server.stop().await;
}
