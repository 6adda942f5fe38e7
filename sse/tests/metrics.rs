//! The metrics of an axum app: what is counted, and that nothing else is.
#![allow(clippy::unwrap_used, reason = "a test")]

mod setup;

#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/metrics.rs"]
mod example;

use common::{Drained, Feed, Retention};
use example::App;
use harness::TestServer;
use setup::{in_time, live};

async fn start(router: axum::Router, feed: Feed) -> TestServer {
    TestServer::start(async move |listener, shutdown| {
        let drain = async move {
            shutdown.await;
            feed.close();
        };
        let served = axum::serve(listener, router).with_graceful_shutdown(drain);
        let (finished, cut) = (0, 0); // axum does not tell.
        served.await.map(|()| Drained { finished, cut })
    })
    .await
}

/// The samples, but not those of bytes.
async fn samples(metrics: &TestServer) -> Vec<String> {
    let scraped = metrics.get("/metrics").await;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(scraped.header("content-type"), Some(kind));
    assert!(scraped.text().ends_with("# EOF\n"));
    let is_sample = |line: &&str| !line.starts_with('#') && !line.contains("bytes");
    let mut samples: Vec<String> = scraped
        .text()
        .lines()
        .filter(is_sample)
        .map(Into::into)
        .collect();
    samples.sort();
    samples
}

#[tokio::test]
async fn a_scrape_tells_what_was_served_and_what_is_open_and_no_topic() {
    let feed = Feed::new(Retention::default());
    let app = App::new(feed.clone(), 1);
    let server = start(example::router(app.clone()), feed.clone()).await;
    let metrics = start(example::metrics(app), feed.clone()).await;
    assert_eq!(server.post("/topics/secret", "one").await.status, 201);
    assert_eq!(server.post("/topics/a..b", "no topic").await.status, 400);
    let mut stream = server.events("/topics/secret").await;
    live(&mut stream).await;
    let refused = server.get("/topics/secret").await;
    assert_eq!(refused.status, 200);
    in_time(async {
        while feed.waiters() == 0 {
            tokio::task::yield_now().await
        }
    })
    .await;
    assert_eq!(
        samples(&metrics).await,
        [
            "feed_head 1",
            "feed_healthy 1",
            "feed_messages 1",
            "feed_published_total 1",
            r#"feed_requests_total{outcome="Refused"} 1"#,
            r#"feed_requests_total{outcome="Served"} 2"#,
            r#"feed_requests_total{outcome="Wrong"} 1"#,
            "feed_subscribers 1",
            "feed_topics 1",
            "feed_waiting 1",
        ]
    );
    drop(stream);
    in_time(async {
        while !samples(&metrics)
            .await
            .contains(&"feed_subscribers 0".into())
        {
            server.post("/topics/secret", "two").await;
        }
    })
    .await;
    server.stop().await;
    metrics.stop().await;
}
