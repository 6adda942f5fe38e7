//! The feed: the log, its idempotency keys and its waiters behind three verbs: publish, read, next.

mod cursor;
mod error;
pub(crate) mod keys;
pub(crate) mod log;
mod message;
mod page;
mod wake;

use std::{
    collections::HashMap,
    fmt,
    future::{poll_fn, ready as ready_now},
    pin::Pin,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, ready},
    time::SystemTime,
};

use tokio::time::Instant;
use tracing::info;

use keys::{Fingerprint, Keys, fingerprint};
use log::{Found, Log};
use wake::{Waiter, Wakers};

pub use cursor::{After, BadCursor, Cursor, Epoch};
pub use error::FeedError;
pub use keys::{BadKey, IdempotencyKey};
pub use log::Retention;
pub use message::{
    BadName, BadTopics, Data, Draft, InvalidData, Message, MessageType, Published, Topic, Topics,
};
pub use page::{Gap, Page, PageLimit, Reason};

/// An ordered, bounded log of messages. Clones share it.
///
/// In memory ([`Feed::new`]) it begins a new epoch and knows nothing of an earlier life. In a file
/// ([`FeedSource::File`](crate::FeedSource)) it goes on where it was, and a message is there for its
/// publisher and for its readers as soon as it is on the disk. On NATS ([`FeedSource::Nats`]) it is a
/// window on a stream that any number of processes share. Its verbs are async and can fail, because a
/// disk and a network take their time and fail.
///
/// [`FeedSource::Nats`]: crate::FeedSource
#[derive(Clone)]
pub struct Feed {
    shared: Arc<Shared>,
    /// Shared by this handle's clones.
    handle: Arc<Handle>,
}

struct Handle {
    /// This handle's waiters end.
    closed: AtomicBool,
    /// What the log in memory is a part of, if it is not all.
    backing: Option<Arc<dyn Backing>>,
}

/// Where a feed's messages are besides in memory: a file, or a stream.
pub(crate) trait Backing: Send + Sync {
    /// Answers once the message is there to stay, and is in the log that readers look at.
    fn publish(
        &self,
        topic: Topic,
        draft: Draft,
        once: Option<(IdempotencyKey, Fingerprint)>,
    ) -> Answer<'_, Published>;

    /// The messages of these numbers, or `None` if some are no more and the log knows it.
    fn fetch(&self, seqs: Vec<u64>) -> Answer<'_, Option<Vec<Arc<Message>>>>;

    /// Whether a position beyond the log's head was one of this feed's and the log has reached it
    /// in the meantime.
    fn reaches(&self, _: Cursor) -> Answer<'_, bool> {
        Box::pin(ready_now(Ok(false)))
    }

    /// Whether it takes messages, as far as is known.
    fn health(&self) -> Result<(), FeedError>;

    /// The thread that writes to its file, if it has one.
    #[cfg(feature = "file")]
    fn commits(&self) -> Option<&crate::store::commit::Commits> {
        None
    }
}

/// In a box of its own, for the sake of those who wait and never publish or fetch.
pub(crate) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, FeedError>> + Send + 'a>>;

/// What readers look at: of a feed in a file, what has been committed.
pub(crate) struct Shared {
    state: RwLock<State>,
    wakers: Wakers<Topic>,
}

struct State {
    log: Log,
    /// A feed in a file or on a stream has its keys there.
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

impl Feed {
    /// An empty feed in memory, with a new epoch.
    pub fn new(retention: Retention) -> Self {
        let shared = Shared::new(Log::new(Epoch::random(), retention));
        Self::over(Arc::new(shared), None)
    }

    pub(crate) fn over(shared: Arc<Shared>, backing: Option<Arc<dyn Backing>>) -> Self {
        let handle = Handle {
            closed: AtomicBool::new(false),
            backing,
        };
        Self {
            shared,
            handle: Arc::new(handle),
        }
    }

    /// A handle to the same log that is [closed](Self::close) on its own. Each server takes one, so
    /// that servers which share a feed drain one by one.
    pub fn handle(&self) -> Self {
        Self::over(self.shared.clone(), self.handle.backing.clone())
    }

