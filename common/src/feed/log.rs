//! The bounded ordered log: what is kept and what was trimmed. No I/O, no clock, no waiting.
//!
//! Each topic has a ring of messages and a *mark*: the number of the last message it dropped. When a
//! topic is reclaimed, its mark raises one feed-wide *floor*. The floor is the mark of every topic that
//! the log does not know. So a cursor below the floor may get a needless gap, but never misses a real
//! one.
//!
//! Every method that drops messages returns them as [`Changes`], for a store that must delete them too.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::SystemTime,
};

use smallvec::SmallVec;
use tokio::time::Instant;

use super::{
    cursor::{Cursor, Epoch},
    error::FeedError,
    message::{Draft, Message, Topic},
    retention::Retention,
    ring::Ring,
};

pub use super::ring::Entry;

/// The log of one epoch.
#[derive(Debug)]
pub struct Log {
    retention: Retention,
    epoch: Epoch,
    /// The number of the last message.
    head: u64,
    /// The mark of every topic that is not in `topics`.
    floor: u64,
    topics: HashMap<Topic, Ring>,
    /// Each topic that has messages, by its oldest message's number. The first entry is the oldest
    /// message of all, so trimming needs no search.
    oldest: BTreeMap<u64, Topic>,
    /// What all messages cost together.
    bytes: usize,
    /// Messages of these topics newer than the number are kept, whatever the retention says.
    pins: HashMap<Topic, u64>,
    /// No topic can become idle before this moment, so a log full of topics need not search at every
    /// publish.
    none_idle_before: Option<Instant>,
}

/// What one step changed in the log, for a store that must change the same.
#[derive(Debug, Default)]
pub struct Changes {
    /// Messages that are no longer kept.
    pub dropped: SmallVec<[Entry; 1]>,
    /// Topics that are new, were reclaimed or have a new mark. A topic may occur twice.
    pub topics: SmallVec<[Topic; 1]>,
}

impl Log {
    /// An empty log.
    pub fn new(epoch: Epoch, retention: Retention) -> Self {
        Self {
            retention,
            epoch,
            head: 0,
            floor: 0,
            topics: HashMap::new(),
            oldest: BTreeMap::new(),
            bytes: 0,
            pins: HashMap::new(),
            none_idle_before: None,
        }
    }

    /// Appends a message, and drops what is then over the limits.
    ///
    /// # Errors
    /// [`FeedError::TooManyTopics`] and [`FeedError::Full`].
    pub fn append(
        &mut self,
        topic: &Topic,
        draft: Draft,
        now: Instant,
        time: SystemTime,
    ) -> Result<Cursor, FeedError> {
        let mut changes = Changes::default();
        self.trim_total(&mut changes);
        self.make_room_for(topic, now, &mut changes)?;
        // Encoded under the lock, because the JSON contains the number.
        let id = self.at(self.head + 1);
        let message = Message::encode(id, topic.clone(), draft, time);
        self.push_to(topic, Arc::new(message), now, &mut changes);
        Ok(id)
    }

    /// Drops the oldest messages until the log fits its byte limit. Keeps the newest message and
    /// everything that is pinned.
    pub fn trim(&mut self) -> Changes {
        let mut changes = Changes::default();
        self.trim_total(&mut changes);
        changes
    }

    /// Makes room for a message of this topic. A store calls it before it stores the message, and
    /// [`push`](Self::push) once it is stored.
    ///
    /// # Errors
    /// [`FeedError::TooManyTopics`] and [`FeedError::Full`].
    pub fn admit(&mut self, topic: &Topic, now: Instant) -> Result<Changes, FeedError> {
        let mut changes = Changes::default();
        self.make_room_for(topic, now, &mut changes)?;
        if !self.topics.contains_key(topic) {
            changes.topics.push(topic.clone());
        }
        // The topic counts as busy from here on, so that nothing reclaims it before the push.
        self.ring(topic, now);
        Ok(changes)
    }

    /// Appends a message that already has its number, and drops what is then over the limits.
    pub fn push(&mut self, message: Arc<Message>, now: Instant) -> Changes {
        let (topic, mut changes) = (message.topic.clone(), Changes::default());
        self.push_to(&topic, message, now, &mut changes);
        changes
    }

    /// Replaces the pins. What is no longer pinned can be dropped from the next publish on.
    pub fn pin(&mut self, pins: HashMap<Topic, u64>) {
        self.pins = pins;
    }

