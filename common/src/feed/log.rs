//! The bounded ordered log: what is kept, what was trimmed, and what a read finds. No I/O, no
//! clock, no waiting.
//!
//! Each topic keeps its messages in a ring and the number of the last one it let go, its *mark*.
//! A topic that is reclaimed leaves its mark in one feed-wide *floor*, which is the mark of every
//! topic that is not there.
//!
//! Of a log that is also in a file or on a stream, only the newest messages are in memory. Of the older
//! ones it knows the number and the cost, so that what is kept and what a read finds do not depend on
//! where the bytes are; and it notes what it lets go of until the file has let go of it too. In this file
//! "the file" means either.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{
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
    /// Bytes of the newest messages that a feed in a file also keeps in memory. The older ones are
    /// read from the file. Default 16 MiB.
    pub in_memory: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            messages: 1_000,
            topic_bytes: 8 << 20,
            total_bytes: 256 << 20,
            topics: 10_000,
            idle: Duration::from_secs(3_600),
            in_memory: 16 << 20,
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
    /// Of these topics, what is newer than the number is kept whatever the retention says, since
    /// somebody is owed it.
    pins: HashMap<Topic, u64>,
    /// No topic is idle before this moment, so a full log need not look for one.
    none_idle_before: Option<Instant>,
    /// Of a log that is also in a file.
    filed: Option<Filed>,
}

/// What a log in a file has besides.
#[derive(Default)]
struct Filed {
    /// What the messages that are in memory cost together.
    in_memory: usize,
    unsaved: Unsaved,
}

/// What the file does not know yet.
#[derive(Debug, Default)]
pub(crate) struct Unsaved {
    /// Messages that were let go of.
    pub(crate) gone: Vec<u64>,
    /// Topics that began, were reclaimed or have another mark.
    pub(crate) topics: HashSet<Topic>,
}

struct Ring {
    /// The older messages, which are in the file alone.
    older: VecDeque<Older>,
    /// The newer ones. Without a file they are all.
    messages: VecDeque<Arc<Message>>,
    /// What both cost together.
    bytes: usize,
    /// The number of the last message that is no longer kept, or the floor when the topic began.
    mark: u64,
    /// The last publish.
    published: Instant,
}

/// A message that is in the file alone.
#[derive(Clone, Copy)]
pub(crate) struct Older {
    pub(crate) seq: u64,
    /// As [`Message::cost`].
    pub(crate) cost: u32,
}