    /// Appends a message and wakes those who wait for its topic.
    ///
    /// # Errors
    /// [`FeedError::TooManyTopics`] and [`FeedError::Full`]; of a feed in a file also [`FeedError::NoRoom`] and
    /// [`FeedError::Stopped`], of one on NATS also [`FeedError::Away`] and [`FeedError::Stopped`].
    pub async fn publish(&self, topic: Topic, draft: Draft) -> Result<Published, FeedError> {
        if let Some(backing) = &self.handle.backing {
            return backing.publish(topic, draft, None).await;
        }
        let append = |state: &mut State| {
            state
                .log
                .append(&topic, draft, Instant::now(), SystemTime::now())
        };
        let id = self.shared.change_state(append)?;
        self.shared.wakers.wake(&topic);
        Ok(Published {
            id,
            duplicate: false,
        })
    }

    /// Publishes at most once: the same key with the same message again answers the first id.
    /// A key is remembered for 24 hours, and (but on NATS) the last 100,000 of them.
    ///
    /// # Errors
    /// [`FeedError::KeyReused`], and those of [`Feed::publish`].
    pub async fn publish_once(
        &self,
        topic: Topic,
        draft: Draft,
        key: IdempotencyKey,
    ) -> Result<Published, FeedError> {
        // Hashed before the lock is taken.
        let fingerprint = fingerprint(&draft);
        if let Some(backing) = &self.handle.backing {
            return backing
                .publish(topic, draft, Some((key, fingerprint)))
                .await;
        }
        let publish = |state: &mut State| state.publish_once(&topic, draft, key, fingerprint);
        let published = self.shared.change_state(publish)?;
        if !published.duplicate {
            self.shared.wakers.wake(&topic);
        }
        Ok(published)
    }

    /// What is newer than `after`, now; the page may be empty.
    ///
    /// # Errors
    /// None from memory; [`FeedError::Unreadable`] from a file; [`FeedError::Away`] from NATS.
    pub async fn read(
        &self,
        topics: &Topics,
        after: &After,
        limit: PageLimit,
    ) -> Result<Page, FeedError> {
        loop {
            let found = self.shared.look(|log| log.read(topics, after, limit));
            let fetch = match self.whole(found) {
                Ok(page) => return Ok(page),
                Err(fetch) => fetch,
            };
            if let Some(page) = fetch.await? {
                return Ok(page);
            }
        }
    }

    /// The same, but waits until there is a message or a gap. Dropping the future frees the wait
    /// and loses nothing.
    ///
    /// # Errors
    /// [`FeedError::Closed`] once this handle is closed and all that there was has been read;
    /// [`FeedError::Unreadable`] from a file; [`FeedError::Away`] from NATS.
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
        let mut wait = Wait::News(self.shared.wakers.waiter(topics.as_slice()));
        // Not an async block, which would keep the arguments twice: ten thousand readers wait here.
        poll_fn(move |task| {
            loop {
                match &mut wait {
                    Wait::News(waiter) => {
                        let mut news = self.news(topics, &after, limit);
                        if news.is_none() {
                            // What came between the look and the registration woke nobody: look again.
                            waiter.register(task.waker());
                            news = self.news(topics, &after, limit);
                        }
                        match news.map(|found| found.map(|found| self.whole(found))) {
                            None => return Poll::Pending,
                            Some(Ok(Ok(page))) => return Poll::Ready(Ok(page)),
                            Some(Ok(Err(fetch))) => wait = Wait::Fetch(fetch),
                            Some(Err(error)) => return Poll::Ready(Err(error)),
                        }
                    }
                    Wait::Fetch(fetch) => match ready!(fetch.as_mut().poll(task)).transpose() {
                        Some(page) => return Poll::Ready(page),
                        // The log has changed in the meantime: look again.
                        None => wait = Wait::News(self.shared.wakers.waiter(topics.as_slice())),
                    },
                }
            }
        })
    }

    fn news(
        &self,
        topics: &Topics,
        after: &After,
        limit: PageLimit,
    ) -> Option<Result<Found, FeedError>> {
        match self.shared.look(|log| log.news(topics, after, limit)) {
            Some(found) => Some(Ok(found)),
            None => self.is_closed().then_some(Err(FeedError::Closed)),
        }
    }

    /// The page that was found, or else how to come by the part of it that is not in memory, and to
    /// know that a cursor beyond the head is not one that others have given out already.
    fn whole(&self, found: Found) -> Result<Page, Fetch> {
        match &self.handle.backing {
            Some(backing) if found.ahead().is_some() || !found.filed.is_empty() => {
                Err(Box::pin(fetch(backing.clone(), found)))
            }
            _ => Ok(told(found.page)),
        }
    }