    /// The position of the last message.
    pub fn head(&self) -> Cursor {
        self.at(self.head)
    }

    /// How many topics and messages are kept, and what the messages cost.
    pub fn counts(&self) -> (usize, usize, usize) {
        let messages = self.topics.values().map(Ring::len).sum();
        (self.topics.len(), messages, self.bytes)
    }

    /// The mark of every topic that is not kept.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// The topic's mark, if the topic is kept.
    pub fn mark_of(&self, topic: &Topic) -> Option<u64> {
        self.topics.get(topic).map(|ring| ring.mark)
    }

    pub(super) fn ring_of(&self, topic: &Topic) -> Option<&Ring> {
        self.topics.get(topic)
    }

    pub(super) fn at(&self, seq: u64) -> Cursor {
        let epoch = self.epoch;
        Cursor { epoch, seq }
    }

    fn push_to(
        &mut self,
        topic: &Topic,
        message: Arc<Message>,
        now: Instant,
        changes: &mut Changes,
    ) {
        self.head = message.id.seq;
        self.insert(topic, Entry::Loaded(message), now);
        self.trim_topic(topic, changes);
        self.trim_total(changes);
    }

    /// Refuses the publish rather than drop a pinned message or a topic that is in use.
    fn make_room_for(
        &mut self,
        topic: &Topic,
        now: Instant,
        changes: &mut Changes,
    ) -> Result<(), FeedError> {
        if self.bytes > self.retention.total_bytes && self.holds_pinned() {
            return Err(FeedError::Full(self.retention.total_bytes));
        }
        if self.topics.len() < self.retention.topics || self.topics.contains_key(topic) {
            return Ok(());
        }
        self.reclaim(now, changes);
        if self.topics.len() < self.retention.topics {
            Ok(())
        } else {
            Err(FeedError::TooManyTopics(self.retention.topics))
        }
    }

    /// Drops every idle topic.
    fn reclaim(&mut self, now: Instant, changes: &mut Changes) {
        if self.none_idle_before.is_some_and(|idle| now < idle) {
            return;
        }
        let (idle, pins, head) = (self.retention.idle, &self.pins, self.head);
        let reclaimed = self.topics.extract_if(|topic, ring| {
            ring.published + idle <= now && !is_pinned(pins, topic, ring.last(head))
        });
        for (topic, ring) in reclaimed {
            self.bytes -= ring.bytes;
            self.floor = self.floor.max(ring.last(head));
            if let Some(first) = ring.first() {
                self.oldest.remove(&first);
            }
            changes.topics.push(topic);
            changes.dropped.extend(ring.into_entries());
        }
        let published = self.topics.values().map(|ring| ring.published);
        self.none_idle_before = published.min().map(|published| published + idle);
    }

    fn insert(&mut self, topic: &Topic, entry: Entry, published: Instant) {
        let (seq, cost) = (entry.seq(), entry.cost());
        let ring = self.ring(topic, published);
        ring.push(entry);
        if ring.len() == 1 {
            self.oldest.insert(seq, topic.clone());
        }
        self.bytes += cost;
    }

    /// The topic's ring. A new ring starts at the floor: messages up to there may have been dropped.
    fn ring(&mut self, topic: &Topic, published: Instant) -> &mut Ring {
        let ring = self.topics.entry(topic.clone());
        let ring = ring.or_insert_with(|| Ring::new(self.floor, published));
        ring.published = published;
        ring
    }

    /// Looks the topic up once, because almost every publish to a full topic drops a message.
    fn trim_topic(&mut self, topic: &Topic, changes: &mut Changes) {
        let Some(ring) = self.topics.get_mut(topic) else {
            return;
        };
        while ring.is_over(&self.retention)
            && let Some(first) = ring.first()
            && !is_pinned(&self.pins, topic, first)
        {
            self.bytes -= drop_oldest(ring, &mut self.oldest, changes);
        }
    }

    fn trim_total(&mut self, changes: &mut Changes) {
        while self.bytes > self.retention.total_bytes
            && let Some(topic) = self.oldest_unpinned().cloned()
            && let Some(ring) = self.topics.get_mut(&topic)
        {
            self.bytes -= drop_oldest(ring, &mut self.oldest, changes);
        }
    }

