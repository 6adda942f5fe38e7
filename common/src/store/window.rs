//! A log of which only the newest messages are in memory.
//!
//! The log keeps number and cost of every message, so retention and gaps do not depend on where the
//! bytes are. The window counts the bytes that are in memory, and leaves the older half to the store
//! when they are too many. Everything that changes a store's log goes through here.

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
    /// Every message up to this number is in the store alone.
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

    /// Makes room for a message of this topic, which is going to be stored.
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

    /// Shows a message that is stored.
    pub(crate) fn append(&self, message: Message, now: Instant) -> Changes {
        let (topic, cost) = (message.topic.clone(), message.cost());
        self.loaded().bytes += cost;
        let changes = self.change(|log| log.push(Arc::new(message), now));
        self.log.wake(&topic);
        changes
    }

    /// The store has nothing up to `seq`.
    pub(crate) fn raise_floor(&self, seq: u64) -> Changes {
        let changes = self.change(|log| log.raise_floor(seq));
        self.raise_head(seq);
        changes
    }

    /// The store has nothing to give up to `seq` that is not here.
    pub(crate) fn raise_head(&self, seq: u64) {
        self.log.change(|log| log.raise_head(seq));
    }

    /// Changes the log, and pages out what is then too much.
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

    /// Puts another window's log in the place of this one's.
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

    /// Leaves half of what is in memory to the store, rather than one message each time: that
    /// touches every topic.
    fn page_out(&mut self, log: &mut Log, limit: usize) {
        while self.bytes > limit {
            self.after += (log.head().seq - self.after).div_ceil(2);
            self.bytes -= log.page_out(self.after);
        }
    }
}

const UNPOISONED: &str = "nothing panics under this lock";

/// When something was published, by this process's clock. Before the machine's start is as good as now.
pub(crate) fn moment(published: SystemTime) -> Instant {
    let (now, age) = (Instant::now(), SystemTime::now().duration_since(published));
    now.checked_sub(age.unwrap_or_default()).unwrap_or(now)
}
