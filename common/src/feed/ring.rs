//! One topic's messages in order, whether their bytes are in memory or in a store.

use std::{collections::VecDeque, sync::Arc};

use tokio::time::Instant;

use super::{message::Message, retention::Retention};

/// One message of the log.
#[derive(Debug)]
pub(super) enum Entry {
    /// In memory.
    Loaded(Arc<Message>),
    /// Only in a store. The number and the cost are enough to trim and to fill a page.
    Stored {
        /// The message's number.
        seq: u64,
        /// As [`Message::cost`]. Four bytes, because a long log has a million of these.
        cost: u32,
    },
}

impl Entry {
    /// The message's number.
    pub(super) fn seq(&self) -> u64 {
        match self {
            Self::Loaded(message) => message.id.seq,
            Self::Stored { seq, .. } => *seq,
        }
    }

    /// What it counts for in the byte limits.
    pub(super) fn cost(&self) -> usize {
        match self {
            Self::Loaded(message) => message.cost(),
            Self::Stored { cost, .. } => *cost as usize,
        }
    }

    fn is_stored(&self) -> bool {
        matches!(self, Self::Stored { .. })
    }

    /// Frees the message's bytes. The store still has them.
    fn unload(&mut self) {
        let (seq, cost) = (self.seq(), self.cost());
        let cost = u32::try_from(cost).expect("a message is far smaller than 4 GiB");
        *self = Self::Stored { seq, cost };
    }
}

/// The messages of one topic.
#[derive(Debug)]
pub(super) struct Ring {
    /// In order. [`Entry::Stored`] ones come first, because the oldest are paged out first.
    entries: VecDeque<Entry>,
    /// What the entries cost together.
    pub(super) bytes: usize,
    /// The last message that was dropped, or the log's floor when the topic began.
    pub(super) mark: u64,
    /// The last publish.
    pub(super) published: Instant,
}

impl Ring {
    pub(super) fn new(mark: u64, published: Instant) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            mark,
            published,
        }
    }

    pub(super) fn push(&mut self, message: Message, published: Instant) {
        self.published = published;
        self.bytes += message.cost();
        self.entries.push_back(Entry::Loaded(Arc::new(message)));
    }

    /// Drops the oldest entry, and marks it.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.cost();
        self.mark = entry.seq();
        Some(entry)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The number of the oldest message.
    pub(super) fn first(&self) -> Option<u64> {
        self.entries.front().map(Entry::seq)
    }

    /// The number of the topic's last message up to `end`, kept or not, as far as is known.
    pub(super) fn last(&self, end: u64) -> u64 {
        match self.count_up_to(end).checked_sub(1) {
            Some(last) => self.entries[last].seq(),
            None => self.mark.min(end),
        }
    }

    /// Whether the topic keeps more than it may. Its newest message always stays.
    pub(super) fn is_over(&self, retention: &Retention) -> bool {
        let over = self.len() > retention.messages || self.bytes > retention.topic_bytes;
        over && self.len() > 1
    }

    pub(super) fn contains(&self, seq: u64) -> bool {
        self.entries.binary_search_by_key(&seq, Entry::seq).is_ok()
    }

    /// The messages in (`start`, `end`].
    pub(super) fn between(&self, start: u64, end: u64) -> impl DoubleEndedIterator<Item = &Entry> {
        let first = self.count_up_to(start);
        self.entries.range(first..self.count_up_to(end).max(first))
    }

    /// Frees the bytes of all messages up to `seq`, and returns how many bytes that was.
    pub(super) fn page_out(&mut self, seq: u64) -> usize {
        let first = self.entries.partition_point(Entry::is_stored);
        let end = self.count_up_to(seq).max(first);
        let mut freed = 0;
        for entry in self.entries.range_mut(first..end) {
            freed += entry.cost();
            entry.unload();
        }
        freed
    }

    pub(super) fn seqs(&self) -> impl Iterator<Item = u64> {
        self.entries.iter().map(Entry::seq)
    }

    /// A binary search, because one topic's numbers have holes: they count over all topics.
    fn count_up_to(&self, seq: u64) -> usize {
        self.entries.partition_point(|entry| entry.seq() <= seq)
    }
}
