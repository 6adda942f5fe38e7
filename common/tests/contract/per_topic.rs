//! What a feed promises for each topic: what it keeps, which readers it wakes, and that a key belongs to one
//! topic.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Wake, Waker},
};

use bytes::{Buf, Bytes};
use common::{
    After, Data, Draft, FeedError, IdempotencyKey, Page, PageLimit, Published, Reason, Retention,
};

use super::verbs::{at, keeping, publish, topic, topics};
use crate::feed;

#[tokio::test]
async fn a_page_is_the_documented_json() {
    let feed = keeping(1);
    let page = feed
        .read(&topics("a"), &After::Latest, PageLimit::default())
        .await
        .unwrap();
    assert_eq!(
        json(page),
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
    let json: serde_json::Value = serde_json::from_slice(&json(page)).unwrap();
    let epoch = second.epoch.as_str();
    assert_eq!(
        json["gap"],
        serde_json::json!({"reason": "trimmed", "topics": ["a"], "requested": format!("{epoch}-0"), "resumed": format!("{epoch}-1")})
    );
    assert_eq!(json["messages"][0]["id"], second.to_string());
}

fn json(page: Page) -> Bytes {
    let mut json = page.into_json();
    json.copy_to_bytes(json.remaining())
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
async fn conflation_has_no_gap_while_the_newest_message_is_kept() {
    let feed = keeping(1);
    for name in ["a", "a", "b", "b"] {
        publish(&feed, name).await;
    }
    let limit = PageLimit {
        newest: true,
        ..PageLimit::default()
    };
    let page = feed.read(&topics("a,b"), &at(&feed, 0), limit).await;
    let page = page.unwrap();
    let seqs: Vec<u64> = page.messages.iter().map(|message| message.id.seq).collect();
    assert_eq!((seqs, page.gap), (vec![2, 4], None));
}

#[tokio::test]
async fn of_a_topic_without_messages_last_is_nothing_and_conflation_tells_of_a_gap() {
    let draft = Draft::new(Data::text(&"x".repeat(1_000)));
    let feed = feed(Retention {
        total_bytes: 2_500,
        ..Retention::default()
    });
    for name in ["a", "a", "b", "b", "b"] {
        feed.publish(topic(name), draft.clone()).await.unwrap();
    }
    let newest = PageLimit {
        newest: true,
        ..PageLimit::default()
    };
    for limit in [PageLimit::default(), newest] {
        let read = feed.read(&topics("a,b"), &After::Last, limit).await;
        let page = read.unwrap();
        assert_eq!((page.messages[0].id.seq, page.gap), (5, None));
    }
    let page = feed.read(&topics("a,b"), &at(&feed, 0), newest).await;
    let page = page.unwrap();
    let gap = page.gap.unwrap();
    assert_eq!(
        (gap.reason, gap.topics, gap.resumed.seq),
        (Reason::Trimmed, topics("a"), 2)
    );
    let seqs: Vec<u64> = page.messages.iter().map(|message| message.id.seq).collect();
    assert_eq!((seqs, page.more), (vec![5], false));
}

#[tokio::test]
async fn what_is_dropped_while_last_is_read_is_a_gap_only_if_it_came_afterwards() {
    let feed = keeping(1);
    for name in ["a", "b", "c"] {
        publish(&feed, name).await;
    }
    let (wanted, one) = (
        topics("a,b,c"),
        PageLimit {
            messages: 1,
            ..PageLimit::default()
        },
    );
    let page = feed.read(&wanted, &After::Last, one).await.unwrap();
    assert_eq!((page.messages[0].id.seq, page.more), (1, true));
    publish(&feed, "b").await; // drops message 2, which is of the state
    let rest = feed.read(&wanted, &page.then, PageLimit::default()).await;
    let rest = rest.unwrap();
    let seqs: Vec<u64> = rest.messages.iter().map(|message| message.id.seq).collect();
    assert_eq!((seqs, rest.gap), (vec![3, 4], None));
    publish(&feed, "b").await; // drops message 4, which came afterwards
    let rest = feed.read(&wanted, &page.then, PageLimit::default()).await;
    let rest = rest.unwrap();
    let gap = rest.gap.unwrap();
    assert_eq!((gap.topics, gap.resumed.seq), (topics("b"), 4));
    let seqs: Vec<u64> = rest.messages.iter().map(|message| message.id.seq).collect();
    assert_eq!(seqs, [3, 5]);
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

/// Counts how often a task is woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_publish_to_another_topic_wakes_no_reader() {
    let feed = keeping(9);
    let wakes = Arc::new(Wakes::default());
    let topics = topics("a,b");
    let mut next = pin!(feed.next(&topics, &After::Latest, PageLimit::default()));
    let waker = Waker::from(wakes.clone());
    assert!(
        next.as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    publish(&feed, "c").await;
    assert_eq!(wakes.0.load(Ordering::SeqCst), 0);
    publish(&feed, "b").await;
    assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
    assert!(
        next.as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready()
    );
}
