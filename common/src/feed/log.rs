//! The bounded ordered log: what is kept, what was trimmed, and what is in memory. No I/O, no clock, no
//! waiting.
//!
//! Each topic has a ring of messages and a *mark*: the number of the last message it dropped. When a
//! topic is reclaimed, its mark raises one feed-wide *floor*. The floor is the mark of every topic that
//! the log does not know. So a cursor below the floor may get a needless gap, but never misses a real
//! one.
//!
//! A store has every message that the log keeps, so the log may free the bytes of older ones. It still
//! knows their numbers and costs. Retention and gaps are therefore the same wherever the bytes are.
//!
//! A log that [records changes](Log::record_changes) notes what it drops, for a store that must delete the same.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    time::SystemTime,
};

use tokio::time::Instant;

use super::{
    cursor::{Cursor, Epoch},
    error::FeedError,
    message::{Draft, Message, Topic},
    retention::Retention,
    ring::{Entry, Ring},
};

/// The log of one epoch.
#[derive(Debug)]
pub struct Log {
    retention: Retention,
    epoch: Epoch,
    /// The number of the last message.
    head: u64,
    /// The mark of every topic that is not in `topics`, and of a new one: it may have dropped messages up
    /// to there.
    floor: u64,
    topics: HashMap<Topic, Ring>,
    totals: Totals,
    /// Every message up to this number is only in the store.
    paged_out: u64,
    /// Messages of these topics newer than the number are kept, whatever the retention says.
    pins: HashMap<Topic, u64>,
    /// No topic can become idle before this moment, so a log full of topics need not search at every
    /// publish.
    none_idle_before: Option<Instant>,
}

/// Sums over all topics, and their changes.
#[derive(Debug, Default)]
struct Totals {
    /// Each topic that has messages, by its oldest message's number. The first entry is the oldest
    /// message of all, so trimming needs no search.
    oldest: BTreeMap<u64, Topic>,
    /// What all messages cost.
    bytes: usize,
    /// What the messages in memory cost.
    in_memory: usize,
    /// Since they were last taken. `None` if no store needs them.
    changes: Option<Changes>,
}

/// What changed in the log, for a store that must change the same.
#[derive(Debug, Default)]
pub struct Changes {
    /// The numbers of messages that are no longer kept.
    pub dropped: Vec<u64>,
    /// Topics that are new, were reclaimed or have a new mark.
    pub topics: BTreeSet<Topic>,
}