/// What a read has found: the page, but for its first messages, if those have to be fetched from
/// the file.
pub(crate) struct Found {
    pub(crate) filed: Vec<u64>,
    pub(crate) page: Page,
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
            pins: HashMap::new(),
            none_idle_before: None,
            filed: None,
        }
    }

    /// From now on exactly these are pinned. What they held is let go of by the next publish.
    pub(crate) fn pin(&mut self, pins: HashMap<Topic, u64>) {
        self.pins = pins;
    }

    pub(crate) fn head(&self) -> Cursor {
        self.at(self.head)
    }

    /// How many topics and messages are kept, and what the messages cost.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let messages = self.topics.values().map(Ring::len).sum();
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
        let id = self.at(self.head + 1);
        let message = Message::encode(id, topic.clone(), draft, time);
        self.push(topic, message, now);
        Ok(id)
    }

    /// Takes the next message, for which there is room.
    pub(crate) fn push(&mut self, topic: &Topic, message: Message, now: Instant) {
        self.head = message.id.seq;
        self.bytes += message.cost();
        if let Some(filed) = &mut self.filed {
            filed.in_memory += message.cost();
        }
        let ring = self.ring(topic, now);
        ring.push(Arc::new(message));
        if ring.len() == 1 {
            self.oldest.insert(self.head, topic.clone());
        }
        self.trim(topic);
        self.page_out();
    }

    /// The topic's ring, which has news now.
    fn ring(&mut self, topic: &Topic, now: Instant) -> &mut Ring {
        let (topics, filed, floor) = (&mut self.topics, &mut self.filed, self.floor);
        let ring = topics.entry(topic.clone()).or_insert_with(|| {
            if let Some(filed) = filed {
                filed.unsaved.topics.insert(topic.clone());
            }
            Ring::new(floor, now)
        });
        ring.published = now;
        ring
    }

    fn make_room_for(&mut self, topic: &Topic, now: Instant) -> Result<(), FeedError> {
        self.trim_all();
        if self.bytes > self.retention.total_bytes && self.holds_pinned() {
            return Err(FeedError::Full(self.retention.total_bytes));
        }
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
        let pins = &self.pins;
        let idle = |topic: &Topic, ring: &mut Ring| {
            idle_since(ring) <= now && !is_pinned(pins, topic, ring.last(self.head))
        };
        for (topic, ring) in self.topics.extract_if(idle) {
            self.bytes -= ring.bytes;
            self.floor = self.floor.max(ring.last(self.head));
            if let Some(first) = ring.first() {
                self.oldest.remove(&first);
            }
            if let Some(filed) = &mut self.filed {
                filed.in_memory -= ring.in_memory();
                filed.unsaved.gone.extend(ring.seqs());
                filed.unsaved.topics.insert(topic);
            }
        }
        self.none_idle_before = self.topics.values().map(idle_since).min();
    }

    fn trim(&mut self, topic: &Topic) {
        while let ring = &self.topics[topic]
            && ring.is_over(&self.retention)
            && !ring
                .first()
                .is_some_and(|first| is_pinned(&self.pins, topic, first))
        {
            self.drop_oldest_of(topic);
        }
        self.trim_all();
    }

    /// Lets go of the oldest of all, down to the newest one and to what is pinned.
    fn trim_all(&mut self) {
        while self.bytes > self.retention.total_bytes {
            let mut oldest = self.oldest.iter().filter(|(seq, _)| **seq < self.head);
            let free = oldest.find(|(seq, topic)| !is_pinned(&self.pins, topic, **seq));
            let Some(topic) = free.map(|(_, topic)| topic.clone()) else {
                return;
            };
            self.drop_oldest_of(&topic);
        }
    }

    fn holds_pinned(&self) -> bool {
        let mut oldest = self.oldest.iter();
        oldest.any(|(seq, topic)| is_pinned(&self.pins, topic, *seq))
    }

    fn drop_oldest_of(&mut self, topic: &Topic) {
        let ring = self
            .topics
            .get_mut(topic)
            .expect("a topic with messages is kept");
        let dropped = ring.pop().expect("only topics with messages are trimmed");
        self.bytes -= dropped.cost();
        self.oldest.remove(&dropped.seq());
        if let Some(first) = ring.first() {
            self.oldest.insert(first, topic.clone());
        }
        if let Some(filed) = &mut self.filed {
            filed.unsaved.gone.push(dropped.seq());
            if let Dropped::Memory(message) = dropped {
                filed.in_memory -= message.cost();
            }
        }
        self.changed(topic);
    }

    /// Leaves the older messages to the file as soon as they are too many: about the half of them,
    /// so that it is seldom.
    fn page_out(&mut self) {
        let Some(filed) = &mut self.filed else {
            return;
        };
        while filed.in_memory > self.retention.in_memory {
            let here = self
                .topics
                .values()
                .filter_map(|ring| ring.messages.front());
            let Some(oldest) = here.map(|message| message.id.seq).min() else {
                return;
            };
            let half = oldest.midpoint(self.head);
            let rings = self.topics.values_mut();
            filed.in_memory -= rings.map(|ring| ring.page_out(half)).sum::<usize>();
        }
    }

    /// The file is to know what has become of this topic.
    fn changed(&mut self, topic: &Topic) {
        if let Some(filed) = &mut self.filed {
            filed.unsaved.topics.insert(topic.clone());
        }
    }

    /// What is newer than `after`, if there is anything to tell.
    pub(crate) fn news(&self, topics: &Topics, after: &After, limit: PageLimit) -> Option<Found> {
        // Who waits has mostly read all there is, and is here twice before each wait.
        if *after == After::Cursor(self.head()) {
            return None;
        }
        Some(self.read(topics, after, limit)).filter(Found::is_news)
    }

    /// What is newer than `after`.
    pub(crate) fn read(&self, topics: &Topics, after: &After, limit: PageLimit) -> Found {
        let (start, gap) = self.start(topics, after);
        // Where one topic's gap ends, another's may go on. This page ends there too, and the next
        // one begins with the next gap, so that each says exactly what is missing.
        let end = match &gap {
            Some(gap) if self.first_trimmed(topics, gap.resumed.seq).is_some() => gap.resumed.seq,
            _ => self.head,
        };
        let (filed, messages, complete) = self.collect(topics, start, end, limit);
        let given = messages.last().map(|message| message.id);
        let given = given.or_else(|| filed.last().map(|seq| self.at(*seq)));
        let next = given.filter(|_| !complete).unwrap_or(self.at(end));
        let last = given.unwrap_or_else(|| self.at(self.last(topics, end)));
        let page = Page {
            more: !complete || end < self.head,
            messages,
            next,
            last,
            gap,
            published: self.published(topics),
        };
        Found { filed, page }
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

    /// The newest publish in any of `topics`.
    fn published(&self, topics: &Topics) -> Option<Instant> {
        let rings = topics.iter().filter_map(|topic| self.topics.get(topic));
        rings.map(|ring| ring.published).max()
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

    /// The messages in (`start`, `end`], as many as the limit admits, and whether that is all. Those
    /// that have to be fetched come before those that are here.
    fn collect(
        &self,
        topics: &Topics,
        start: u64,
        end: u64,
        limit: PageLimit,
    ) -> (Vec<u64>, Vec<Arc<Message>>, bool) {
        let mut found = Vec::new();
        for ring in topics.iter().filter_map(|topic| self.topics.get(topic)) {
            // One more than is wanted tells that there is more.
            found.extend(
                ring.between(start, end)
                    .take(limit.messages.saturating_add(1)),
            );
        }
        found.sort_unstable_by_key(|entry| entry.seq);
        let mut bytes = 0;
        let mut fits = |size: usize| {
            bytes += size;
            bytes <= limit.bytes || bytes == size
        };
        let admitted = found
            .iter()
            .take(limit.messages.max(1))
            .take_while(|entry| fits(entry.size))
            .count();
        let complete = admitted == found.len();
        found.truncate(admitted);
        // What is in the file alone is older than all that is not.
        let here = found.partition_point(|entry| entry.message.is_none());
        let filed = found[..here].iter().map(|entry| entry.seq).collect();
        let messages = found[here..].iter().filter_map(|entry| entry.message);
        (filed, messages.map(Arc::clone).collect(), complete)
    }

    fn at(&self, seq: u64) -> Cursor {
        Cursor {
            epoch: self.epoch,
            seq,
        }
    }
}

/// Whether a message is kept for somebody who is owed it.
fn is_pinned(pins: &HashMap<Topic, u64>, topic: &Topic, seq: u64) -> bool {
    pins.get(topic).is_some_and(|pin| seq > *pin)
}

/// What only a log in a file does.
#[cfg(any(feature = "file", feature = "nats"))]
impl Log {
    /// A log as it was saved: the topics with their marks, and all that is kept, oldest first, with
    /// the moment of its publish. What is over the retention goes with the next publish: until then
    /// whoever is owed it can [pin](Self::pin) it.
    pub(crate) fn restore<E>(
        saved: Saved,
        kept: impl IntoIterator<Item = Result<(Topic, Older, Instant), E>>,
        retention: Retention,
        now: Instant,
    ) -> Result<Self, E> {
        let mut log = Self::new(saved.epoch, retention);
        log.head = saved.head;
        log.floor = saved.floor;
        log.filed = Some(Filed::default());
        for (topic, mark) in saved.marks {
            log.topics.insert(topic, Ring::new(mark, now));
        }
        for kept in kept {
            let (topic, older, published) = kept?;
            log.restore_one(&topic, older, published);
        }
        Ok(log)
    }

    /// Makes room for a message of this topic, which is going to come.
    pub(crate) fn admit(&mut self, topic: &Topic, now: Instant) -> Result<(), FeedError> {
        self.make_room_for(topic, now)?;
        self.ring(topic, now);
        Ok(())
    }

    /// What lies at or below its topic's mark was let go of, and is in the file for other reasons.
    fn restore_one(&mut self, topic: &Topic, older: Older, published: Instant) {
        if older.seq <= self.mark(topic) {
            return;
        }
        self.bytes += older.cost as usize;
        let ring = self.ring(topic, published);
        ring.bytes += older.cost as usize;
        ring.older.push_back(older);
        if ring.len() == 1 {
            self.oldest.insert(older.seq, topic.clone());
        }
    }

    /// What is to be saved now, and the floor.
    pub(crate) fn take_unsaved(&mut self) -> (Unsaved, u64) {
        let filed = self.filed.as_mut();
        let unsaved = filed.map(|filed| std::mem::take(&mut filed.unsaved));
        (unsaved.unwrap_or_default(), self.floor)
    }
}

/// What only a log in a file of its own does.
#[cfg(feature = "file")]
impl Log {
    /// Takes a message into memory, the newest first, and returns whether there is room for more.
    pub(crate) fn page_in(&mut self, message: Message) -> bool {
        let (Some(ring), Some(filed)) = (self.topics.get_mut(&message.topic), &mut self.filed)
        else {
            return true;
        };
        let is_last = |older: &mut Older| older.seq == message.id.seq;
        if ring.older.pop_back_if(is_last).is_some() {
            filed.in_memory += message.cost();
            ring.messages.push_front(Arc::new(message));
        }
        filed.in_memory < self.retention.in_memory / 2
    }

    /// It was not saved.
    pub(crate) fn put_back(&mut self, unsaved: Unsaved) {
        if let Some(filed) = &mut self.filed {
            filed.unsaved.gone.extend(unsaved.gone);
            filed.unsaved.topics.extend(unsaved.topics);
        }
    }

    /// Whether it keeps this message, in the file alone.
    pub(crate) fn keeps(&self, seq: u64) -> bool {
        let is_in = |ring: &Ring| {
            ring.older
                .binary_search_by_key(&seq, |older| older.seq)
                .is_ok()
        };
        self.topics.values().any(is_in)
    }

    /// The topic's mark, if the topic is kept.
    pub(crate) fn kept_mark(&self, topic: &Topic) -> Option<u64> {
        self.topics.get(topic).map(|ring| ring.mark)
    }
}

/// What only a log on a stream does, which others trim too.
#[cfg(feature = "nats")]
impl Log {
    /// All that the stream had has been pushed. What it let go of before it came here may have been of
    /// any topic up to `floor`, and beyond of those that have as many messages as a topic may have.
    pub(crate) fn settle(&mut self, floor: u64) {
        self.let_go(floor, |_| true);
        self.floor = self.floor.max(floor);
        for ring in self.topics.values_mut() {
            ring.mark = ring.mark.max(floor);
            if let Some(first) = ring.first()
                && ring.len() >= self.retention.messages
            {
                ring.mark = ring.mark.max(first - 1);
            }
        }
    }

    /// The stream has this message no more: its topic keeps nothing up to it.
    pub(crate) fn vanished(&mut self, seq: u64) {
        self.let_go(seq, |ring| ring.seqs().any(|kept| kept == seq));
    }

    /// Of these topics, lets go of everything up to `seq`.
    fn let_go(&mut self, seq: u64, of: impl Fn(&Ring) -> bool) {
        let topics = self.topics.iter().filter(|(_, ring)| of(ring));
        let topics: Vec<Topic> = topics.map(|(topic, _)| topic.clone()).collect();
        for topic in topics {
            while self.topics[&topic]
                .first()
                .is_some_and(|first| first <= seq)
            {
                self.drop_oldest_of(&topic);
            }
        }
    }

    /// Up to here there is nothing that a reader could be given.
    pub(crate) fn pass(&mut self, seq: u64) {
        self.head = self.head.max(seq);
    }
}

/// What a file tells of a log besides its messages.
#[cfg(any(feature = "file", feature = "nats"))]
pub(crate) struct Saved {
    pub(crate) epoch: Epoch,
    pub(crate) head: u64,
    pub(crate) floor: u64,
    pub(crate) marks: Vec<(Topic, u64)>,
}

impl Found {
    /// The cursor that is beyond the head.
    pub(crate) fn ahead(&self) -> Option<Cursor> {
        let gap = self.page.gap.as_ref();
        let gap = gap.filter(|gap| gap.reason == Reason::Ahead)?;
        gap.requested.parse().ok()
    }

    fn is_news(&self) -> bool {
        !self.filed.is_empty() || self.page.is_news()
    }
}

/// One message of a ring, wherever it is.
struct Entry<'a> {
    seq: u64,
    /// Bytes of JSON.
    size: usize,
    message: Option<&'a Arc<Message>>,
}

