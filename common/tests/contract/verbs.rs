//! What the feed's verbs promise.

use std::sync::Arc;

use common::{
    After, Cursor, Data, Draft, Feed, FeedError, IdempotencyKey, PageLimit, Published, Reason,
    Retention, Topic, Topics,
};
use tokio::task::JoinSet;

use crate::feed;

pub(super) fn topic(name: &str) -> Topic {
    name.parse().unwrap()
}

pub(super) fn topics(names: &str) -> Topics {
    names.parse().unwrap()
}

pub(super) async fn publish(feed: &Feed, name: &str) -> Cursor {
    feed.publish(topic(name), Draft::new(Data::text("x")))
        .await
        .unwrap()
        .id
}

fn keeping(messages: usize) -> Feed {
    feed(Retention {
        messages,
        ..Retention::default()
    })
}

pub(super) fn at(feed: &Feed, seq: u64) -> After {
    After::Cursor(Cursor { seq, ..feed.head() })
}

#[tokio::test]
async fn one_order_over_all_topics() {
    let feed = keeping(10);
    for name in ["a", "b", "a", "c"] {
        publish(&feed, name).await;
    }
    let page = feed
        .read(&topics("a,c"), &After::Earliest, PageLimit::default())
        .await
        .unwrap();
    let seqs: Vec<u64> = page.messages.iter().map(|message| message.id.seq).collect();
    assert_eq!(
        (seqs, page.next, page.more),
        (vec![1, 3, 4], feed.head(), false)
    );
}

#[tokio::test]
async fn a_page_ends_at_its_limits_and_admits_one_message_whatever_its_size() {
    let feed = keeping(10);
    for _ in 0..4 {
        publish(&feed, "a").await;
    }
    let read = async |messages, bytes| {
        let page = feed
            .read(&topics("a"), &at(&feed, 0), PageLimit { messages, bytes })
            .await
            .unwrap();
        (page.messages.len(), page.next.seq, page.more)
    };
    assert_eq!(read(4, 1 << 20).await, (4, 4, false));
    assert_eq!(read(3, 1 << 20).await, (3, 3, true));
    assert_eq!(read(9, 1).await, (1, 1, true));
    let size = feed
        .read(&topics("a"), &After::Earliest, PageLimit::default())
        .await
        .unwrap()
        .messages[0]
        .json
        .len();
    assert_eq!(read(9, 2 * size).await, (2, 2, true));
    assert_eq!(read(9, 2 * size - 1).await, (1, 1, true));
}

#[tokio::test]
async fn a_page_is_the_documented_json() {
    let feed = keeping(1);
    let page = feed
        .read(&topics("a"), &After::Latest, PageLimit::default())
        .await
        .unwrap();
    assert_eq!(
        page.to_json(),
        format!(
            r#"{{"messages":[],"next":"{}","more":false,"gap":null}}"#,
            feed.head()
        )
    );
    publish(&feed, "a").await;
    let second = publish(&feed, "a").await;
    let page = feed
        .read(&topics("b,a"), &at(&feed, 0), PageLimit::default())
        .await
        .unwrap();
    let json = page.to_json();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let epoch = second.epoch.as_str();
    assert_eq!(
        json["gap"],
        serde_json::json!({"reason": "trimmed", "topics": ["a"], "requested": format!("{epoch}-0"), "resumed": format!("{epoch}-1")})
    );
    assert_eq!(json["messages"][0]["id"], second.to_string());
}

#[tokio::test]
async fn a_cursor_older_than_what_is_kept_is_trimmed() {
    let feed = keeping(2);
    for _ in 0..5 {
        publish(&feed, "a").await;
    }
    let page = feed
        .read(&topics("a,b"), &at(&feed, 1), PageLimit::default())
        .await
        .unwrap();
    let gap = page.gap.unwrap();
    assert_eq!(
        (gap.reason, gap.topics, gap.resumed.seq),
        (Reason::Trimmed, topics("a"), 3)
    );
    assert_eq!(page.messages.len(), 2);
    let whole = feed
        .read(&topics("a"), &at(&feed, 3), PageLimit::default())
        .await
        .unwrap();
    assert_eq!((whole.gap, whole.messages.len()), (None, 2));
}

