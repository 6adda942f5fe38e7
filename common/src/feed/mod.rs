//! The feed: an ordered, bounded log of messages, and the readers that wait for more of them.
//!
//! Read in this order: this file (the verbs, and how a reader waits), `live.rs` (the log under its
//! lock), `log.rs` and `ring.rs` (what is kept), `view.rs` (what a read finds), `wake.rs` (how a waiter
//! is woken), `keys.rs` (publish at most once). `store.rs` is the trait of a store, in which
//! messages outlive the process. This folder uses nothing else of the repository.

mod cursor;
mod error;
mod keys;
mod live;
pub mod log;
mod message;
mod page;
mod pieces;
mod retention;
mod ring;
pub mod store;
mod view;
mod wake;

use std::{
    collections::HashMap,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use tracing::trace;

use keys::{Once, Publish, fingerprint};
use live::LiveLog;
use log::Log;
use store::{Store, StoreFuture};
use view::{PartialPage, View};
use wake::Waiter;

pub use cursor::{After, BadCursor, Cursor, Epoch, whole_number};
pub use error::FeedError;
pub use log::Counts;
pub use message::{
    BadInput, Data, Draft, IdempotencyKey, Message, MessageType, Published, Topic, Topics,
    timestamp,
};
pub use page::{Gap, Newest, Page, PageLimit, Reason};
pub use pieces::Pieces;
pub use retention::Retention;

/// An ordered, bounded log of messages. Clones share it.
///
/// In memory ([`Feed::new`]) a feed begins a new epoch and ends with the process. With a
/// [store](Feed::with_store) its messages outlive the process: nothing is readable before it is
/// stored, and old messages are read back from the store. The methods are async and return errors
/// because a store does I/O.
#[derive(Clone)]
pub struct Feed(Arc<Handle>);

/// What the clones of one handle share.
struct Handle {
    log: Arc<LiveLog>,
    /// Where messages outlive the process. `None` for a feed in memory.
    store: Option<Arc<dyn Store>>,
    /// Once set, the waits of this handle end.
    closed: AtomicBool,
}

impl Feed {
    /// An empty feed in memory, with a new epoch.
    pub fn new(retention: Retention) -> Self {
        let everything = Retention {
            in_memory: usize::MAX,
            ..retention
        };
        let log = Log::new(Epoch::random(), everything);
        Self::over(Arc::new(LiveLog::new(log)), None)
    }

    /// A feed whose messages `store` keeps. The store appends them to `log`.
    pub fn with_store(log: Arc<LiveLog>, store: Arc<dyn Store>) -> Self {
        Self::over(log, Some(store))
    }

    fn over(log: Arc<LiveLog>, store: Option<Arc<dyn Store>>) -> Self {
        let closed = AtomicBool::new(false);
        Self(Arc::new(Handle { log, store, closed }))
    }

    /// A second handle to the same log, with its own [close](Self::close). Each server takes one, so
    /// that one server can drain while another still serves the same feed.
    pub fn handle(&self) -> Self {
        Self::over(self.0.log.clone(), self.0.store.clone())
    }

    /// Appends a message and wakes the readers that wait for its topic.
    ///
    /// # Errors
    /// [`FeedError::TooManyTopics`] and [`FeedError::Full`]. A file adds [`FeedError::NoRoom`] and
    /// [`FeedError::Stopped`]. NATS adds [`FeedError::Away`] and [`FeedError::Stopped`].
    pub async fn publish(&self, topic: Topic, draft: Draft) -> Result<Published, FeedError> {
        self.publish_once(topic, draft, None).await
    }

    /// Publishes at most once: a repeat with the same key and message returns the first id. A key is
    /// remembered for 24 hours. A feed in memory or in a file remembers at most 100,000 keys. Without a key,
    /// the same as [`Feed::publish`].
    ///
    /// # Errors
    /// [`FeedError::KeyReused`], and those of [`Feed::publish`].
    pub async fn publish_once(
        &self,
        topic: Topic,
        draft: Draft,
        key: impl Into<Option<IdempotencyKey>>,
    ) -> Result<Published, FeedError> {
        let once = key.into().map(|key| Once {
            key,
            fingerprint: fingerprint(&draft),
        });
        let publish = Publish { topic, draft, once };
        match self.store() {
            None => self.0.log.publish(publish),
            Some(store) => {
                let started = Instant::now();
                let published = store.publish(publish).await;
                trace!(count.publish_seconds = started.elapsed().as_secs_f64());
                published
            }
        }
    }

    /// What is newer than `after`, now; the page may be empty. The future borrows the feed and the topics, but
    /// not `after`.
    ///
    /// # Errors
    /// None from memory; [`FeedError::Unreadable`] from a file; [`FeedError::Away`] from NATS.
    pub fn read<'a>(
        &'a self,
        topics: &'a Topics,
        after: &After,
        limit: PageLimit,
    ) -> impl Future<Output = Result<Page, FeedError>> + use<'a> {
        Reading {
            feed: self,
            topics,
            after: after.clone(),
            limit,
            waiter: None,
            completing: None,
        }
    }

    /// Like [`Feed::read`], but waits until there is a message or a gap. Cancel-safe: dropping the
    /// future loses nothing.
    ///
    /// # Errors
    /// [`FeedError::Closed`] once this handle is closed and everything has been read;
    /// [`FeedError::Unreadable`] from a file; [`FeedError::Away`] from NATS.
    pub fn next<'a>(
        &'a self,
        topics: &'a Topics,
        after: &After,
        limit: PageLimit,
    ) -> impl Future<Output = Result<Page, FeedError>> + use<'a> {
        Reading {
            feed: self,
            topics,
            after: match after {
                // Resolved now. If each poll resolved them, a message between two polls would be skipped.
                After::Latest => self.head().into(),
                After::Last => After::last(self.head()),
                after => after.clone(),
            },
            limit,
            waiter: Some(self.0.log.wakers.waiter(topics.as_slice())),
            completing: None,
        }
    }

    /// The position of the last message.
    pub fn head(&self) -> Cursor {
        self.0.log.read(Log::head)
    }

    /// The position where reading after `after` starts. `None` for [`After::Last`], which has no position,
    /// and for a cursor of another epoch or beyond the head, because the reader must get a gap first.
    pub fn position(&self, topics: &Topics, after: &After) -> Option<Cursor> {
        let limit = PageLimit::default();
        self.0
            .log
            .read(|log| View::new(log, topics, limit).position(after))
    }

    /// What the feed holds now.
    pub fn counts(&self) -> Counts {
        self.0.log.read(Log::counts)
    }

    /// How many readers wait in [`Feed::next`], over all handles.
    pub fn waiters(&self) -> usize {
        self.0.log.wakers.waiters()
    }

    /// Protects messages that must still be delivered: in each topic, messages newer than its number stay,
    /// whatever the retention says. Replaces all earlier pins. A feed over
    /// [`Retention::total_bytes`] that still has pinned messages refuses new ones.
    pub fn pin(&self, pins: HashMap<Topic, u64>) {
        self.0.log.change(|log| log.pin(pins));
    }

    /// Ends every wait of this handle and its clones, and every later one.
    pub fn close(&self) {
        // Set before the wake-up: a woken reader looks at it.
        self.0.closed.store(true, Ordering::SeqCst);
        self.0.log.wakers.wake_all();
    }

    /// Whether this handle was closed.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::SeqCst)
    }

    /// Whether the feed accepts messages, as far as this process knows.
    ///
    /// # Errors
    /// [`FeedError::Stopped`].
    pub fn health(&self) -> Result<(), FeedError> {
        self.0.log.health()?;
        self.store().map_or(Ok(()), Store::health)
    }

    /// The store of the messages; `None` for a feed in memory.
    pub fn store(&self) -> Option<&dyn Store> {
        self.0.store.as_deref()
    }
}

