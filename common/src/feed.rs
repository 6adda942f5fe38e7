//! The feed: the log, its idempotency keys and its waiters behind three verbs.

use std::{
    fmt,
    future::poll_fn,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::SystemTime,
};

use tokio::time::Instant;
use tracing::info;

use crate::{
    After, Cursor, Draft, Epoch, IdempotencyKey, Page, PageLimit, Published, Retention, Topic,
    Topics,
    idempotency::{Fingerprint, Keys, fingerprint},
    log::Log,
    wake::Wakers,
};

/// An ordered, bounded log of messages. Clones share it.
///
/// This one lives in memory: it begins a new epoch and knows nothing of an earlier life. Its verbs
/// are async and can fail, because a log on a disk or on another machine waits and fails.
#[derive(Clone)]
pub struct Feed {
    shared: Arc<Shared>,
    /// This handle's waiters end. Shared by its clones.
    closed: Arc<AtomicBool>,
}

struct Shared {
    state: RwLock<State>,
    wakers: Wakers<Topic>,
}

struct State {
    log: Log,
    keys: Keys,
}

/// What a feed holds at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Topics that are kept.
    pub topics: usize,
    /// Messages that are kept.
    pub messages: usize,
    /// What the messages count for in the byte limits.
    pub bytes: usize,
    /// Readers that wait in [`Feed::next`].
    pub waiters: usize,
}

/// Why the feed did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// The handle was closed, and there is nothing more to read.
    #[error("the feed is closed")]
    Closed,
    /// The idempotency key was used for another message.
    #[error("Idempotency-Key {0} was used for another message in this topic")]
    KeyReused(IdempotencyKey),
    /// The topic is new, there are as many as the feed keeps, and none of them is idle.
    #[error("there are {0} topics, none of them idle: no room for a new one")]
    TooManyTopics(usize),
}

impl Feed {
    /// An empty feed in memory, with a new epoch.
    pub fn new(retention: Retention) -> Self {
        let state = State {
            log: Log::new(Epoch::random(), retention),
            keys: Keys::default(),
        };
        let shared = Shared {
            state: RwLock::new(state),
            wakers: Wakers::new(),
        };
        Self {
            shared: Arc::new(shared),
            closed: Arc::default(),
        }
    }

    /// A handle to the same log that is [closed](Self::close) on its own. Each server takes one, so
    /// that servers which share a feed drain one by one.
    pub fn handle(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            closed: Arc::default(),
        }
    }

    /// Appends a message and wakes those who wait for its topic.
    ///
    /// # Errors
    /// [`FeedError::TooManyTopics`].
    pub async fn publish(&self, topic: Topic, draft: Draft) -> Result<Published, FeedError> {
        let append = |state: &mut State| {
            state
                .log
                .append(&topic, draft, Instant::now(), SystemTime::now())
        };
        let id = self.change(append)?;
        self.shared.wakers.wake(&topic);
        Ok(Published {
            id,
            duplicate: false,
        })
    }

    /// Publishes at most once: the same key with the same message again answers the first id.
    /// A key is remembered for 24 hours, and the last 100,000 of them.
    ///
    /// # Errors
    /// [`FeedError::KeyReused`], [`FeedError::TooManyTopics`].
    pub async fn publish_once(
        &self,
        topic: Topic,
        draft: Draft,
        key: IdempotencyKey,
    ) -> Result<Published, FeedError> {
        // Hashed before the lock is taken.
        let fingerprint = fingerprint(&draft);
        let published = self.change(|state| state.publish_once(&topic, draft, key, fingerprint))?;
        if !published.duplicate {
            self.shared.wakers.wake(&topic);
        }
        Ok(published)
    }

    /// What is newer than `after`, now; the page may be empty.
    ///
    /// # Errors
    /// None from memory. A log on a disk or another machine can be unavailable.
    pub async fn read(
        &self,
        topics: &Topics,
        after: &After,
        limit: PageLimit,
    ) -> Result<Page, FeedError> {
        Ok(told(self.look(|log| log.read(topics, after, limit))))
    }

    /// The same, but waits until there is a message or a gap. Dropping the future frees the wait
    /// and loses nothing.
    ///
    /// # Errors
    /// [`FeedError::Closed`] once this handle is closed and all that there was has been read.
    pub fn next<'a>(
        &'a self,
        topics: &'a Topics,
        after: &After,
        limit: PageLimit,
    ) -> impl Future<Output = Result<Page, FeedError>> {
        let after = match after {
            After::Latest => self.head().into(),
            after => after.clone(),
        };
        let mut waiter = self.shared.wakers.waiter(topics.as_slice());
        // Not an async block, which would keep the arguments twice: ten thousand readers wait here.
        poll_fn(move |task| {
            let mut news = self.news(topics, &after, limit);
            if news.is_none() {
                // What came between the look and the registration woke nobody: look again.
                waiter.register(task.waker());
                news = self.news(topics, &after, limit);
            }
            news.map_or(Poll::Pending, Poll::Ready)
        })
    }

    fn news(
        &self,
        topics: &Topics,
        after: &After,
        limit: PageLimit,
    ) -> Option<Result<Page, FeedError>> {
        match self.look(|log| log.news(topics, after, limit)) {
            Some(page) => Some(Ok(told(page))),
            None => self.is_closed().then_some(Err(FeedError::Closed)),
        }
    }

    /// The position of the last message.
    pub fn head(&self) -> Cursor {
        self.look(Log::head)
    }

    /// What the feed holds now.
    pub fn counts(&self) -> Counts {
        let (topics, messages, bytes) = self.look(Log::counts);
        Counts {
            topics,
            messages,
            bytes,
            waiters: self.waiters(),
        }
    }

    /// The position that reading after `after` starts from, if this feed knows it: not for a cursor
    /// of another life or beyond the head, whose reader has a gap to hear of first.
    pub fn position(&self, topics: &Topics, after: &After) -> Option<Cursor> {
        self.look(|log| log.position(topics, after))
    }

    /// How many readers wait in [`Feed::next`], over all handles.
    pub fn waiters(&self) -> usize {
        self.shared.wakers.waiters()
    }

    /// Ends every wait of this handle and its clones, now and from now on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.shared.wakers.wake_all();
    }

    /// Whether this handle was closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Readers do not hold each other up: a wake-up sends thousands of them here at once.
    fn look<T>(&self, look: impl FnOnce(&Log) -> T) -> T {
        look(&self.shared.state.read().expect(UNPOISONED).log)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.shared.state.write().expect(UNPOISONED))
    }
}

/// No gap is silent.
fn told(page: Page) -> Page {
    if let Some(gap) = &page.gap {
        info!("gap {}", gap.to_json());
    }
    page
}

impl State {
    fn publish_once(
        &mut self,
        topic: &Topic,
        draft: Draft,
        key: IdempotencyKey,
        fingerprint: Fingerprint,
    ) -> Result<Published, FeedError> {
        let now = Instant::now();
        if let Some(id) = self.keys.find(topic, &key, &fingerprint, now)? {
            return Ok(Published {
                id,
                duplicate: true,
            });
        }
        let id = self.log.append(topic, draft, now, SystemTime::now())?;
        self.keys.insert(topic.clone(), key, fingerprint, id, now);
        Ok(Published {
            id,
            duplicate: false,
        })
    }
}

const UNPOISONED: &str = "nothing panics under this lock";

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed")
            .field("head", &self.head())
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}
