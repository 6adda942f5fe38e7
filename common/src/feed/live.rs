//! The log under its lock, and the readers that wait for it.
//!
//! A publisher holds the lock for one append. It wakes readers after it has released the lock, because they
//! take it at once. A reader holds the lock for one page.

use std::{
    sync::{Mutex, RwLock},
    time::SystemTime,
};

use tokio::time::Instant;

use super::{
    cursor::Cursor,
    error::FeedError,
    keys::{Keys, Once, Publish},
    log::Log,
    message::{Draft, Message, Published, Topic},
    wake::Wakers,
};

/// A log under a lock, and its waiters.
#[derive(Debug)]
pub struct LiveLog {
    /// A read-write lock, because one wake-up sends thousands of readers here at once.
    log: RwLock<Log>,
    pub(super) wakers: Wakers<Topic>,
    /// Empty if the feed has a store, which keeps the keys with the messages.
    keys: Mutex<Keys>,
}

impl LiveLog {
    /// This log, without waiters yet.
    pub fn new(log: Log) -> Self {
        Self {
            log: RwLock::new(log),
            wakers: Wakers::new(),
            keys: Mutex::default(),
        }
    }

    /// Reads the log. Keep `look` short: publishers wait meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&Log) -> T) -> T {
        look(&self.log.read().expect(UNPOISONED))
    }

    /// Changes the log.
    pub fn change<T>(&self, change: impl FnOnce(&mut Log) -> T) -> T {
        change(&mut self.log.write().expect(UNPOISONED))
    }

    /// Appends a message that a store has, and wakes the readers that wait for its topic.
    pub fn push(&self, message: Message, now: Instant) {
        let topic = message.topic.clone();
        self.change(|log| log.push(message, now));
        self.wakers.wake(&topic);
    }

    /// Replaces the log, and wakes all readers to look again.
    pub fn replace(&self, log: Log) {
        self.change(|old| *old = log);
        self.wakers.wake_all();
    }

    /// Whether every lock can still be taken. After a panic under a lock, it cannot.
    pub(super) fn health(&self) -> Result<(), FeedError> {
        if self.log.is_poisoned() || self.keys.is_poisoned() || self.wakers.is_poisoned() {
            return Err(FeedError::Stopped);
        }
        Ok(())
    }

    /// Publishes to a log that is only in memory.
    pub(super) fn publish(&self, publish: Publish) -> Result<Published, FeedError> {
        let Publish { topic, draft, once } = publish;
        let published = match once {
            None => self.append(topic.clone(), draft).map(Published::new),
            Some(once) => self.append_once(topic.clone(), draft, once),
        }?;
        // After the locks: a reader that wakes needs the log, and the next publisher needs the keys.
        if !published.duplicate {
            self.wakers.wake(&topic);
        }
        Ok(published)
    }

    /// Locks the keys until the message is appended: a second publish with this key waits, and finds the key.
    fn append_once(&self, topic: Topic, draft: Draft, once: Once) -> Result<Published, FeedError> {
        let (mut keys, now) = (self.keys.lock().expect(UNPOISONED), Instant::now());
        if let Some(published) = keys.find(&topic, &once, now)? {
            return Ok(published);
        }
        let id = self.append(topic.clone(), draft)?;
        keys.insert(topic, once, id, now);
        Ok(Published::new(id))
    }

    /// Reads the clock under the lock, so that timestamps are in the order of the numbers.
    fn append(&self, topic: Topic, draft: Draft) -> Result<Cursor, FeedError> {
        self.change(|log| log.append(topic, draft, Instant::now(), SystemTime::now()))
    }
}

const UNPOISONED: &str = "nothing panics under this lock";

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        sync::Arc,
    };

    use super::super::{Epoch, Feed, Retention};
    use super::*;

    #[test]
    fn a_panic_under_a_lock_is_seen_by_health() {
        let panics: [fn(&LiveLog); 2] = [
            |log| log.change(|_| panic!("on purpose")),
            |log| {
                let _keys = log.keys.lock().unwrap();
                panic!("on purpose");
            },
        ];
        for panics in panics {
            let lock = Arc::new(LiveLog::new(Log::new(
                Epoch::random(),
                Retention::default(),
            )));
            let feed = Feed::over(lock.clone(), None);
            assert_eq!(feed.health(), Ok(()));
            catch_unwind(AssertUnwindSafe(|| panics(&lock))).unwrap_err();
            assert_eq!(feed.health(), Err(FeedError::Stopped));
        }
    }
}
