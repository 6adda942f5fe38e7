//! The long poll in an axum app. `axum::serve` keeps what the technique promises; the loop of
//! `common/examples/axum/serve.rs` keeps the rest.
#![allow(clippy::unwrap_used, reason = "a test")]

mod setup;

#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/in_axum.rs"]
mod in_axum;
#[allow(unreachable_pub, reason = "a file to include or copy")]
#[path = "../../common/examples/axum/serve.rs"]
mod serve;

use axum::{Router, routing::get};
use common::{Drained, Feed, PublishLimits, Retention};
use harness::{
    TestServer,
    contract::{refuses_bad_input, rows_of_pages, rows_of_subscribing, tells_who_sends_no_more},
};
use setup::small;
use tokio::time::Instant;

const POLL: &str = "GET /topics/a?wait=20 HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn feed() -> Feed {
    Feed::new(Retention::default())
}

/// The technique, and publishing.
fn router(feed: &Feed, limits: PublishLimits) -> Router {
    in_axum::router(feed.clone()).merge(in_axum::publish::router(feed.clone(), limits))
}

/// The example as it is.
async fn alone(feed: Feed) -> TestServer {
    TestServer::start(async |listener, shutdown| {
        let router = router(&feed, in_axum::publish::LIMITS);
        in_axum::serve(listener, router, feed, shutdown).await;
        let (finished, cut) = (0, 0); // axum does not tell.
        Ok(Drained { finished, cut })
    })
    .await
}

/// Its router, among other routes, in the loop that has everything.
async fn with_everything() -> TestServer {
    let (feed, config) = (feed(), small().server);
    let router = router(&feed, config.publish_limits()).route("/healthz", get(async || "ok\n"));
    TestServer::start(|listener, shutdown| serve::serve(listener, router, feed, config, shutdown))
        .await
}

async fn until_one_waits(feed: &Feed) {
    while feed.waiters() == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_poll_is_answered_by_news_at_once_and_the_next_one_goes_on_after_it() {
    let feed = feed();
    let server = alone(feed.clone()).await;
    let mut wire = server.wire().await;
    wire.send(POLL).await;
    until_one_waits(&feed).await;
    server.post("/topics/a", "one").await;
    let page: serde_json::Value = serde_json::from_str(wire.read_response().await.text()).unwrap();
    assert_eq!(page["messages"][0]["data"], "one");

    server.post("/topics/a", "two").await;
    let next = page["next"].as_str().unwrap();
    let page = server.get(&format!("/topics/a,b?after={next}")).await;
    assert_eq!(page.header("cache-control"), Some("no-store"));
    assert_eq!(page.json()["messages"][0]["data"], "two");
    assert_eq!(page.json()["messages"].as_array().unwrap().len(), 1);
    let page = server.get("/topics/a?after=foreign-1").await;
    assert_eq!(page.json()["gap"]["reason"], "foreign");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_poll_without_news_is_answered_at_its_deadline_and_all_by_a_drain() {
    let feed = feed();
    let server = alone(feed.clone()).await;
    let asked = Instant::now();
    let page = server.get("/topics/a?wait=16").await;
    assert_eq!(page.json()["messages"].as_array().unwrap().len(), 0);
    assert!((15..=16).contains(&asked.elapsed().as_secs()));

    let mut wire = server.wire().await;
    wire.send(POLL).await;
    until_one_waits(&feed).await;
    let drained = Instant::now();
    server.stop().await;
    assert_eq!(drained.elapsed().as_secs(), 0);
    let answer = wire.read_response().await;
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(answer.text().starts_with(r#"{"messages":[],"next":"#));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_finish_its_request_ends_with_the_drain() {
    let server = alone(feed()).await;
    let mut stuck = server.wire().await;
    let head = "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n";
    stuck.send([head, "x"].concat()).await;
    assert_eq!(server.get("/topics/a?wait=0").await.status, 200);
    let drained = Instant::now();
    server.stop().await;
    assert_eq!(drained.elapsed().as_secs(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_loop_of_the_five_servers_the_router_passes_their_contract() {
    let server = with_everything().await;
    // The first has no topic: axum finds no route for it.
    let subscribing = rows_of_subscribing(&[]).into_iter().skip(1);
    refuses_bad_input(&server, subscribing.chain(rows_of_pages())).await;
    let request = "GET /topics/late?wait=20 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    tells_who_sends_no_more(&server, request).await;
    server.stop().await;
}