/// A message that is no longer kept.
enum Dropped {
    Older(Older),
    Memory(Arc<Message>),
}

impl Dropped {
    fn seq(&self) -> u64 {
        match self {
            Self::Older(older) => older.seq,
            Self::Memory(message) => message.id.seq,
        }
    }

    fn cost(&self) -> usize {
        match self {
            Self::Older(older) => older.cost as usize,
            Self::Memory(message) => message.cost(),
        }
    }
}

impl Ring {
    fn new(floor: u64, now: Instant) -> Self {
        Self {
            older: VecDeque::new(),
            messages: VecDeque::new(),
            bytes: 0,
            mark: floor,
            published: now,
        }
    }

    fn len(&self) -> usize {
        self.older.len() + self.messages.len()
    }

    /// The number of the oldest message.
    fn first(&self) -> Option<u64> {
        let older = self.older.front().map(|older| older.seq);
        older.or_else(|| self.messages.front().map(|message| message.id.seq))
    }

    fn seqs(&self) -> impl Iterator<Item = u64> {
        let here = self.messages.iter().map(|message| message.id.seq);
        self.older.iter().map(|older| older.seq).chain(here)
    }

    /// What the messages that are in memory cost.
    fn in_memory(&self) -> usize {
        self.messages.iter().map(|message| message.cost()).sum()
    }