/// A read, written by hand. An async block would store its arguments twice (rust-lang/rust#62958), and
/// ten thousand readers may wait here.
struct Reading<'a> {
    feed: &'a Feed,
    topics: &'a Topics,
    after: After,
    limit: PageLimit,
    /// `None` if the page may be empty.
    waiter: Option<Waiter<'a, Topic>>,
    /// Set while the store completes a page.
    completing: Option<StoreFuture<'a, Option<Page>>>,
}

impl Future for Reading<'_> {
    type Output = Result<Page, FeedError>;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let reading = self.get_mut();
        loop {
            if let Some(completing) = &mut reading.completing {
                let page = ready!(completing.as_mut().poll(task))?;
                reading.completing = None;
                // Without a page the log has changed meanwhile: read it again.
                if let Some(page) = page {
                    return Poll::Ready(Ok(page.log_gap()));
                }
            }
            let partial = ready!(reading.read(task))?;
            match reading.feed.store() {
                Some(store) if !partial.is_complete() => {
                    reading.completing = Some(store.complete(partial));
                }
                _ => return Poll::Ready(Ok(partial.page.log_gap())),
            }
        }
    }
}

impl Reading<'_> {
    /// To wait: look, register, look again. `tests/wake_model.rs` checks that this order loses no wake-up.
    fn read(&mut self, task: &mut Context<'_>) -> Poll<Result<PartialPage, FeedError>> {
        let found = self.look();
        if let (Poll::Pending, Some(waiter)) = (&found, &mut self.waiter) {
            waiter.register(task.waker());
            // A message that came between the look and the registration woke no one: look again.
            return self.look();
        }
        found
    }

    /// News first, even on a closed feed: closing loses no message.
    fn look(&self) -> Poll<Result<PartialPage, FeedError>> {
        match self.page() {
            Some(partial) => Poll::Ready(Ok(partial)),
            None if self.feed.is_closed() => Poll::Ready(Err(FeedError::Closed)),
            None => Poll::Pending,
        }
    }

    /// `None` if there is nothing yet for a reader that waits.
    fn page(&self) -> Option<PartialPage> {
        let waits = self.waiter.is_some();
        self.feed.0.log.read(|log| {
            // A shortcut: a reader looks twice before each wait, and most have read everything.
            if waits && self.after == After::Cursor(log.head()) {
                return None;
            }
            let partial = View::new(log, self.topics, self.limit).read(&self.after);
            (!waits || partial.is_news()).then_some(partial)
        })
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed")
            .field("head", &self.head())
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

/// The lock of `wake.rs`. Its model check replaces the lock by loom's.
mod sync {
    pub(super) use std::sync::Mutex;
}