#[tokio::test]
async fn two_topics_trimmed_to_different_places_are_two_gaps() {
    let feed = keeping(1);
    for name in ["a", "c", "a", "b", "b"] {
        publish(&feed, name).await;
    }
    let first = feed
        .read(&topics("a,b,c"), &at(&feed, 0), PageLimit::default())
        .await
        .unwrap();
    let gap = first.gap.unwrap();
    assert_eq!((gap.topics, gap.resumed.seq), (topics("a,b"), 1));
    assert_eq!(
        (first.messages.len(), first.next.seq, first.more),
        (0, 1, true)
    );
    let second = feed
        .read(&topics("a,b,c"), &first.next.into(), PageLimit::default())
        .await
        .unwrap();
    let gap = second.gap.unwrap();
    assert_eq!((gap.topics, gap.resumed.seq), (topics("b"), 4));
    let seqs: Vec<u64> = second
        .messages
        .iter()
        .map(|message| message.id.seq)
        .collect();
    assert_eq!(
        (seqs, second.next.seq, second.more),
        (vec![2, 3, 5], 5, false)
    );
}

#[tokio::test]
async fn a_cursor_of_another_life_is_foreign_and_one_beyond_the_head_is_ahead() {
    let feed = keeping(9);
    publish(&feed, "a").await;
    let foreign = "other-7".parse::<After>().unwrap();
    for (after, reason) in [
        (foreign, Reason::Foreign),
        (After::lenient("?"), Reason::Foreign),
        (at(&feed, 2), Reason::Ahead),
    ] {
        let page = feed
            .read(&topics("a,b"), &after, PageLimit::default())
            .await
            .unwrap();
        let gap = page.gap.unwrap();
        assert_eq!(
            (gap.reason, gap.topics, gap.requested),
            (reason, topics("a,b"), after.to_string())
        );
        assert_eq!((gap.resumed.seq, page.messages.len()), (0, 1));
    }
    assert_eq!(
        feed.read(&topics("a"), &at(&feed, 1), PageLimit::default())
            .await
            .unwrap()
            .gap,
        None
    );
}

#[tokio::test]
async fn bytes_bound_a_topic_and_the_whole() {
    let draft = Draft::new(Data::text(&"x".repeat(1_000)));
    let feed = feed(Retention {
        topic_bytes: 3_500,
        total_bytes: 4_500,
        ..Retention::default()
    });
    for _ in 0..9 {
        feed.publish(topic("a"), draft.clone()).await.unwrap();
    }
    let kept = feed.counts();
    assert!(kept.messages == 2 && kept.bytes <= 3_500, "{kept:?}");
    for _ in 0..2 {
        feed.publish(topic("b"), draft.clone()).await.unwrap();
    }
    let kept = feed.counts();
    assert!(kept.messages == 3 && kept.bytes <= 4_500, "{kept:?}");
    let page = feed
        .read(&topics("a,b"), &After::Earliest, PageLimit::default())
        .await
        .unwrap();
    let seqs: Vec<u64> = page.messages.iter().map(|message| message.id.seq).collect();
    assert_eq!(
        seqs,
        [9, 10, 11],
        "the oldest goes first, whatever its topic"
    );
}

#[tokio::test]
async fn the_newest_message_of_a_topic_stays_whatever_its_size() {
    let feed = feed(Retention {
        topic_bytes: 1,
        total_bytes: 1,
        ..Retention::default()
    });
    publish(&feed, "a").await;
    publish(&feed, "a").await;
    assert_eq!(feed.counts().messages, 1);
}

#[tokio::test]
async fn reading_never_creates_a_topic() {
    let feed = keeping(1);
    feed.read(&topics("a,b"), &After::Earliest, PageLimit::default())
        .await
        .unwrap();
    assert_eq!(feed.counts().topics, 0);
}