    fn push(&mut self, message: Arc<Message>) {
        self.bytes += message.cost();
        self.messages.push_back(message);
    }

    fn pop(&mut self) -> Option<Dropped> {
        let dropped = match self.older.pop_front() {
            Some(older) => Dropped::Older(older),
            None => Dropped::Memory(self.messages.pop_front()?),
        };
        self.bytes -= dropped.cost();
        self.mark = dropped.seq();
        Some(dropped)
    }

    /// Leaves what is not newer than `seq` to the file, and returns what that cost.
    fn page_out(&mut self, seq: u64) -> usize {
        let count = self
            .messages
            .partition_point(|message| message.id.seq <= seq);
        let out = self.messages.drain(..count).map(|message| Older {
            seq: message.id.seq,
            cost: u32::try_from(message.cost()).expect("a message is far smaller"),
        });
        let mut cost = 0;
        self.older
            .extend(out.inspect(|older| cost += older.cost as usize));
        cost
    }

    /// The messages in (`start`, `end`].
    fn between(&self, start: u64, end: u64) -> impl Iterator<Item = Entry<'_>> {
        let range =
            |position: &dyn Fn(u64) -> usize| position(start)..position(end).max(position(start));
        let older = range(&|seq| self.older.partition_point(|older| older.seq <= seq));
        let here = range(&|seq| {
            self.messages
                .partition_point(|message| message.id.seq <= seq)
        });
        let older = self.older.range(older).map(Entry::older);
        older.chain(self.messages.range(here).map(Entry::here))
    }

    fn is_over(&self, retention: &Retention) -> bool {
        let over = self.len() > retention.messages || self.bytes > retention.topic_bytes;
        over && self.len() > 1
    }

    /// The number of the topic's last message up to `end`.
    fn last(&self, end: u64) -> u64 {
        let here = self
            .messages
            .partition_point(|message| message.id.seq <= end);
        if let Some(last) = here.checked_sub(1) {
            return self.messages[last].id.seq;
        }
        let older = self.older.partition_point(|older| older.seq <= end);
        let last = older.checked_sub(1).map(|last| self.older[last].seq);
        last.unwrap_or(self.mark.min(end))
    }
}

impl<'a> Entry<'a> {
    fn older(older: &Older) -> Self {
        Self {
            seq: older.seq,
            size: older.cost as usize - size_of::<Message>(),
            message: None,
        }
    }

    fn here(message: &'a Arc<Message>) -> Self {
        Self {
            seq: message.id.seq,
            size: message.json.len(),
            message: Some(message),
        }
    }
}
