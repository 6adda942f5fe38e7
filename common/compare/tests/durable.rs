//! One feed in a file, opened by one server after the other. Each continues it.

use std::{env, fs, process};

use common::{After, Feed, FeedSource, PageLimit, Retention};
use futures_util::FutureExt;
use harness::TestServer;

#[tokio::test]
async fn each_server_continues_the_file_of_the_one_before() {
    let folder = env::temp_dir().join(format!("durable-{}", process::id()));
    fs::create_dir_all(&folder).expect("there is a folder for temporary files");
    let source = FeedSource::File(folder.join("feed.sqlite"));
    let open = || {
        let opened = source.open(Retention::default(), false).now_or_never();
        let opened = opened.expect("a file is opened at once");
        opened.expect("it is a feed")
    };
    for _ in 0..2 {
        publish(
            TestServer::start(|listener, shutdown| {
                short_polling::run(listener, open(), short_polling::Config::default(), shutdown)
            })
            .await,
        )
        .await;
        publish(
            TestServer::start(|listener, shutdown| {
                long_polling::run(listener, open(), long_polling::Config::default(), shutdown)
            })
            .await,
        )
        .await;
        publish(
            TestServer::start(|listener, shutdown| {
                webhooks::run(listener, open(), webhooks::Config::default(), shutdown)
            })
            .await,
        )
        .await;
        publish(
            TestServer::start(|listener, shutdown| {
                websockets::run(listener, open(), websockets::Config::default(), shutdown)
            })
            .await,
        )
        .await;
        publish(
            TestServer::start(|listener, shutdown| {
                sse::run(listener, open(), sse::Config::default(), shutdown)
            })
            .await,
        )
        .await;
    }
    assert_eq!(seqs(&open()).await, (1..=10).collect::<Vec<u64>>());
    let _ = fs::remove_dir_all(&folder); // what remains is in the temporary folder
}

async fn publish(server: TestServer) {
    assert_eq!(server.post("/topics/a", "hello").await.status, 201);
    server.stop().await;
}

async fn seqs(feed: &Feed) -> Vec<u64> {
    let topics = "a".parse().expect("a topic");
    let page = feed.read(&topics, &After::Earliest, PageLimit::default());
    let page = page.await.expect("the file is readable");
    page.messages.iter().map(|message| message.id.seq).collect()
}
