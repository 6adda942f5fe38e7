//! Wrong requests. Each gets a status with a reason, and does no harm.

mod setup;

use harness::contract::{
    Row, answers_who_sends_no_more, closes_slow_heads, leaves_nothing_to_caches,
    publishes_no_half_bodies, refuses_bad_input, rows_of_every_server, rows_of_pages,
    rows_of_subscribing, trusts_the_allowed_origin,
};
use setup::{small, start};
use short_polling::Config;

#[tokio::test]
async fn every_wrong_request_is_refused_by_name() {
    let server = start(small()).await;
    refuses_bad_input(&server, rows_of_every_server()).await;
    trusts_the_allowed_origin(&server).await;
    refuses_bad_input(&server, rows_of_subscribing(&[])).await;
    refuses_bad_input(&server, rows_of_pages()).await;
    refuses_bad_input(&server, [if_match()]).await;
    server.stop().await;
}

/// It comes before `If-None-Match` (RFC 9110 §13.2.2).
fn if_match() -> Row {
    let fields = ["If-Match: \"e-1\"", "If-None-Match: *"];
    Row::head("GET /topics/a", &fields, 412, "If-Match does not match")
}

#[tokio::test]
async fn a_wrong_request_is_refused_whatever_it_has_already() {
    let server = start(small()).await;
    let client = server.client();
    let request = client.get("/topics/a?limit=0").header("if-none-match", "*");
    assert_eq!(request.send().await.status, 400);
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
async fn half_a_body_is_not_published() {
    let server = start(small()).await;
    publishes_no_half_bodies(&server).await;
    let page = server.get("/topics/half").await.json();
    assert_eq!(page["messages"].as_array().unwrap().len(), 0);
    server.stop().await;
}
