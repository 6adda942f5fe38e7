//! What a read finds in the log: where it starts, what is missing before that, and which messages fit.
//!
//! A read uses only numbers and sizes, so a page is the same wherever the bytes are. If its first messages
//! are not in memory, the store adds them afterwards.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    cursor::{After, Cursor},
    log::Log,
    message::{Message, Topics},
    page::{Gap, Page, PageLimit, Reason},
    ring::{Entry, Ring},
};

/// A page that a store may have to complete.
#[derive(Debug)]
pub struct PartialPage {
    /// The page, without the messages that are missing.
    pub page: Page,
    /// The numbers of its first messages, if memory does not have them.
    pub missing: Vec<u64>,
}

impl PartialPage {
    /// The cursor that was asked for, if it is beyond the head.
    pub fn ahead(&self) -> Option<Cursor> {
        let gap = self.page.gap.as_ref()?;
        match gap.reason {
            Reason::Ahead => gap.requested.parse().ok(),
            Reason::Foreign | Reason::Trimmed => None,
        }
    }

    /// Puts the missing messages in front: messages that only the store has are older.
    pub fn complete(self, missing: Vec<Arc<Message>>) -> Page {
        let mut page = self.page;
        page.messages.splice(..0, missing);
        page
    }

    /// Whether a feed with a store can give this page without asking the store.
    pub(super) fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.ahead().is_none()
    }

    /// Whether there is a message or a gap.
    pub(super) fn is_news(&self) -> bool {
        !self.missing.is_empty() || self.page.is_news()
    }
}

/// The topics of one request, each looked up once.
pub(super) struct View<'a> {
    log: &'a Log,
    topics: &'a Topics,
    /// In the order of `topics`. `None` for a topic that the log does not know: its mark is the floor.
    rings: SmallVec<[Option<&'a Ring>; 4]>,
    limit: PageLimit,
}

impl<'a> View<'a> {
    pub(super) fn new(log: &'a Log, topics: &'a Topics, limit: PageLimit) -> Self {
        let rings = topics.iter().map(|topic| log.ring_of(topic)).collect();
        Self {
            log,
            topics,
            rings,
            limit,
        }
    }

    /// What is newer than `after`.
    pub(super) fn read(&self, after: &After) -> PartialPage {
        // The page covers (start, end]. Up to `newest_end` it has only each topic's newest message.
        let (start, gap) = self.start(after);
        let end = self.end(gap.as_ref());
        let state_end = self.state_end(after);
        let newest_end = match self.limit.newest {
            true => end,
            false => state_end.min(end),
        };
        let (entries, is_all) = self.collect(start, newest_end.max(start), end);
        let given = entries.last().map(|entry| entry.seq());
        let next = given.filter(|_| !is_all).unwrap_or(end);
        let mut missing = Vec::new();
        let mut messages = Vec::with_capacity(entries.len());
        for entry in entries {
            match entry {
                Entry::Loaded(message) => messages.push(message.clone()),
                Entry::Stored { seq, .. } => missing.push(*seq),
            }
        }
        let page = Page {
            messages,
            next: self.log.at(next),
            then: After::going_on(self.log.at(next), state_end),
            last: self.log.at(given.unwrap_or_else(|| self.last(end))),
            more: !is_all || end < self.log.head().seq,
            gap,
            published: self.rings().map(|ring| ring.published).max(),
        };
        PartialPage { page, missing }
    }

    /// The position that reading after `after` starts from. `None` if no position means the same.
    pub(super) fn position(&self, after: &After) -> Option<Cursor> {
        let (start, gap) = self.start(after);
        let is_foreign = gap.is_some_and(|gap| gap.reason != Reason::Trimmed);
        let is_state = matches!(after, After::Last | After::Rest { .. });
        (!is_foreign && !is_state).then(|| self.log.at(start))
    }

    /// The number to read after, and the gap that lies before it.
    fn start(&self, after: &After) -> (u64, Option<Gap>) {
        let (epoch, head) = (self.log.head().epoch, self.log.head().seq);
        let earliest = self.marks().min().unwrap_or_default();
        let reason = match after {
            After::Earliest => return (earliest, None),
            After::Latest => return (head, None),
            After::Last => return (0, None),
            // The state is what is kept of it, so what was dropped of it is no gap.
            After::Rest {
                epoch: of,
                seq,
                until,
            } if *of == epoch => return (*seq, self.trimmed(*until, after)),
            After::Cursor(cursor) if cursor.epoch == epoch && cursor.seq <= head => {
                return (cursor.seq, self.trimmed(cursor.seq, after));
            }
            After::Cursor(cursor) if cursor.epoch == epoch => Reason::Ahead,
            After::Cursor(_) | After::Rest { .. } | After::Unreadable(_) => Reason::Foreign,
        };
        let all = self.topics.clone();
        (earliest, Some(self.gap(reason, all, after, earliest)))
    }

