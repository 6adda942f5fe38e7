//! The conditional poll in an axum app. `axum::serve` keeps what the technique promises; the loop of
//! `common/examples/axum/serve.rs` keeps the rest.
#![allow(clippy::unwrap_used, reason = "a test")]

mod setup;

#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/in_axum.rs"]
mod in_axum;
#[allow(unreachable_pub, reason = "a file to include or copy")]
#[path = "../../common/examples/axum/serve.rs"]
mod serve;

use axum::Router;
use common::{Drained, Feed, PublishLimits, Retention};
use harness::{
    TestServer,
    contract::{refuses_bad_input, rows_of_pages, rows_of_subscribing},
};
use setup::small;
use tokio::time::Instant;

fn feed() -> Feed {
    Feed::new(Retention::default())
}

/// The technique, and publishing.
fn router(feed: &Feed, limits: PublishLimits) -> Router {
    in_axum::router(feed.clone()).merge(in_axum::publish::router(feed.clone(), limits))
}

/// The example as it is.
async fn alone() -> TestServer {
    TestServer::start(async |listener, shutdown| {
        let feed = feed();
        let router = router(&feed, in_axum::publish::LIMITS);
        in_axum::serve(listener, router, feed, shutdown).await;
        let (finished, cut) = (0, 0); // axum does not tell.
        Ok(Drained { finished, cut })
    })
    .await
}

#[tokio::test]
async fn a_poll_that_brings_its_etag_is_answered_304_until_there_is_news() {
    let server = alone().await;
    server.post("/topics/a", "one").await;
    let first = server.get("/topics/a,b").await;
    assert_eq!(first.json()["messages"][0]["data"], "one");
    assert!(first.header("x-poll-interval").is_some());

    let (etag, body) = (first.header("etag").unwrap(), first.json());
    let path = format!("/topics/a,b?after={}", body["next"].as_str().unwrap());
    let client = server.client();
    let poll = || client.get(&path).header("If-None-Match", etag).send();
    let unchanged = poll().await;
    assert_eq!((unchanged.status.as_u16(), unchanged.text()), (304, ""));
    server.post("/topics/b", "two").await;
    let news = poll().await;
    assert_eq!(news.json()["messages"][0]["data"], "two");
    let page = server.get("/topics/a?after=foreign-1").await;
    assert_eq!(page.json()["gap"]["reason"], "foreign");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_finish_its_request_ends_with_the_drain() {
    let server = alone().await;
    let mut stuck = server.wire().await;
    let head = "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n";
    stuck.send([head, "x"].concat()).await;
    assert_eq!(server.get("/topics/a").await.status, 200);
    let drained = Instant::now();
    server.stop().await;
    assert_eq!(drained.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn with_the_loop_of_the_five_servers_the_router_passes_their_contract() {
    let (feed, config) = (feed(), small().server);
    let router = router(&feed, config.publish_limits());
    let serve = |listener, shutdown| serve::serve(listener, router, feed, config, shutdown);
    let server = TestServer::start(serve).await;
    // The first has no topic: axum finds no route for it.
    let subscribing = rows_of_subscribing(&[]).into_iter().skip(1);
    refuses_bad_input(&server, subscribing.chain(rows_of_pages())).await;
    server.stop().await;
}
