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
#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../../../websockets/examples/in_axum.rs"]
mod websockets_in_axum;

use axum::Router;
use common::{Drained, Feed, Retention};
use harness::TestServer;
use sse_in_axum::publish;

const WAITING: &str = "GET /long/topics/a?after=latest HTTP/1.1\r\nHost: localhost\r\n\r\n";

async fn start(feed: Feed) -> TestServer {
    TestServer::start(async move |listener, shutdown| {
        let app = |draining| {
            Router::new()
                .nest(
                    "/websocket",
                    websockets_in_axum::router(feed.clone(), draining),
                )
                .nest("/sse", sse_in_axum::router(feed.clone()))
                .nest("/long", long_polling_in_axum::router(feed.clone()))
                .nest("/short", short_polling_in_axum::router(feed.clone()))
                .merge(publish::router(feed.clone(), publish::LIMITS))
        };
        let shutdown = async {
            shutdown.await;
            feed.close();
        };
        websockets_in_axum::serve(listener, app, shutdown).await;
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
    let mut session = server.websocket("/websocket/topics/a").await;
    for frame in ["subscribed", "heartbeat"] {
        assert!(session.next_json().await.get(frame).is_some(), "{frame}");
    }

    let mut poll = server.wire().await;
    poll.send(WAITING).await;
    while feed.waiters() < 3 {
        tokio::task::yield_now().await;
    }
    let client = async move {
        assert_eq!(session.expect_close().await.0, 1012);
        session.close(1012, "").await;
    };
    tokio::join!(server.stop(), client);
    assert!(
        poll.read_response()
            .await
            .text()
            .starts_with(r#"{"messages":[],"#)
    );
    stream.next().await.unwrap(); // It has everything.
    let last = stream.next().await.unwrap();
    assert!(last.retry().is_some(), "it says when to come back");
    assert!(stream.next().await.is_none());
}
