//! Promises over time: a key outlives its message, and an idle topic loses its place. The clock is paused, so a
//! feed on a network is not tested here.

use std::time::Duration;

use common::{After, Data, Draft, FeedError, IdempotencyKey, PageLimit, Reason, Retention};
use tokio::time::{Instant, advance};

use super::verbs::{at, publish, topic, topics};
use crate::feed;

#[tokio::test(start_paused = true)]
async fn a_new_topic_takes_the_place_of_an_idle_one_or_is_refused() {
    let idle = Duration::from_secs(60);
    let feed = feed(Retention {
        topics: 2,
        idle,
        ..Retention::default()
    });
    publish(&feed, "a").await;
    advance(Duration::from_secs(30)).await;
    publish(&feed, "b").await;
    advance(Duration::from_secs(30) - Duration::from_millis(1)).await;
    let refused = feed.publish(topic("c"), Draft::new(Data::text("x"))).await;
    assert_eq!(refused, Err(FeedError::TooManyTopics(2)));
    advance(Duration::from_millis(1)).await;
    publish(&feed, "c").await;
    assert_eq!((feed.counts().topics, feed.counts().messages), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_reclaimed_topic_leaves_its_mark_in_the_floor() {
    let feed = feed(Retention {
        topics: 1,
        idle: Duration::from_secs(1),
        ..Retention::default()
    });
    publish(&feed, "a").await;
    publish(&feed, "a").await;
    advance(Duration::from_secs(1)).await;
    publish(&feed, "b").await;
    // A topic that never existed gets a needless gap, and the reclaimed one a real gap. No loss is silent.
    for name in ["a", "never"] {
        let page = feed
            .read(&topics(name), &at(&feed, 1), PageLimit::default())
            .await
            .unwrap();
        let gap = page.gap.unwrap();
        assert_eq!((gap.reason, gap.resumed.seq), (Reason::Trimmed, 2));
    }
    assert_eq!(
        feed.read(&topics("a"), &at(&feed, 2), PageLimit::default())
            .await
            .unwrap()
            .gap,
        None
    );
}

#[tokio::test]
async fn a_key_is_remembered_longer_than_its_message_is_kept() {
    let feed = feed(Retention {
        messages: 1,
        ..Retention::default()
    });
    let key: IdempotencyKey = "k".parse().unwrap();
    let once = async |text| {
        let draft = Draft::new(Data::text(text));
        feed.publish_once(topic("a"), draft, key.clone()).await
    };
    let first = once("x").await.unwrap();
    publish(&feed, "a").await;
    let again = once("x").await.unwrap();
    assert!(again.duplicate && again.id == first.id);
    assert_eq!(once("y").await, Err(FeedError::KeyReused(key.clone())));
}

#[tokio::test(start_paused = true)]
async fn a_page_says_when_its_topics_were_last_published_whatever_it_gives() {
    let feed = feed(Retention::default());
    let published = async |names| {
        let names = topics(names);
        let pages = [After::Earliest, After::Latest].map(|after| {
            let (feed, names) = (&feed, &names);
            async move { feed.read(names, &after, PageLimit::default()).await }
        });
        let [all, none] = pages;
        let (all, none) = (all.await.unwrap(), none.await.unwrap());
        assert_eq!(all.published, none.published);
        all.published
    };
    let second = Duration::from_secs(1);
    publish(&feed, "a").await;
    let first = Instant::now();
    advance(second).await;
    publish(&feed, "b").await;
    advance(second).await;
    assert_eq!(published("never").await, None);
    assert_eq!(published("a,never").await, Some(first));
    assert_eq!(published("a,b").await, Some(first + second));
}
