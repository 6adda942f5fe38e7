//! The bounded ordered log: what is kept, what was trimmed, and what a read finds. No I/O, no
//! clock, no waiting.
//!
//! Each topic keeps its messages in a ring and the number of the last one it let go, its *mark*.
//! A topic that is reclaimed leaves its mark in one feed-wide *floor*, which is the mark of every
//! topic that is not there.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::{
    After, Cursor, Draft, Epoch, FeedError, Gap, Message, Page, PageLimit, Reason, Topic, Topics,
};

/// What a feed keeps.
#[derive(Debug, Clone)]
pub struct Retention {
    /// Messages per topic, at least one. Default 1,000.
    pub messages: usize,
    /// Bytes per topic; the newest message stays whatever its size. Default 8 MiB.
    pub topic_bytes: usize,
    /// Bytes in all, oldest messages first. Default 256 MiB.
    pub total_bytes: usize,
    /// Topics at one time. Publishing to one more reclaims those that are idle, or else is refused.
    /// Default 10,000.
    pub topics: usize,
    /// A topic without a publish for this long may be reclaimed, messages and all, when another
    /// one needs its place. Default one hour.
    pub idle: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            messages: 1_000,
            topic_bytes: 8 << 20,
            total_bytes: 256 << 20,
            topics: 10_000,
            idle: Duration::from_secs(3_600),
        }
    }
}

pub(crate) struct Log {
    retention: Retention,
    epoch: Epoch,
    /// The number of the last message.
    head: u64,
    /// The mark of every topic that is not in `topics`.
    floor: u64,
    topics: HashMap<Topic, Ring>,
    /// Each topic that has messages, by the number of its oldest: the first is the oldest of all.
    oldest: BTreeMap<u64, Topic>,
    /// What all messages cost together.
    bytes: usize,
    /// No topic is idle before this moment, so a full log need not look for one.
    none_idle_before: Option<Instant>,
}

struct Ring {
    messages: VecDeque<Arc<Message>>,
    /// What the messages cost together.
    bytes: usize,
    /// The number of the last message that is no longer kept, or the floor when the topic began.
    mark: u64,
    /// The last publish.
    published: Instant,
}

impl Log {
    pub(crate) fn new(epoch: Epoch, retention: Retention) -> Self {
        Self {
            retention,
            epoch,
            head: 0,
            floor: 0,
            topics: HashMap::new(),
            oldest: BTreeMap::new(),
            bytes: 0,
            none_idle_before: None,
        }
    }

    pub(crate) fn head(&self) -> Cursor {
        self.at(self.head)
    }