/// What a log keeps at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Topics.
    pub topics: usize,
    /// Messages.
    pub messages: usize,
    /// What the messages count for in the byte limits.
    pub bytes: usize,
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
            totals: Totals::default(),
            paged_out: 0,
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
        topic: Topic,
        draft: Draft,
        now: Instant,
        time: SystemTime,
    ) -> Result<Cursor, FeedError> {
        self.admit(&topic, now)?;
        // Encoded under the lock, because the JSON contains the number.
        let id = self.at(self.head + 1);
        self.push(Message::encode(id, topic, draft, time), now);
        Ok(id)
    }

    /// Makes room for a message of this topic, and counts the topic as used now. A store calls it before it
    /// stores the message, and [`push`](Self::push) once it is stored.
    ///
    /// # Errors
    /// [`FeedError::TooManyTopics`] and [`FeedError::Full`]: the log refuses the publish, because it
    /// drops no pinned message and no topic that is in use.
    pub fn admit(&mut self, topic: &Topic, now: Instant) -> Result<(), FeedError> {
        self.trim();
        if self.totals.bytes > self.retention.total_bytes && self.holds_pinned() {
            return Err(FeedError::Full(self.retention.total_bytes));
        }
        if let Some(ring) = self.topics.get_mut(topic) {
            ring.published = now;
            return Ok(());
        }
        if self.topics.len() >= self.retention.topics {
            self.reclaim(now);
        }
        if self.topics.len() >= self.retention.topics {
            return Err(FeedError::TooManyTopics(self.retention.topics));
        }
        self.restore_topic(topic.clone(), self.floor, now);
        self.totals.note([topic.clone()], []);
        Ok(())
    }

    /// Appends a message that already has its number. Drops what is then over the limits, and frees what
    /// is then too much in memory.
    pub fn push(&mut self, message: Message, now: Instant) {
        let topic = message.topic.clone();
        self.head = message.id.seq;
        // Looked up once, because almost every publish to a full topic drops a message.
        let entry = self.topics.entry(topic.clone());
        let ring = entry.or_insert_with(|| Ring::new(self.floor, now));
        self.totals.push(ring, message, now);
        while ring.is_over(&self.retention)
            && let Some(first) = ring.first()
            && !is_pinned(&self.pins, &topic, first)
        {
            self.totals.drop_oldest(ring);
        }
        self.trim();
        self.page_out();
    }

    /// Replaces the pins. What is no longer pinned can be dropped from the next publish on.
    pub fn pin(&mut self, pins: HashMap<Topic, u64>) {
        self.pins = pins;
    }

    /// The position of the last message.
    pub fn head(&self) -> Cursor {
        self.at(self.head)
    }

    /// What the log keeps now.
    pub fn counts(&self) -> Counts {
        Counts {
            topics: self.topics.len(),
            messages: self.topics.values().map(Ring::len).sum(),
            bytes: self.totals.bytes,
        }
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

    /// The position of message `seq`.
    pub fn at(&self, seq: u64) -> Cursor {
        let epoch = self.epoch;
        Cursor { epoch, seq }
    }

    /// Drops every idle topic.
    fn reclaim(&mut self, now: Instant) {
        if self.none_idle_before.is_some_and(|idle| now < idle) {
            return;
        }
        let (idle, pins, head) = (self.retention.idle, &self.pins, self.head);
        let reclaimed = self.topics.extract_if(|topic, ring| {
            ring.published + idle <= now && !is_pinned(pins, topic, ring.last(head))
        });
        for (topic, mut ring) in reclaimed {
            self.totals.bytes -= ring.bytes;
            // Paged out only to learn how many of its bytes were in memory.
            self.totals.in_memory -= ring.page_out(u64::MAX);
            self.floor = self.floor.max(ring.last(head));
            if let Some(first) = ring.first() {
                self.totals.oldest.remove(&first);
            }
            self.totals.note([topic], ring.seqs());
        }
        let published = self.topics.values().map(|ring| ring.published);
        self.none_idle_before = published.min().map(|published| published + idle);
    }

    /// Drops the oldest messages until the log fits its byte limit. Keeps the newest message and everything
    /// that is pinned.
    fn trim(&mut self) {
        while self.totals.bytes > self.retention.total_bytes
            && let Some(topic) = self.oldest_unpinned().cloned()
            && let Some(ring) = self.topics.get_mut(&topic)
        {
            self.totals.drop_oldest(ring);
        }
    }

    /// Searches below the head only, so the newest message always stays.
    fn oldest_unpinned(&self) -> Option<&Topic> {
        let mut oldest = self.totals.oldest.range(..self.head);
        let unpinned = oldest.find(|(seq, topic)| !is_pinned(&self.pins, topic, **seq));
        unpinned.map(|(_, topic)| topic)
    }

    fn holds_pinned(&self) -> bool {
        let mut oldest = self.totals.oldest.iter();
        oldest.any(|(seq, topic)| is_pinned(&self.pins, topic, *seq))
    }

    /// Frees the older half of the messages in memory. Half, because this looks at every topic: to do it
    /// for each message would be slow.
    fn page_out(&mut self) {
        while self.totals.in_memory > self.retention.in_memory {
            self.paged_out += (self.head - self.paged_out).div_ceil(2);
            let rings = self.topics.values_mut();
            let freed: usize = rings.map(|ring| ring.page_out(self.paged_out)).sum();
            self.totals.in_memory -= freed;
        }
    }
}

