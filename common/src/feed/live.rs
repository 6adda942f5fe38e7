//! The log under its lock, with those who wait on it.
//!
//! A publisher holds the lock for one append, and wakes after it has released it. A reader holds it
//! for one page.

use std::{
    sync::{Mutex, RwLock},
    time::SystemTime,
};

use tokio::time::Instant;

use super::{
    cursor::Cursor,
    error::FeedError,
    keys::{Keys, Once},
    log::Log,
    message::{Draft, Published, Topic},
    wake::Wakers,
};

/// A log under a lock, and its waiters.
#[derive(Debug)]
pub struct LiveLog {
    /// Readers do not block each other: one wake-up sends thousands of them here at once.
    log: RwLock<Log>,
    pub(super) wakers: Wakers<Topic>,
    /// Empty if the feed has a store, which keeps the keys with the messages.
    keys: Mutex<Keys>,
}

impl LiveLog {
    /// A log that can be waited on.
    pub fn new(log: Log) -> Self {
        Self {
            log: RwLock::new(log),
            wakers: Wakers::new(),
            keys: Mutex::default(),
        }
    }

    /// Looks at the log. Keep it short: publishers wait meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&Log) -> T) -> T {
        look(&self.log.read().expect(UNPOISONED))
    }

    /// Changes the log. After an append, [`wake`](Self::wake).
    pub fn change<T>(&self, change: impl FnOnce(&mut Log) -> T) -> T {
        change(&mut self.log.write().expect(UNPOISONED))
    }

    /// Replaces this log by another one, which has no waiters, and wakes everyone to look again.
    pub fn replace(&self, other: Self) {
        let log = other.log.into_inner().expect(UNPOISONED);
        self.change(|old| *old = log);
        self.wakers.wake_all();
    }

    /// Wakes those who wait for the topic.
    pub fn wake(&self, topic: &Topic) {
        self.wakers.wake(topic);
    }

    /// Publishes to a log that is in memory alone.
    pub(super) fn publish(
        &self,
        topic: Topic,
        draft: Draft,
        once: Option<Once>,
    ) -> Result<Published, FeedError> {
        let published = match once {
            None => self.append(&topic, draft).map(Published::new),
            Some(once) => self.append_once(&topic, draft, once),
        }?;
        if !published.duplicate {
            self.wakers.wake(&topic);
        }
        Ok(published)
    }

    /// Reads the clock under the lock, so that timestamps are in the order of the numbers.
    fn append(&self, topic: &Topic, draft: Draft) -> Result<Cursor, FeedError> {
        self.change(|log| log.append(topic, draft, Instant::now(), SystemTime::now()))
    }

    /// Holds the keys until the message is appended: a second publish with this key waits for the first,
    /// and finds it.
    fn append_once(&self, topic: &Topic, draft: Draft, once: Once) -> Result<Published, FeedError> {
        let (mut keys, now) = (self.keys.lock().expect(UNPOISONED), Instant::now());
        if let Some(published) = keys.find(topic, &once, now)? {
            return Ok(published);
        }
        let id = self.append(topic, draft)?;
        keys.insert(topic.clone(), once, id, now);
        Ok(Published::new(id))
    }
}

const UNPOISONED: &str = "nothing panics under this lock";