#[tokio::test]
async fn the_same_key_and_message_again_is_a_duplicate_and_another_message_is_refused() {
    let feed = keeping(9);
    let key: IdempotencyKey = "k".parse().unwrap();
    let draft = Draft::new(Data::text("x"));
    let first = feed
        .publish_once(topic("a"), draft.clone(), key.clone())
        .await
        .unwrap();
    let again = feed
        .publish_once(topic("a"), draft.clone(), key.clone())
        .await
        .unwrap();
    assert_eq!(
        again,
        Published {
            duplicate: true,
            ..first
        }
    );
    let other = feed
        .publish_once(topic("a"), Draft::new(Data::text("y")), key.clone())
        .await;
    assert_eq!(other, Err(FeedError::KeyReused(key.clone())));
    assert!(
        !feed
            .publish_once(topic("b"), draft, key)
            .await
            .unwrap()
            .duplicate,
        "a key's scope is its topic"
    );
}

#[tokio::test]
async fn a_waiter_is_woken_by_its_topics_and_by_no_other() {
    let feed = keeping(10);
    let waiting = tokio::spawn({
        let feed = feed.clone();
        async move {
            feed.next(&topics("a,b"), &After::Latest, PageLimit::default())
                .await
                .unwrap()
        }
    });
    waiters(&feed, 1).await;
    publish(&feed, "c").await;
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    let id = publish(&feed, "b").await;
    assert_eq!(waiting.await.unwrap().messages[0].id, id);
    assert_eq!(feed.waiters(), 0);
}

#[tokio::test]
async fn a_waiter_that_leaves_is_not_counted() {
    let feed = keeping(10);
    let waiting = tokio::spawn({
        let feed = feed.clone();
        async move {
            feed.next(&topics("a"), &After::Latest, PageLimit::default())
                .await
        }
    });
    waiters(&feed, 1).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    assert_eq!(feed.waiters(), 0);
}

#[tokio::test]
async fn closing_a_handle_ends_its_waits_and_no_others() {
    let feed = keeping(10);
    let (mine, yours) = (feed.handle(), feed.handle());
    let wait = |feed: Feed| {
        tokio::spawn(async move {
            feed.next(&topics("a"), &After::Latest, PageLimit::default())
                .await
        })
    };
    let (my_wait, your_wait) = (wait(mine.clone()), wait(yours));
    waiters(&feed, 2).await;
    mine.close();
    assert_eq!(my_wait.await.unwrap(), Err(FeedError::Closed));
    waiters(&feed, 1).await;
    publish(&feed, "a").await;
    assert_eq!(your_wait.await.unwrap().unwrap().messages.len(), 1);
    assert_eq!(
        mine.next(&topics("a"), &After::Earliest, PageLimit::default())
            .await
            .unwrap()
            .messages
            .len(),
        1
    );
    assert_eq!(
        mine.next(&topics("a"), &After::Latest, PageLimit::default())
            .await,
        Err(FeedError::Closed)
    );
}

async fn waiters(feed: &Feed, wanted: usize) {
    while feed.waiters() != wanted {
        tokio::task::yield_now().await;
    }
}

/// Publishers and readers on real threads: whoever lost a wake-up would wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_stress_on_real_threads_everybody_gets_everything() {
    const MESSAGES: usize = 2_000;
    let feed = feed(Retention {
        messages: 4 * MESSAGES,
        ..Retention::default()
    });
    let mut readers = JoinSet::new();
    for reader in 0..40 {
        let feed = feed.clone();
        let wanted = topics(["a", "b", "a,b"][reader % 3]);
        readers.spawn(async move {
            let (mut after, mut seqs) = (After::Earliest, Vec::new());
            while seqs.len() < MESSAGES * wanted.iter().len() {
                let page = feed
                    .next(
                        &wanted,
                        &after,
                        PageLimit {
                            messages: 1 + reader,
                            ..PageLimit::default()
                        },
                    )
                    .await
                    .unwrap();
                assert_eq!(page.gap, None);
                seqs.extend(page.messages.iter().map(|message| message.id.seq));
                after = page.next.into();
            }
            assert!(seqs.is_sorted_by(|a, b| a < b));
        });
    }
    let feed = Arc::new(feed);
    for name in ["a", "b"] {
        let feed = feed.clone();
        tokio::spawn(async move {
            for count in 0..MESSAGES {
                publish(&feed, name).await;
                if count % 16 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    while let Some(finished) = readers.join_next().await {
        finished.unwrap();
    }
    assert_eq!(feed.waiters(), 0);
}
