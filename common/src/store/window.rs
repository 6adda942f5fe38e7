//! A log backed by a store: only its newest messages are in memory.
//!
//! The log keeps the number and cost of every message, so retention and gaps do not depend on where the
//! bytes are. The window counts the bytes in memory. Over the limit, it pages out the older half of the
//! messages: the store still has them. Every change of a store's log goes through the window.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
    time::SystemTime,
};

use tokio::time::Instant;

use crate::feed::{
    Epoch, FeedError, Message, Retention, Topic,
    log::{Changes, Entry, Log},
    store::LiveLog,
};

/// A store's log. The store is its only writer; readers see it through the feed.
#[derive(Debug)]
pub(crate) struct Window {
    log: Arc<LiveLog>,
    loaded: Mutex<Loaded>,
    /// [`Retention::in_memory`].
    limit: usize,
}

/// What is in memory.
#[derive(Debug)]
struct Loaded {
    bytes: usize,
    /// Every message up to this number is only in the store.
    after: u64,
}

impl Window {
    /// A window on an empty log.
    pub(crate) fn new(epoch: Epoch, retention: Retention) -> Self {
        let (bytes, after, limit) = (0, 0, retention.in_memory);
        Self {
            log: Arc::new(LiveLog::new(Log::new(epoch, retention))),
            loaded: Mutex::new(Loaded { bytes, after }),
            limit,
        }
    }

    /// What readers see.
    pub(crate) fn log(&self) -> &Arc<LiveLog> {
        &self.log
    }

    /// Makes room for a message of this topic, before it is stored.
    pub(crate) fn admit(&self, topic: &Topic, now: Instant) -> Result<Changes, FeedError> {
        self.try_change(|log| log.admit(topic, now))
    }

    /// Takes back a topic as it was saved.
    #[cfg(feature = "file")]
    pub(crate) fn restore_topic(&self, topic: Topic, mark: u64) {
        self.log
            .change(|log| log.restore_topic(topic, mark, Instant::now()));
    }

    /// Takes back a message as it was saved, in order.
    #[cfg(feature = "file")]
    pub(crate) fn restore(&self, message: Message, published: SystemTime) {
        let (mut loaded, cost) = (self.loaded(), message.cost());
        self.log.change(|log| {
            if log.restore(Arc::new(message), moment(published)) {
                loaded.bytes += cost;
                loaded.page_out(log, self.limit);
            }
        });
    }

    /// Appends a message that is stored, and wakes its readers.
    pub(crate) fn append(&self, message: Message, now: Instant) -> Changes {
        let (topic, cost) = (message.topic.clone(), message.cost());
        // Counted first: this push may already drop or page out the message.
        self.loaded().bytes += cost;
        let changes = self.change(|log| log.push(Arc::new(message), now));
        self.log.wake(&topic);
        changes
    }

    /// Drops everything up to `seq`: the store no longer has it.
    pub(crate) fn raise_floor(&self, seq: u64) -> Changes {
        let changes = self.change(|log| log.raise_floor(seq));
        self.raise_head(seq);
        changes
    }

    /// Moves the head to `seq`: the log has everything that the store has up to there.
    pub(crate) fn raise_head(&self, seq: u64) {
        self.log.change(|log| log.raise_head(seq));
    }

    /// Changes the log, and pages out what is then over the limit.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Log) -> Changes) -> Changes {
        let Ok(changes) = self.try_change(|log| Ok::<_, Infallible>(change(log)));
        changes
    }

    fn try_change<E>(
        &self,
        change: impl FnOnce(&mut Log) -> Result<Changes, E>,
    ) -> Result<Changes, E> {
        let mut loaded = self.loaded();
        self.log.change(|log| {
            let changes = change(log)?;
            loaded.forget(&changes);
            loaded.page_out(log, self.limit);
            Ok(changes)
        })
    }

    /// Replaces this window's log by another one's. Readers keep waiting on the same [`LiveLog`].
    #[cfg(feature = "nats")]
    pub(crate) fn replace(&self, other: Self) {
        let mut loaded = self.loaded();
        *loaded = other.loaded.into_inner().expect(UNPOISONED);
        let log = Arc::into_inner(other.log).expect("no feed shows this log yet");
        self.log.replace(log);
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().expect(UNPOISONED)
    }
}

impl Loaded {
    fn forget(&mut self, changes: &Changes) {
        for entry in &changes.dropped {
            if let Entry::Loaded(message) = entry {
                self.bytes -= message.cost();
            }
        }
    }

    /// Pages out the older half of the numbers at once. Paging out touches every topic, so doing it for
    /// each message would be slow.
    fn page_out(&mut self, log: &mut Log, limit: usize) {
        while self.bytes > limit {
            self.after += (log.head().seq - self.after).div_ceil(2);
            self.bytes -= log.page_out(self.after);
        }
    }
}

const UNPOISONED: &str = "nothing panics under this lock";

/// A publish time as an `Instant`. An `Instant` may not reach back before the machine's start; then it
/// is now, which only makes the topic look busier.
pub(crate) fn moment(published: SystemTime) -> Instant {
    let (now, age) = (Instant::now(), SystemTime::now().duration_since(published));
    now.checked_sub(age.unwrap_or_default()).unwrap_or(now)
}