    /// The gap of the topics that lost something after `seq`. It ends at their lowest mark, because up to
    /// there all of them have lost everything.
    fn trimmed(&self, seq: u64, after: &After) -> Option<Gap> {
        let resumed = self.first_loss_after(seq)?;
        let losses = self.topics.iter().zip(self.losses());
        let lost = losses.filter(|(_, loss)| *loss > seq);
        let topics = lost.map(|(topic, _)| topic.clone()).collect();
        Some(self.gap(Reason::Trimmed, Topics::from_sorted(topics), after, resumed))
    }

    fn gap(&self, reason: Reason, topics: Topics, after: &After, resumed: u64) -> Gap {
        Gap {
            reason,
            topics,
            requested: after.to_string(),
            resumed: self.log.at(resumed),
        }
    }

    /// The last number that this page covers. If another topic lost messages after this gap, the page stops
    /// at the gap's end. The next page then starts with the other gap, so each gap names exactly the topics
    /// that lost something.
    fn end(&self, gap: Option<&Gap>) -> u64 {
        gap.map(|gap| gap.resumed.seq)
            .filter(|resumed| self.first_loss_after(*resumed).is_some())
            .unwrap_or(self.log.head().seq)
    }

    /// The number up to which only the newest messages are wanted because the reader began with `last`.
    fn state_end(&self, after: &After) -> u64 {
        let head = self.log.head();
        match after {
            After::Last => head.seq,
            After::Rest { epoch, until, .. } if *epoch == head.epoch => *until,
            _ => 0,
        }
    }

    /// Each topic's newest entry in (`start`, `newest_end`] and all entries in (`newest_end`, `end`], as
    /// many as the limit admits. Also returns whether that is all of them.
    fn collect(&self, start: u64, newest_end: u64, end: u64) -> (Vec<&'a Entry>, bool) {
        let limit = self.limit;
        // One more than the limit shows whether there is more.
        let enough = limit.messages.saturating_add(1);
        let mut found: Vec<&Entry> = Vec::new();
        for ring in self.rings() {
            if newest_end > start {
                found.extend(ring.between(start, newest_end).next_back());
            }
            found.extend(ring.between(newest_end, end).take(enough));
        }
        found.sort_unstable_by_key(|entry| entry.seq());
        // The first message always fits, or a reader with a small limit would never get past it.
        let mut bytes = 0;
        let wanted = found.iter().take(limit.messages.max(1));
        let admitted = wanted.take_while(|entry| {
            let is_first = bytes == 0;
            // The cost includes the struct; the limit counts only what is sent.
            bytes += entry.cost() - size_of::<Message>();
            is_first || bytes <= limit.bytes
        });
        let count = admitted.count();
        let is_all = count == found.len();
        found.truncate(count);
        (found, is_all)
    }

    /// The last message that the topics had up to `end`, as far as is known.
    /// A topic that was reclaimed counts with the floor.
    fn last(&self, end: u64) -> u64 {
        let floor = self.log.floor().min(end);
        let rings = self.rings.iter();
        let lasts = rings.map(|ring| ring.map_or(floor, |ring| ring.last(end)));
        lasts.max().unwrap_or_default()
    }

    fn first_loss_after(&self, seq: u64) -> Option<u64> {
        self.losses().filter(|loss| *loss > seq).min()
    }

    /// In the order of `topics`: the number up to which a topic has lost what this reader wants. A reader
    /// of the newest messages has lost nothing of a topic that still has one.
    fn losses(&self) -> impl Iterator<Item = u64> {
        let rings = self.rings.iter().zip(self.marks());
        rings.map(|(ring, mark)| {
            let has_newest = ring.is_some_and(|ring| ring.first().is_some());
            match self.limit.newest && has_newest {
                true => 0,
                false => mark,
            }
        })
    }

    fn marks(&self) -> impl Iterator<Item = u64> {
        let floor = self.log.floor();
        self.rings
            .iter()
            .map(move |ring| ring.map_or(floor, |ring| ring.mark))
    }

    fn rings(&self) -> impl Iterator<Item = &'a Ring> {
        self.rings.iter().copied().flatten()
    }
}
