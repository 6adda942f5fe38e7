//! Any schedule of publishes, trims, reclaims, reads and waits against a naive model: each reader
//! gets every message of its topics once and in order, or gaps that add up to the truth. A reader of the
//! newest messages may miss what a newer one of the same topic replaces, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use common::{
    After, Cursor, Data, Draft, FeedError, Message, Page, PageLimit, Reason, Retention, Topic,
    Topics,
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
    /// Starts again, from a word or from a cursor that no feed has given.
    Restart {
        reader: usize,
        after: After,
        newest: bool,
        knows_next_only: bool,
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
        1 => (reader, start(), any::<bool>(), any::<bool>()).prop_map(
            |(reader, after, newest, knows_next_only)| Step::Restart { reader, after, newest, knows_next_only }
        ),
    ]
}

fn start() -> impl Strategy<Value = After> {
    prop_oneof![
        Just(After::Earliest),
        Just(After::Latest),
        Just(After::Last),
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
    /// Whether it wants only the newest message of each topic.
    newest: bool,
    /// Whether it is a client of a poll, which sees a page's `next` but not its `then`.
    knows_next_only: bool,
    /// Up to here it wants only the newest message of each topic, because it began with `last`.
    state_end: u64,
    /// Where it began in this feed. Nothing before it is owed.
    owed_after: u64,
    given: BTreeSet<u64>,
    /// Named in a gap, or not owed: see `excuse`.
    named: BTreeSet<u64>,
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
            newest: false,
            knows_next_only: false,
            state_end: 0,
            owed_after: 0,
            given: BTreeSet::new(),
            named: BTreeSet::new(),
            waiting: None,
        }
    }

    fn restart(&mut self, after: After, newest: bool, knows_next_only: bool, feed: &Log) {
        let latest = after == After::Latest;
        *self = Self {
            after,
            newest,
            knows_next_only,
            ..Self::new(&self.topics.to_string())
        };
        if latest {
            // What a poll does: the first page of `latest` is empty and names the head.
            self.after = feed.head().into();
            self.owed_after = feed.head().seq;
        }
    }

    fn limit(&self, messages: usize, bytes: usize) -> PageLimit {
        PageLimit {
            messages,
            bytes,
            newest: self.newest,
        }
    }

    /// Notes the head to which `last` refers, before the read.
    fn ask(&mut self, feed: &Log) {
        if self.after == After::Last {
            self.state_end = feed.head().seq;
        }
    }

    fn wants(&self, topic: &Topic) -> bool {
        self.topics.iter().any(|wanted| wanted == topic)
    }

    /// The number after which it wants to read.
    fn position(&self, page: &Page) -> u64 {
        match &self.after {
            After::Cursor(cursor) if cursor.epoch == page.next.epoch => cursor.seq,
            After::Rest { seq, .. } => *seq,
            _ => 0,
        }
    }

    /// Compares a page without a gap to all that is kept.
    fn compare(&self, page: &Page, kept: &[Arc<Message>]) {
        let position = self.position(page);
        let newest_end = if self.newest {
            u64::MAX
        } else {
            self.state_end
        };
        let newest_of = |end: u64, topic: &Topic| {
            let mut newest = kept.iter().rev();
            newest.find(|message| message.id.seq <= end && message.topic == *topic)
        };
        let wanted = kept.iter().filter(|message| {
            let seq = message.id.seq;
            seq > position
                && (seq > newest_end || newest_of(newest_end, &message.topic) == Some(message))
        });
        let wanted: Vec<u64> = wanted.map(|message| message.id.seq).collect();
        let given: Vec<u64> = page.messages.iter().map(|one| one.id.seq).collect();
        assert!(wanted.starts_with(&given), "{given:?} of {wanted:?}");
        assert_eq!(page.more, given.len() < wanted.len());
    }

    fn take(&mut self, page: &Page, truth: &Truth) {
        let position = self.position(page);
        let mut floor = position;
        if let Some(gap) = &page.gap {
            let requested = match &self.after {
                // A wait turns it into a position.
                After::Last => format!("{}-0", page.next.epoch.as_str()),
                after => after.to_string(),
            };
            assert_eq!(gap.requested, requested);
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
                    self.named.insert(*seq);
                }
            }
        }
        for message in &page.messages {
            assert!(message.id.seq > floor, "out of order or twice");
            floor = message.id.seq;
            assert_eq!(truth.published.get(&floor), Some(&message.topic));
            assert!(self.wants(&message.topic) && self.given.insert(floor));
        }
        assert!(page.next.seq >= floor);
        self.excuse(page, truth);
        self.after = match self.knows_next_only {
            true => page.next.into(),
            false => page.then.clone(),
        };
        if matches!(self.after, After::Cursor(_)) {
            self.state_end = 0;
        }
    }

    fn poll(&mut self, truth: &Truth) {
        if let Some(page) = self.waiting.as_mut().and_then(poll) {
            self.waiting = None;
            assert!(page.is_news());
            self.take(&page, truth);
        }
    }

    /// Counts messages that the page may skip as named:
    /// - with `earliest`, messages older than their topic's first message on the page, because they are no
    ///   longer retained;
    /// - with `last`, all but each topic's newest message up to the head of that time;
    /// - for a reader of the newest, messages that a newer one of the same topic replaces.
    fn excuse(&mut self, page: &Page, truth: &Truth) {
        for (seq, topic) in truth.published.range(..=page.next.seq) {
            let first = page.messages.iter().find(|message| message.topic == *topic);
            let earliest = self.after == After::Earliest && page.gap.is_none();
            let is_retained = first.is_some_and(|first| first.id.seq <= *seq);
            let is_replaced = || {
                let mut newer = truth.published.range(seq + 1..);
                newer.any(|(_, other)| other == topic)
            };
            let excused = (earliest && !is_retained)
                || *seq <= self.state_end
                || (self.newest && is_replaced());
            if excused && !self.given.contains(seq) {
                self.named.insert(*seq);
            }
        }
    }

    /// Checks that everything up to the cursor was given or is named in a gap.
    fn settle(&self, truth: &Truth, feed: &Log) {
        let After::Cursor(cursor) = &self.after else {
            return;
        };
        if cursor.epoch != feed.head().epoch {
            return;
        }
        for (seq, topic) in truth.published.range(..=cursor.seq) {
            let owed = *seq > self.owed_after && self.wants(topic);
            let told = self.given.contains(seq) != self.named.contains(seq);
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

/// All that is kept of the topics.
async fn kept(feed: &Log, topics: &Topics) -> Vec<Arc<Message>> {
    let read = feed.read(topics, &After::Earliest, PageLimit::default());
    let page = read.await.unwrap();
    assert!(!page.more);
    page.messages
}

async fn run(retention: Retention, steps: Vec<Step>) {
    let (messages, bytes) = (100, 1 << 20);
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
            Step::Advance { seconds } if crate::PAUSED => {
                tokio::time::advance(Duration::from_secs(seconds)).await;
            }
            Step::Advance { .. } => {}
            Step::Read {
                reader,
                limit,
                bytes,
            } => {
                let reader = &mut readers[reader];
                reader.waiting = None;
                reader.ask(&feed);
                let (kept, page_limit) = (
                    kept(&feed, &reader.topics).await,
                    reader.limit(limit, bytes),
                );
                let read = feed.read(&reader.topics, &reader.after, page_limit);
                let page = read.await.unwrap();
                assert!(page.messages.len() <= limit);
                if page.gap.is_none() {
                    reader.compare(&page, &kept);
                }
                reader.take(&page, &truth);
            }
            Step::Wait { reader } => {
                let reader = &mut readers[reader];
                if reader.waiting.is_none() {
                    reader.ask(&feed);
                    let limit = reader.limit(messages, bytes);
                    let (feed, topics, after) =
                        (feed.clone(), reader.topics.clone(), reader.after.clone());
                    let wait = async move { feed.next(&topics, &after, limit).await };
                    reader.waiting = Some(Box::pin(wait));
                    reader.poll(&truth); // From here on it waits.
                }
            }
            Step::Poll { reader } => readers[reader].poll(&truth),
            Step::Leave { reader } => readers[reader].waiting = None,
            Step::Restart {
                reader,
                after,
                newest,
                knows_next_only,
            } => readers[reader].restart(after, newest, knows_next_only, &feed),
        }
        readers
            .iter()
            .for_each(|reader| reader.settle(&truth, &feed));
    }
    for reader in &mut readers {
        reader.waiting = None;
        loop {
            reader.ask(&feed);
            let limit = reader.limit(messages, bytes);
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(crate::PAUSED).build().unwrap();
        runtime.block_on(run(retention, steps));
    }
}
