//! Any schedule of publishes, trims, reclaims, reads and waits against a naive model: each reader
//! gets every message of its topics once and in order, or gaps that add up to the truth.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use common::{
    After, Cursor, Data, Draft, FeedError, Page, PageLimit, Reason, Retention, Topic, Topics,
};
use proptest::prelude::*;

use crate::{Log, feed};

const TOPICS: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Debug, Clone)]
enum Step {
    Publish {
        topic: usize,
        size: usize,
    },
    Advance {
        seconds: u64,
    },
    Read {
        reader: usize,
        limit: usize,
        bytes: usize,
    },
    Wait {
        reader: usize,
    },
    Poll {
        reader: usize,
    },
    Leave {
        reader: usize,
    },
    /// Starts anew from a cursor that no feed gave.
    Lie {
        reader: usize,
        after: After,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let reader = 0..READERS;
    prop_oneof![
        6 => (0..TOPICS.len(), 0..400usize).prop_map(|(topic, size)| Step::Publish { topic, size }),
        1 => (0..40u64).prop_map(|seconds| Step::Advance { seconds }),
        3 => (reader.clone(), 1..5usize, 1..2_000usize).prop_map(|(reader, limit, bytes)| Step::Read { reader, limit, bytes }),
        2 => reader.clone().prop_map(|reader| Step::Wait { reader }),
        2 => reader.clone().prop_map(|reader| Step::Poll { reader }),
        1 => reader.clone().prop_map(|reader| Step::Leave { reader }),
        1 => (reader, lie()).prop_map(|(reader, after)| Step::Lie { reader, after }),
    ]
}

fn lie() -> impl Strategy<Value = After> {
    prop_oneof![
        Just(After::Earliest),
        Just(After::Latest),
        Just(After::Unreadable("no cursor".into())),
        (0..50u64).prop_map(|seq| After::Cursor(Cursor {
            epoch: "another".parse().unwrap(),
            seq
        })),
    ]
}

fn retention() -> impl Strategy<Value = Retention> {
    (
        1..6usize,
        300..3_000usize,
        500..4_000usize,
        2..5usize,
        1..60u64,
    )
        .prop_map(
            |(messages, topic_bytes, total_bytes, topics, idle)| Retention {
                messages,
                topic_bytes,
                total_bytes,
                topics,
                idle: Duration::from_secs(idle),
                ..Retention::default()
            },
        )
}

const READERS: usize = 3;

/// A read that waits.
type Wait = Pin<Box<dyn Future<Output = Result<Page, FeedError>>>>;

/// One reader, and what it knows.
struct Reader {
    topics: Topics,
    after: After,
    /// Where it began in this feed; before it nothing is owed.
    owed_after: u64,
    given: BTreeSet<u64>,
    named_in_gaps: BTreeSet<u64>,
    waiting: Option<Wait>,
}

/// The naive model: everything that was ever published.
#[derive(Default)]
struct Truth {
    published: BTreeMap<u64, Topic>,
}

impl Reader {
    fn new(topics: &str) -> Self {
        Self {
            topics: topics.parse().unwrap(),
            after: After::Earliest,
            owed_after: 0,
            given: BTreeSet::new(),
            named_in_gaps: BTreeSet::new(),
            waiting: None,
        }
    }

    fn restart(&mut self, after: After, feed: &Log) {
        let latest = after == After::Latest;
        *self = Self {
            after,
            ..Self::new(&self.topics.to_string())
        };
        if latest {
            // What a poll does: the first page of `latest` is empty and names the head.
            self.after = feed.head().into();
            self.owed_after = feed.head().seq;
        }
    }

    fn wants(&self, topic: &Topic) -> bool {
        self.topics.iter().any(|wanted| wanted == topic)
    }

    fn take(&mut self, page: &Page, truth: &Truth) {
        let position = match &self.after {
            After::Cursor(cursor) if cursor.epoch == page.next.epoch => cursor.seq,
            _ => 0,
        };
        let mut floor = position;
        if let Some(gap) = &page.gap {
            assert_eq!(gap.requested, self.after.to_string());
            let from = match gap.reason {
                Reason::Trimmed => position,
                Reason::Ahead | Reason::Foreign => 0,
            };
            for (seq, topic) in truth
                .published
                .range(from + 1..(gap.resumed.seq + 1).max(from + 1))
            {
                if gap.topics.iter().any(|lost| lost == topic) {
                    assert!(
                        self.given.is_disjoint(&BTreeSet::from([*seq])),
                        "{seq} was given and is named in a gap"
                    );
                    self.named_in_gaps.insert(*seq);
                }
            }
        } else if self.after == After::Earliest {
            self.excuse(page, truth);
        }
        for message in &page.messages {
            assert!(message.id.seq > floor, "out of order or twice");
            floor = message.id.seq;
            assert_eq!(truth.published.get(&floor), Some(&message.topic));
            assert!(self.wants(&message.topic) && self.given.insert(floor));
        }
        assert!(page.next.seq >= floor);
        self.after = page.next.into();
    }

