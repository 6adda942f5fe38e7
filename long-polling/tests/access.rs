//! Access, worked: a wait ends with its token. The ways in are tested with the event stream.
#![allow(clippy::unwrap_used, reason = "a test")]

#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/access.rs"]
mod example;

use std::{sync::Arc, time::Duration};

use common::{Browsers, Drained, Feed, Retention};
use example::access::{Access, Grant};
use harness::{START, TestServer, start_clock, wall_clock};
use tokio::time::Instant;

const RECHECK: Duration = Duration::from_secs(15);

#[tokio::test(start_paused = true)]
async fn a_poll_is_answered_401_when_its_token_ends() {
    start_clock();
    let browsers = Browsers::new(Vec::new(), ([127, 0, 0, 1], 0).into(), "");
    let access = Arc::new(Access::new(&[1; 32], browsers, RECHECK, wall_clock));
    let feed = Feed::new(Retention::default());
    let router = example::router(feed.clone(), access.clone());
    let server = TestServer::start(async |listener, shutdown| {
        example::in_axum::serve(listener, router, feed, shutdown).await;
        let (finished, cut) = (0, 0); // axum does not tell.
        Ok(Drained { finished, cut })
    });
    let server = server.await;
    let grant = Grant {
        sub: "ann".into(),
        read: vec!["news".into()],
        publish: vec!["news".into()],
        iat: START,
        exp: START + 12,
    };
    let token = format!("Bearer {}", access.token(&grant));
    let client = server.client();
    let poll = |path: &'static str| client.get(path).header("authorization", &token).send();

    let published = client
        .post("/topics/news", "one")
        .header("authorization", &token);
    assert_eq!(published.send().await.status, 201);
    assert_eq!(
        poll("/topics/news").await.json()["messages"][0]["data"],
        "one"
    );
    assert_eq!(poll("/topics/other").await.status, 403);
    let asked = Instant::now();
    assert_eq!(poll("/topics/news?after=latest&wait=50").await.status, 401);
    assert_eq!(asked.elapsed().as_secs(), 12);
    server.stop().await;
}
