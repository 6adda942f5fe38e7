//! Wrong requests. Each gets a status with a reason, and does no harm.

mod setup;

use harness::contract::{
    Row, answers_who_sends_no_more, closes_slow_heads, leaves_nothing_to_caches,
    publishes_no_half_bodies, refuses_bad_input, rows_of_every_server, rows_of_pages,
    rows_of_subscribing, tells_who_sends_no_more, trusts_the_allowed_origin,
};
use long_polling::Config;
use setup::{small, start};

#[tokio::test]
async fn every_wrong_request_is_refused_by_name() {
    let server = start(small()).await;
    refuses_bad_input(&server, rows_of_every_server()).await;
    trusts_the_allowed_origin(&server).await;
    refuses_bad_input(&server, rows_of_subscribing(&[])).await;
    refuses_bad_input(&server, rows_of_pages()).await;
    refuses_bad_input(&server, waits()).await;
    server.stop().await;
}

fn waits() -> Vec<Row> {
    let row =
        |query: &str, detail: &str| Row::head(&format!("GET /topics/a?{query}"), &[], 400, detail);
    let not_a_wait = |text: &str| {
        let words = "a wait is a whole number of seconds from 0 to 55";
        row(
            &format!("wait={text}"),
            &format!("parameter wait={text}: {words}"),
        )
    };
    vec![
        not_a_wait("56"),
        not_a_wait("-1"),
        not_a_wait("2.5"),
        not_a_wait("+5"),
        not_a_wait("007"),
        not_a_wait("00"),
        not_a_wait("25s"),
        not_a_wait("99999999999999999999"),
        row("wait=", "parameter wait is empty"),
        row("wait=1&wait=1", "parameter wait is repeated"),
    ]
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
async fn half_a_body_is_not_published() {
    let server = start(small()).await;
    publishes_no_half_bodies(&server).await;
    let page = server.get("/topics/half?wait=0").await.json();
    assert_eq!(page["messages"].as_array().unwrap().len(), 0);
    server.stop().await;
}