    /// How many topics and messages are kept, and what the messages cost.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let messages = self.topics.values().map(|ring| ring.messages.len()).sum();
        (self.topics.len(), messages, self.bytes)
    }

    pub(crate) fn append(
        &mut self,
        topic: &Topic,
        draft: Draft,
        now: Instant,
        time: SystemTime,
    ) -> Result<Cursor, FeedError> {
        self.make_room_for(topic, now)?;
        self.head += 1;
        let id = self.at(self.head);
        let message = Arc::new(Message::encode(id, topic.clone(), draft, time));
        let floor = self.floor;
        let ring = self
            .topics
            .entry(topic.clone())
            .or_insert_with(|| Ring::new(floor, now));
        ring.published = now;
        if ring.messages.is_empty() {
            self.oldest.insert(self.head, topic.clone());
        }
        self.bytes += message.cost();
        ring.push(message);
        self.trim(topic);
        Ok(id)
    }

    fn make_room_for(&mut self, topic: &Topic, now: Instant) -> Result<(), FeedError> {
        if self.topics.len() < self.retention.topics || self.topics.contains_key(topic) {
            return Ok(());
        }
        if self.none_idle_before.is_none_or(|idle| idle <= now) {
            self.reclaim(now);
        }
        if self.topics.len() < self.retention.topics {
            Ok(())
        } else {
            Err(FeedError::TooManyTopics(self.retention.topics))
        }
    }

    /// Lets go of every idle topic.
    fn reclaim(&mut self, now: Instant) {
        let idle_since = |ring: &Ring| ring.published + self.retention.idle;
        for (_, ring) in self.topics.extract_if(|_, ring| idle_since(ring) <= now) {
            self.bytes -= ring.bytes;
            self.floor = self.floor.max(ring.last(self.head));
            if let Some(first) = ring.messages.front() {
                self.oldest.remove(&first.id.seq);
            }
        }
        self.none_idle_before = self.topics.values().map(idle_since).min();
    }

    fn trim(&mut self, topic: &Topic) {
        while self.topics[topic].is_over(&self.retention) {
            self.drop_oldest_of(topic);
        }
        while self.bytes > self.retention.total_bytes && self.head > self.oldest_kept() {
            let oldest = self
                .oldest
                .values()
                .next()
                .expect("there are bytes")
                .clone();
            self.drop_oldest_of(&oldest);
        }
    }

    fn oldest_kept(&self) -> u64 {
        self.oldest.keys().next().copied().unwrap_or(self.head)
    }

    fn drop_oldest_of(&mut self, topic: &Topic) {
        let ring = self
            .topics
            .get_mut(topic)
            .expect("a topic with messages is kept");
        let dropped = ring.pop().expect("only topics with messages are trimmed");
        self.bytes -= dropped.cost();
        self.oldest.remove(&dropped.id.seq);
        if let Some(first) = ring.messages.front() {
            self.oldest.insert(first.id.seq, topic.clone());
        }
    }

    /// What is newer than `after`, if there is anything to tell.
    pub(crate) fn news(&self, topics: &Topics, after: &After, limit: PageLimit) -> Option<Page> {
        // Who waits has mostly read all there is, and is here twice before each wait.
        if *after == After::Cursor(self.head()) {
            return None;
        }
        Some(self.read(topics, after, limit)).filter(Page::is_news)
    }

    /// What is newer than `after`.
    pub(crate) fn read(&self, topics: &Topics, after: &After, limit: PageLimit) -> Page {
        let (start, gap) = self.start(topics, after);
        // Where one topic's gap ends, another's may go on. This page ends there too, and the next
        // one begins with the next gap, so that each says exactly what is missing.
        let end = match &gap {
            Some(gap) if self.first_trimmed(topics, gap.resumed.seq).is_some() => gap.resumed.seq,
            _ => self.head,
        };
        let (messages, complete) = self.collect(topics, start, end, limit);
        let given = messages.last().map(|message| message.id);
        let next = given.filter(|_| !complete).unwrap_or(self.at(end));
        let last = given.unwrap_or_else(|| self.at(self.last(topics, end)));
        Page {
            more: !complete || end < self.head,
            messages,
            next,
            last,
            gap,
        }
    }

    /// The last message that `topics` had up to `end`, as far as is known.
    fn last(&self, topics: &Topics, end: u64) -> u64 {
        let last = |topic| {
            self.topics
                .get(topic)
                .map_or(self.floor.min(end), |ring| ring.last(end))
        };
        topics
            .iter()
            .map(last)
            .max()
            .expect("a request names at least one topic")
    }

    /// The number to read after, and the gap that lies before it.
    fn start(&self, topics: &Topics, after: &After) -> (u64, Option<Gap>) {
        let gap = |reason, topics, resumed| Gap {
            reason,
            topics,
            requested: after.to_string(),
            resumed: self.at(resumed),
        };
        let earliest = self.lowest_mark(topics);
        match after {
            After::Earliest => (earliest, None),
            After::Latest => (self.head, None),
            After::Cursor(cursor) if cursor.epoch == self.epoch && cursor.seq <= self.head => {
                let missing = self.first_trimmed(topics, cursor.seq);
                let trimmed =
                    |resumed| gap(Reason::Trimmed, self.trimmed(topics, cursor.seq), resumed);
                (cursor.seq, missing.map(trimmed))
            }
            After::Cursor(cursor) if cursor.epoch == self.epoch => {
                (earliest, Some(gap(Reason::Ahead, topics.clone(), earliest)))
            }
            After::Cursor(_) | After::Unreadable(_) => (
                earliest,
                Some(gap(Reason::Foreign, topics.clone(), earliest)),
            ),
        }
    }

    pub(crate) fn position(&self, topics: &Topics, after: &After) -> Option<Cursor> {
        match self.start(topics, after) {
            (
                _,
                Some(Gap {
                    reason: Reason::Ahead | Reason::Foreign,
                    ..
                }),
            ) => None,
            (seq, _) => Some(self.at(seq)),
        }
    }

    /// The lowest mark beyond `seq`: up to there, every topic that lost something after `seq` has
    /// lost everything.
    fn first_trimmed(&self, topics: &Topics, seq: u64) -> Option<u64> {
        topics
            .iter()
            .map(|topic| self.mark(topic))
            .filter(|mark| *mark > seq)
            .min()
    }

    fn trimmed(&self, topics: &Topics, seq: u64) -> Topics {
        Topics::from_sorted(
            topics
                .iter()
                .filter(|topic| self.mark(topic) > seq)
                .cloned()
                .collect(),
        )
    }

    fn lowest_mark(&self, topics: &Topics) -> u64 {
        topics
            .iter()
            .map(|topic| self.mark(topic))
            .min()
            .expect("a request names at least one topic")
    }

    fn mark(&self, topic: &Topic) -> u64 {
        self.topics.get(topic).map_or(self.floor, |ring| ring.mark)
    }

    /// The messages in (`start`, `end`], as many as the limit admits, and whether that is all.
    fn collect(
        &self,
        topics: &Topics,
        start: u64,
        end: u64,
        limit: PageLimit,
    ) -> (Vec<Arc<Message>>, bool) {
        let mut found = Vec::new();
        for ring in topics.iter().filter_map(|topic| self.topics.get(topic)) {
            // One more than is wanted tells that there is more.
            found.extend(
                ring.between(start, end)
                    .take(limit.messages.saturating_add(1)),
            );
        }
        found.sort_unstable_by_key(|message| message.id.seq);
        let mut bytes = 0;
        let mut fits = |message: &Message| {
            bytes += message.json.len();
            bytes <= limit.bytes || bytes == message.json.len()
        };
        let admitted = found
            .iter()
            .take(limit.messages.max(1))
            .take_while(|message| fits(message))
            .count();
        let complete = admitted == found.len();
        (
            found.into_iter().take(admitted).map(Arc::clone).collect(),
            complete,
        )
    }

    fn at(&self, seq: u64) -> Cursor {
        Cursor {
            epoch: self.epoch,
            seq,
        }
    }
}