    /// The position of the last message.
    pub fn head(&self) -> Cursor {
        self.shared.look(Log::head)
    }

    /// What the feed holds now.
    pub fn counts(&self) -> Counts {
        let (topics, messages, bytes) = self.shared.look(Log::counts);
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
        self.shared.look(|log| log.position(topics, after))
    }

    /// Keeps what somebody is owed, whatever the retention says: of each of these topics, the messages
    /// newer than the number. It replaces the pins before. Beyond [`Retention::total_bytes`] the feed then
    /// takes no more.
    pub fn pin(&self, pins: HashMap<Topic, u64>) {
        self.shared.change_state(|state| state.log.pin(pins));
    }

    /// How many readers wait in [`Feed::next`], over all handles.
    pub fn waiters(&self) -> usize {
        self.shared.wakers.waiters()
    }

    /// Ends every wait of this handle and its clones, now and from now on.
    pub fn close(&self) {
        self.handle.closed.store(true, Ordering::SeqCst);
        self.shared.wakers.wake_all();
    }

    /// Whether this handle was closed.
    pub fn is_closed(&self) -> bool {
        self.handle.closed.load(Ordering::SeqCst)
    }

    /// The thread that writes to the feed's file, if it has one: a program's own tables in it are
    /// committed with the feed, and a copy of the file is a copy of both.
    #[cfg(feature = "file")]
    pub fn commits(&self) -> Option<&crate::store::commit::Commits> {
        self.handle.backing.as_ref()?.commits()
    }

    /// Whether it takes messages, as far as is known.
    ///
    /// # Errors
    /// [`FeedError::Stopped`].
    pub fn health(&self) -> Result<(), FeedError> {
        self.handle
            .backing
            .as_ref()
            .map_or(Ok(()), |backing| backing.health())
    }
}

/// What [`Feed::next`] waits for. Never both, so that they share their place.
enum Wait<'a> {
    News(Waiter<'a, Topic>),
    Fetch(Fetch),
}

/// Makes a page whole; `None` if the log has changed, and another page is to be found.
type Fetch = Answer<'static, Option<Page>>;

async fn fetch(backing: Arc<dyn Backing>, found: Found) -> Result<Option<Page>, FeedError> {
    if let Some(cursor) = found.ahead()
        && backing.reaches(cursor).await?
    {
        return Ok(None);
    }
    let Found { filed, mut page } = found;
    if filed.is_empty() {
        return Ok(Some(told(page)));
    }
    let Some(mut messages) = backing.fetch(filed).await? else {
        return Ok(None);
    };
    messages.append(&mut page.messages);
    if messages
        .iter()
        .any(|message| message.id.epoch != page.next.epoch)
    {
        return Ok(None); // another log has taken the place of the one that was looked at
    }
    page.messages = messages;
    Ok(Some(told(page)))
}

impl Shared {
    pub(crate) fn new(log: Log) -> Self {
        let state = State {
            log,
            keys: Keys::default(),
        };
        Self {
            state: RwLock::new(state),
            wakers: Wakers::new(),
        }
    }

    /// Readers do not hold each other up: a wake-up sends thousands of them here at once.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Log) -> T) -> T {
        look(&self.state.read().expect(UNPOISONED).log)
    }

    fn change_state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.write().expect(UNPOISONED))
    }
}

/// What those do who bring messages from elsewhere.
#[cfg(any(feature = "file", feature = "nats"))]
impl Shared {
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Log) -> T) -> T {
        self.change_state(|state| change(&mut state.log))
    }

    /// Shows a message that is there to stay.
    pub(crate) fn append(&self, topic: &Topic, message: Message, now: Instant) {
        self.change(|log| log.push(topic, message, now));
        self.wakers.wake(topic);
    }
}

/// What the one does who follows a stream.
#[cfg(feature = "nats")]
impl Shared {
    /// From now on readers look at another log.
    pub(crate) fn replace(&self, log: Log) {
        self.change(|old| *old = log);
        self.wakers.wake_all();
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

/// The synchronization that `wake.rs` is built on; its model check puts loom's in this place.
mod sync {
    pub(crate) use std::sync::Mutex;
}
