//! What the verbs of any log promise that a pattern may be built on: read, next, position and close.

use std::sync::Arc;

use common::{After, Cursor, Data, Draft, FeedError, PageLimit, Reason, Retention, Topic, Topics};
use harness::PATIENCE;
use tokio::{task::JoinSet, time::timeout};

use crate::{Log, feed};

pub(super) fn topic(name: &str) -> Topic {
    name.parse().unwrap()
}

pub(super) fn topics(names: &str) -> Topics {
    names.parse().unwrap()
}

pub(super) async fn publish(feed: &Log, name: &str) -> Cursor {
    feed.publish(topic(name), Draft::new(Data::text("x")))
        .await
        .unwrap()
        .id
}

pub(super) fn keeping(messages: usize) -> Log {
    feed(Retention {
        messages,
        ..Retention::default()
    })
}

pub(super) fn at(feed: &Log, seq: u64) -> After {
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
    assert_eq!(in_time(waiting).await.unwrap().messages[0].id, id);
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
    assert!(in_time(waiting).await.unwrap_err().is_cancelled());
    assert_eq!(feed.waiters(), 0);
}

#[tokio::test]
async fn closing_a_handle_ends_its_waits_and_no_others() {
    let feed = keeping(10);
    let (mine, yours) = (feed.handle(), feed.handle());
    let wait = |feed: Log| {
        tokio::spawn(async move {
            feed.next(&topics("a"), &After::Latest, PageLimit::default())
                .await
        })
    };
    let (my_wait, your_wait) = (wait(mine.clone()), wait(yours));
    waiters(&feed, 2).await;
    mine.close();
    assert_eq!(in_time(my_wait).await.unwrap(), Err(FeedError::Closed));
    waiters(&feed, 1).await;
    publish(&feed, "a").await;
    let yours = in_time(your_wait).await.unwrap();
    assert_eq!(yours.unwrap().messages.len(), 1);
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

pub(super) async fn waiters(feed: &Log, wanted: usize) {
    let counted = async {
        while feed.waiters() != wanted {
            tokio::task::yield_now().await;
        }
    };
    in_time(counted).await;
}

/// A promise that is not kept fails the test, and does not hang it.
pub(super) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it happens in time")
}

#[tokio::test]
async fn a_position_is_where_reading_starts_unless_a_gap_has_to_be_told_first() {
    let feed = keeping(9);
    for _ in 0..3 {
        publish(&feed, "a").await;
    }
    let position = |after: &After| {
        let position = feed.position(&topics("a"), after);
        position.map(|position| position.seq)
    };
    assert_eq!(position(&After::Earliest), Some(0));
    assert_eq!(position(&After::Latest), Some(3));
    assert_eq!(position(&at(&feed, 2)), Some(2));
    for unknown in [
        at(&feed, 4),
        "other-1".parse().unwrap(),
        After::lenient("?"),
    ] {
        assert_eq!(position(&unknown), None);
    }
}

/// Publishers and readers on real threads: a reader that lost a wake-up would wait forever.
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
    // Long, because a file syncs four thousand messages.
    let finished = timeout(6 * PATIENCE, readers.join_all()).await;
    finished.expect("no reader waits for what is there");
    assert_eq!(feed.waiters(), 0);
}