    /// `earliest` is all that is retained: of each topic, what is older than its first message on
    /// the page is not owed.
    fn excuse(&mut self, page: &Page, truth: &Truth) {
        for (seq, topic) in truth.published.range(..=page.next.seq) {
            let first = page.messages.iter().find(|message| message.topic == *topic);
            if first.is_none_or(|first| *seq < first.id.seq) {
                self.named_in_gaps.insert(*seq);
            }
        }
    }

    /// Everything up to the cursor was given or is named in a gap.
    fn settle(&self, truth: &Truth, feed: &Log) {
        let After::Cursor(cursor) = &self.after else {
            return;
        };
        if cursor.epoch != feed.head().epoch {
            return;
        }
        for (seq, topic) in truth.published.range(..=cursor.seq) {
            let owed = *seq > self.owed_after && self.wants(topic);
            let told = self.given.contains(seq) != self.named_in_gaps.contains(seq);
            assert!(
                !owed || told,
                "{seq} of {topic} is neither given nor named, or both"
            );
        }
    }
}

fn poll(future: &mut Wait) -> Option<Page> {
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(page) => Some(page.unwrap()),
        Poll::Pending => None,
    }
}

async fn run(retention: Retention, steps: Vec<Step>) {
    let limit = PageLimit::default();
    let feed = feed(retention);
    let mut truth = Truth::default();
    let mut readers = ["a", "a,b,c", "a,b,c,d"].map(Reader::new);
    for step in steps {
        match step {
            Step::Publish { topic, size } => {
                let topic: Topic = TOPICS[topic].parse().unwrap();
                match feed
                    .publish(topic.clone(), Draft::new(Data::text(&"x".repeat(size))))
                    .await
                {
                    Ok(published) => {
                        assert_eq!(truth.published.insert(published.id.seq, topic), None)
                    }
                    Err(error) => assert!(matches!(error, FeedError::TooManyTopics(_))),
                }
            }
            Step::Advance { seconds } => tokio::time::advance(Duration::from_secs(seconds)).await,
            Step::Read {
                reader,
                limit,
                bytes,
            } => {
                let reader = &mut readers[reader];
                reader.waiting = None;
                let page = feed
                    .read(
                        &reader.topics,
                        &reader.after,
                        PageLimit {
                            messages: limit,
                            bytes,
                        },
                    )
                    .await
                    .unwrap();
                assert!(page.messages.len() <= limit);
                reader.take(&page, &truth);
            }
            Step::Wait { reader } => {
                let reader = &mut readers[reader];
                let (feed, topics, after) =
                    (feed.clone(), reader.topics.clone(), reader.after.clone());
                reader.waiting.get_or_insert_with(|| {
                    Box::pin(async move { feed.next(&topics, &after, limit).await })
                });
            }
            Step::Poll { reader } => {
                let reader = &mut readers[reader];
                if let Some(page) = reader.waiting.as_mut().and_then(poll) {
                    reader.waiting = None;
                    assert!(page.is_news());
                    reader.take(&page, &truth);
                }
            }
            Step::Leave { reader } => readers[reader].waiting = None,
            Step::Lie { reader, after } => readers[reader].restart(after, &feed),
        }
        readers
            .iter()
            .for_each(|reader| reader.settle(&truth, &feed));
    }
    for reader in &mut readers {
        reader.waiting = None;
        loop {
            let page = feed
                .read(&reader.topics, &reader.after, limit)
                .await
                .unwrap();
            reader.take(&page, &truth);
            if !page.more {
                break;
            }
        }
        assert_eq!(reader.after, After::Cursor(feed.head()));
        reader.settle(&truth, &feed);
    }
    assert_eq!(feed.waiters(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::CASES))]

    #[test]
    fn every_reader_gets_each_message_once_or_a_gap_that_names_it(
        retention in retention(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(retention, steps));
    }
}
