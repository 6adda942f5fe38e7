//! The promises of the verbs read, next, position and close, for any log that a pattern is built on.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
};

use common::{
    After, Cursor, Data, Draft, FeedError, Page, PageLimit, Reason, Retention, Topic, Topics,
};
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

fn limit(messages: usize, bytes: usize) -> PageLimit {
    PageLimit {
        messages,
        bytes,
        newest: false,
    }
}

fn seqs(page: &Page) -> Vec<u64> {
    page.messages.iter().map(|message| message.id.seq).collect()
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
            .read(&topics("a"), &at(&feed, 0), limit(messages, bytes))
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

/// Fails the test instead of waiting forever.
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

#[tokio::test]
async fn last_is_the_newest_message_of_each_topic_in_order_and_then_what_comes() {
    let feed = keeping(9);
    let wanted = topics("a,b,c,never");
    let read = async |after: &After| {
        let page = feed.read(&wanted, after, PageLimit::default()).await;
        let page = page.unwrap();
        (seqs(&page), page.next.seq, page.more, page.gap.clone())
    };
    assert_eq!(read(&After::Last).await, (vec![], 0, false, None));
    for name in ["c", "a", "b", "other", "a", "b", "b", "other"] {
        publish(&feed, name).await;
    }
    assert_eq!(feed.position(&wanted, &After::Last), None);
    let state = read(&After::Last).await;
    assert_eq!(state, (vec![1, 5, 7], 8, false, None));
    for name in ["a", "a"] {
        publish(&feed, name).await;
    }
    let changes = read(&at(&feed, state.1)).await;
    assert_eq!(changes, (vec![9, 10], 10, false, None));
}

#[tokio::test]
async fn last_on_several_pages_is_each_topic_once_and_skips_nothing_that_comes_meanwhile() {
    let feed = keeping(9);
    for name in ["a", "b", "b", "b", "c", "c"] {
        publish(&feed, name).await;
    }
    let (wanted, mut after) = (topics("a,b,c"), After::Last);
    let mut heard = Vec::new();
    for meanwhile in ["b", "b", "a", "c", "c"] {
        let page = feed.read(&wanted, &after, limit(1, 1 << 20)).await.unwrap();
        assert_eq!(page.gap, None);
        assert!(page.more);
        heard.extend(seqs(&page));
        after = page.then;
        publish(&feed, meanwhile).await;
    }
    assert_eq!(heard, [1, 4, 6, 7, 8]);
    // A client knows only `next`. After it, no message comes again that the client has.
    let page = feed.read(&wanted, &After::Last, limit(1, 1)).await.unwrap();
    let rest = feed
        .read(&wanted, &page.next.into(), PageLimit::default())
        .await;
    assert_eq!(
        (seqs(&page), seqs(&rest.unwrap())),
        (vec![8], vec![9, 10, 11])
    );
}

#[tokio::test]
async fn a_wait_for_last_skips_nothing_that_comes() {
    let feed = keeping(9);
    publish(&feed, "other").await;
    let (wanted, limit) = (topics("a"), PageLimit::default());
    let mut next = pin!(feed.next(&wanted, &After::Last, limit));
    let mut task = Context::from_waker(Waker::noop());
    assert!(next.as_mut().poll(&mut task).is_pending());
    publish(&feed, "a").await;
    publish(&feed, "a").await;
    assert_eq!(seqs(&in_time(next).await.unwrap()), [2, 3]);
    let state = in_time(feed.next(&wanted, &After::Last, limit)).await;
    assert_eq!(seqs(&state.unwrap()), [3]);
}

#[tokio::test]
async fn a_page_of_the_newest_holds_one_message_of_each_topic_and_skipping_is_no_gap() {
    let feed = keeping(9);
    for name in ["a", "a", "b", "a", "a", "b", "b", "c"] {
        publish(&feed, name).await;
    }
    let read = async |after: &After, messages| {
        let newest = PageLimit {
            newest: true,
            ..limit(messages, 1 << 20)
        };
        let page = feed.read(&topics("a,b,c"), after, newest).await.unwrap();
        (seqs(&page), page.next.seq, page.more, page.gap.clone())
    };
    for after in [After::Earliest, After::Last, at(&feed, 0), at(&feed, 4)] {
        let page = read(&after, 9).await;
        assert_eq!(page, (vec![5, 7, 8], 8, false, None), "{after}");
    }
    assert_eq!(read(&at(&feed, 5), 9).await, (vec![7, 8], 8, false, None));
    assert_eq!(read(&at(&feed, 0), 2).await, (vec![5, 7], 7, true, None));
    publish(&feed, "b").await;
    assert_eq!(read(&at(&feed, 7), 9).await, (vec![8, 9], 9, false, None));
    assert_eq!(read(&at(&feed, 9), 9).await, (vec![], 9, false, None));
    let (_, _, _, gap) = read(&After::lenient("?"), 9).await;
    assert_eq!(gap.unwrap().reason, Reason::Foreign);
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
    // A long limit, because a file syncs four thousand messages.
    let finished = timeout(6 * PATIENCE, readers.join_all()).await;
    finished.expect("no reader waits for what is there");
    assert_eq!(feed.waiters(), 0);
}
