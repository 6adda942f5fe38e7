//! Several techniques in one axum app, each at its own path, as `common/feed.js` expects them.
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::duplicate_mod, reason = "each example has its own")]

#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../../../long-polling/examples/in_axum.rs"]
mod long_polling_in_axum;
#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../../../short-polling/examples/in_axum.rs"]
mod short_polling_in_axum;
#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../../../sse/examples/in_axum.rs"]
mod sse_in_axum;

use axum::Router;
use common::{Drained, Feed, Retention};
use harness::TestServer;
use sse_in_axum::publish;

const WAITING: &str = "GET /long/topics/a?after=latest HTTP/1.1\r\nHost: localhost\r\n\r\n";

async fn start(feed: Feed) -> TestServer {
    TestServer::start(async |listener, shutdown| {
        let app = Router::new()
            .nest("/sse", sse_in_axum::router(feed.clone()))
            .nest("/long", long_polling_in_axum::router(feed.clone()))
            .nest("/short", short_polling_in_axum::router(feed.clone()))
            .merge(publish::router(feed.clone(), publish::LIMITS));
        sse_in_axum::serve(listener, app, feed, shutdown).await;
        let (finished, cut) = (0, 0); // axum does not tell.
        Ok(Drained { finished, cut })
    })
    .await
}

#[tokio::test]
async fn a_client_changes_its_technique_and_a_drain_ends_the_waits_of_all() {
    let feed = Feed::new(Retention::default());
    let server = start(feed.clone()).await;
    for text in ["one", "two", "three"] {
        assert_eq!(server.post("/topics/a", text).await.status, 201);
    }
    let page = server.get("/short/topics/a,b?limit=1").await.json();
    assert_eq!(page["messages"][0]["data"], "one");
    let next = page["next"].as_str().unwrap();
    let path = format!("/long/topics/a%2Cb?limit=1&after={next}");
    let page = server.get(&path).await.json();
    assert_eq!(page["messages"][0]["data"], "two");
    let next = page["next"].as_str().unwrap();
    let mut stream = server
        .events(&format!("/sse/topics/a,b?after={next}"))
        .await;
    stream.next().await.unwrap(); // the opening
    assert_eq!(stream.next().await.unwrap().json()["data"], "three");

    let mut poll = server.wire().await;
    poll.send(WAITING).await;
    while feed.waiters() < 2 {
        tokio::task::yield_now().await;
    }
    server.stop().await;
    assert!(
        poll.read_response()
            .await
            .text()
            .starts_with(r#"{"messages":[],"#)
    );
    let mut last = stream.next().await;
    while let Some(block) = stream.next().await {
        last = Some(block);
    }
    assert!(last.unwrap().retry().is_some(), "it says when to come back");
}