    /// Searches below the head only, so the newest message always stays.
    fn oldest_unpinned(&self) -> Option<&Topic> {
        let mut oldest = self.oldest.range(..self.head);
        let unpinned = oldest.find(|(seq, topic)| !is_pinned(&self.pins, topic, **seq));
        unpinned.map(|(_, topic)| topic)
    }

    fn holds_pinned(&self) -> bool {
        let mut oldest = self.oldest.iter();
        oldest.any(|(seq, topic)| is_pinned(&self.pins, topic, *seq))
    }
}

/// What a store does to its log, in addition to appending.
impl Log {
    /// Takes back a topic as it was saved.
    pub fn restore_topic(&mut self, topic: Topic, mark: u64, now: Instant) {
        self.topics.insert(topic, Ring::new(mark, now));
    }

    /// Takes back a message as it was saved. Call it in order. Nothing is dropped before the next
    /// publish, so messages can be pinned first. Returns whether the message is kept: one at or below
    /// its topic's mark was dropped earlier.
    pub fn restore(&mut self, message: Arc<Message>, published: Instant) -> bool {
        let (topic, seq) = (message.topic.clone(), message.id.seq);
        let is_kept = seq > self.mark_of(&topic).unwrap_or(self.floor);
        if is_kept {
            self.insert(&topic, Entry::Loaded(message), published);
        }
        self.raise_head(seq);
        is_kept
    }

    /// Moves the head to `seq`, if it is lower: no message up to there will still come.
    pub fn raise_head(&mut self, seq: u64) {
        self.head = self.head.max(seq);
    }

    /// Drops everything up to `seq`.
    pub fn raise_floor(&mut self, seq: u64) -> Changes {
        let mut changes = Changes::default();
        self.floor = self.floor.max(seq);
        for topic in self.topics.keys().cloned().collect::<Vec<_>>() {
            self.drop_up_to(&topic, seq, &mut changes);
        }
        changes
    }

    /// The store no longer has message `seq`, so its topic drops everything up to there.
    pub fn lose(&mut self, seq: u64) -> Changes {
        let mut changes = Changes::default();
        if let Some(topic) = self.topic_of(seq).cloned() {
            self.drop_up_to(&topic, seq, &mut changes);
        }
        changes
    }

    /// Marks each full topic as trimmed just before its first message. A full topic may have dropped
    /// messages before this log began, and a needless gap is better than a silent loss.
    pub fn mark_full_topics(&mut self) {
        for ring in self.topics.values_mut() {
            if let Some(first) = ring.first()
                && ring.len() >= self.retention.messages
            {
                ring.mark = ring.mark.max(first - 1);
            }
        }
    }

    /// Removes the messages up to `seq` from memory; the store still has them. Returns the bytes freed.
    pub fn page_out(&mut self, seq: u64) -> usize {
        self.topics
            .values_mut()
            .map(|ring| ring.page_out(seq))
            .sum()
    }

    /// The topic of a message, if it is kept. Looks through all topics, so it is for rare cases.
    pub fn topic_of(&self, seq: u64) -> Option<&Topic> {
        let mut topics = self.topics.iter();
        topics.find_map(|(topic, ring)| ring.contains(seq).then_some(topic))
    }

    fn drop_up_to(&mut self, topic: &Topic, seq: u64, changes: &mut Changes) {
        let Some(ring) = self.topics.get_mut(topic) else {
            return;
        };
        while ring.first().is_some_and(|first| first <= seq) {
            self.bytes -= drop_oldest(ring, &mut self.oldest, changes);
        }
        ring.mark = ring.mark.max(seq);
    }
}

/// Drops a ring's oldest message, updates the index, and returns what the message cost.
fn drop_oldest(ring: &mut Ring, oldest: &mut BTreeMap<u64, Topic>, changes: &mut Changes) -> usize {
    let Some(entry) = ring.pop() else {
        return 0;
    };
    if let Some(topic) = oldest.remove(&entry.seq()) {
        changes.topics.push(topic.clone());
        if let Some(first) = ring.first() {
            oldest.insert(first, topic);
        }
    }
    let cost = entry.cost();
    changes.dropped.push(entry);
    cost
}

/// Whether this message must still be delivered.
fn is_pinned(pins: &HashMap<Topic, u64>, topic: &Topic, seq: u64) -> bool {
    pins.get(topic).is_some_and(|pin| seq > *pin)
}