impl Ring {
    fn new(floor: u64, now: Instant) -> Self {
        Self {
            messages: VecDeque::new(),
            bytes: 0,
            mark: floor,
            published: now,
        }
    }

    fn push(&mut self, message: Arc<Message>) {
        self.bytes += message.cost();
        self.messages.push_back(message);
    }

    fn pop(&mut self) -> Option<Arc<Message>> {
        let dropped = self.messages.pop_front()?;
        self.bytes -= dropped.cost();
        self.mark = dropped.id.seq;
        Some(dropped)
    }

    /// The messages in (`start`, `end`].
    fn between(&self, start: u64, end: u64) -> impl Iterator<Item = &Arc<Message>> {
        let position = |seq| {
            self.messages
                .partition_point(|message| message.id.seq <= seq)
        };
        self.messages
            .range(position(start)..position(end).max(position(start)))
    }

    fn is_over(&self, retention: &Retention) -> bool {
        let over = self.messages.len() > retention.messages || self.bytes > retention.topic_bytes;
        over && self.messages.len() > 1
    }

    /// The number of the topic's last message up to `end`.
    fn last(&self, end: u64) -> u64 {
        let position = self
            .messages
            .partition_point(|message| message.id.seq <= end);
        position
            .checked_sub(1)
            .map_or(self.mark.min(end), |last| self.messages[last].id.seq)
    }
}
