//! What every test starts with.

use common::{Data, Draft, Feed, Published, Retention, harness::TestServer};
use websockets::{Config, run};

/// A server, and the feed that it serves.
pub(crate) async fn serve(config: Config) -> (TestServer, Feed) {
    serve_feed(Feed::new(Retention::default()), config).await
}

/// A server of this feed.
pub(crate) async fn serve_feed(feed: Feed, config: Config) -> (TestServer, Feed) {
    let served = feed.clone();
    let server =
        TestServer::start(|listener, shutdown| run(listener, served, config, shutdown)).await;
    (server, feed)
}

/// Publishes behind the server's back.
pub(crate) async fn publish(feed: &Feed, topic: &str, text: &str) -> Published {
    let topic = topic.parse().unwrap();
    feed.publish(topic, Draft::new(Data::text(text)))
        .await
        .unwrap()
}