/// What a store does to its log, in addition to appending.
impl Log {
    /// Records changes from now on.
    pub fn record_changes(&mut self) {
        self.totals.changes.get_or_insert_default();
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        self.totals
            .changes
            .as_mut()
            .map(mem::take)
            .unwrap_or_default()
    }

    /// Adds changes that were taken, but could not be saved.
    pub fn put_back(&mut self, changes: Changes) {
        self.totals.note(changes.topics, changes.dropped);
    }

    /// Restores a topic as it was saved.
    pub fn restore_topic(&mut self, topic: Topic, mark: u64, now: Instant) {
        self.topics.insert(topic, Ring::new(mark, now));
    }

    /// Restores a message as it was saved, unless its topic's mark says that it was dropped. Call it in the
    /// order of the numbers. Nothing is dropped before the next publish, so messages can be pinned first.
    pub fn restore(&mut self, message: Message, published: Instant) {
        let seq = message.id.seq;
        self.raise_head(seq);
        if seq > self.mark_of(&message.topic).unwrap_or(self.floor) {
            let entry = self.topics.entry(message.topic.clone());
            let ring = entry.or_insert_with(|| Ring::new(self.floor, published));
            self.totals.push(ring, message, published);
            self.page_out();
        }
    }

    /// Raises the head to `seq`, if it is lower: no more messages up to there will come.
    pub fn raise_head(&mut self, seq: u64) {
        self.head = self.head.max(seq);
    }

    /// Drops everything up to `seq`: the store no longer has it.
    pub fn raise_floor(&mut self, seq: u64) {
        self.floor = self.floor.max(seq);
        self.raise_head(seq);
        for topic in self.topics.keys().cloned().collect::<Vec<_>>() {
            self.drop_up_to(&topic, seq);
        }
    }

    /// The store no longer has message `seq`, so its topic drops everything up to there.
    pub fn lose(&mut self, seq: u64) {
        if let Some(topic) = self.topic_of(seq).cloned() {
            self.drop_up_to(&topic, seq);
        }
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

    /// Whether message `seq` is kept. Looks through all topics, so it is for rare cases.
    pub fn keeps(&self, seq: u64) -> bool {
        self.topic_of(seq).is_some()
    }

    fn topic_of(&self, seq: u64) -> Option<&Topic> {
        let mut topics = self.topics.iter();
        topics.find_map(|(topic, ring)| ring.contains(seq).then_some(topic))
    }

    fn drop_up_to(&mut self, topic: &Topic, seq: u64) {
        let Some(ring) = self.topics.get_mut(topic) else {
            return;
        };
        while ring.first().is_some_and(|first| first <= seq) {
            self.totals.drop_oldest(ring);
        }
        ring.mark = ring.mark.max(seq);
    }
}

impl Totals {
    fn push(&mut self, ring: &mut Ring, message: Message, published: Instant) {
        self.bytes += message.cost();
        self.in_memory += message.cost();
        if ring.len() == 0 {
            self.oldest.insert(message.id.seq, message.topic.clone());
        }
        ring.push(message, published);
    }

    /// Drops a ring's oldest message.
    fn drop_oldest(&mut self, ring: &mut Ring) {
        let Some(entry) = ring.pop() else {
            return;
        };
        self.bytes -= entry.cost();
        if let Entry::Loaded(message) = &entry {
            self.in_memory -= message.cost();
        }
        if let Some(topic) = self.oldest.remove(&entry.seq()) {
            self.note([topic.clone()], [entry.seq()]);
            if let Some(first) = ring.first() {
                self.oldest.insert(first, topic);
            }
        }
    }

    fn note(
        &mut self,
        topics: impl IntoIterator<Item = Topic>,
        dropped: impl IntoIterator<Item = u64>,
    ) {
        if let Some(changes) = &mut self.changes {
            changes.topics.extend(topics);
            changes.dropped.extend(dropped);
        }
    }
}

/// Whether this message must still be delivered.
fn is_pinned(pins: &HashMap<Topic, u64>, topic: &Topic, seq: u64) -> bool {
    pins.get(topic).is_some_and(|pin| seq > *pin)
}
