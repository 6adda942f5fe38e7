//! The feed's file: a message is on the disk before a reader sees it, and before its publisher gets an answer.
//!
//! A publish is a [`Job`] for the one thread that writes. The job inserts a row. After the commit the
//! message is appended to the log that readers see, readers are woken, and the publisher is answered.
//! So nobody sees a message that a crash could take back. What the log drops is deleted by a later job,
//! so after a crash the file may have a few messages more than the log kept, but never fewer.

use std::{any::Any, io, mem, path::Path, sync::Arc, time::SystemTime};

use rusqlite::{Connection, OpenFlags, Transaction};
use tokio::{
    sync::{Mutex, oneshot},
    task::spawn_blocking,
    time::Instant,
};

use super::{
    commit::{CommitError, Commits, Job},
    database::Claim,
    tables::{self, BadFile},
};
use crate::feed::{
    Feed, FeedError, Message, Page, Published, Retention,
    log::{Changes, Log},
    store::{LiveLog, PartialPage, Publish, Store, StoreFuture},
};

/// Roughly how many bytes a row takes in addition to its data, to estimate the write-ahead log's size.
const ROW: usize = 128;

/// The file and its thread. Dropping it closes the file.
struct Journal {
    commits: Commits,
    /// Its own connection, so a read never waits for a write.
    reader: Arc<Mutex<Connection>>,
    log: Arc<LiveLog>,
    /// Keeps other processes out until the file is closed.
    _claim: Claim,
}

/// The thread that writes the feed's file. `None` if the feed is not in a file. A program can keep its
/// own tables in that file, so that they are committed and copied together with the feed.
pub fn commits(feed: &Feed) -> Option<&Commits> {
    let store: &dyn Any = feed.store()?;
    Some(&store.downcast_ref::<Journal>()?.commits)
}

/// Opens or creates a feed's file. Only one process can have it open. With `new_epoch` the messages stay
/// but get a new epoch. That is for a restored copy: cursors given out after the copy was made must not
/// be valid for the messages that come now.
pub(crate) fn open(path: &Path, retention: Retention, new_epoch: bool) -> io::Result<Feed> {
    let started = start(path, retention, new_epoch);
    started.map_err(|error| io::Error::other(format!("feed file {}: {error}", path.display())))
}

fn start(path: &Path, retention: Retention, new_epoch: bool) -> Result<Feed, BadFile> {
    let claim = Claim::new(path)?;
    let database = tables::prepare(claim.path(), new_epoch)?;
    let log = Arc::new(LiveLog::new(tables::restore(&database, retention)?));
    let reader = Connection::open_with_flags(claim.path(), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let journal = Journal {
        commits: Commits::start("feed", database)?,
        reader: Arc::new(Mutex::new(reader)),
        log: log.clone(),
        _claim: claim,
    };
    Ok(Feed::with_store(log, Arc::new(journal)))
}

impl Store for Journal {
    fn publish(&self, publish: Publish) -> StoreFuture<'_, Published> {
        let (reply, answer) = oneshot::channel();
        self.commits.submit(Writing {
            log: self.log.clone(),
            publish,
            now: Instant::now(),
            time: SystemTime::now(),
            outcome: Err(FeedError::Stopped),
            unsaved: Changes::default(),
            reply,
        });
        Box::pin(async { answer.await.unwrap_or(Err(FeedError::Stopped)) })
    }

    /// No other process can have given out a cursor beyond the head, so such a cursor keeps its gap.
    fn complete(&self, mut partial: PartialPage) -> StoreFuture<'_, Option<Page>> {
        let (reader, log) = (self.reader.clone(), self.log.clone());
        let seqs = mem::take(&mut partial.missing);
        // Its own task: a reader that is not polled would keep the connection from the others.
        let reading = tokio::spawn(async move {
            let reader = reader.lock_owned().await;
            spawn_blocking(move || read(&log, &reader, &seqs)).await
        });
        Box::pin(async {
            let read = reading.await.flatten();
            let messages = read.map_err(|error| FeedError::Unreadable(error.to_string()))??;
            Ok(messages.map(|messages| partial.complete(messages)))
        })
    }

    fn health(&self) -> Result<(), FeedError> {
        match *self.commits.failure().borrow() {
            Some(_) => Err(FeedError::Stopped),
            None => Ok(()),
        }
    }
}

impl Drop for Journal {
    /// Saves what the log has dropped, so that the next start has the same messages.
    fn drop(&mut self) {
        self.commits.submit(Save(self.log.clone()));
    }
}

/// One publish on its way to the disk.
struct Writing {
    log: Arc<LiveLog>,
    publish: Publish,
    now: Instant,
    time: SystemTime,
    /// The answer, if the transaction succeeds. Set by [`Job::apply`].
    outcome: Result<Published, FeedError>,
    /// The log's changes that were saved with it. Put back if the transaction fails.
    unsaved: Changes,
    reply: oneshot::Sender<Result<Published, FeedError>>,
}

impl Job for Writing {
    fn apply(&mut self, transaction: &mut Transaction<'_>) -> rusqlite::Result<usize> {
        self.outcome = self.write(transaction)?;
        Ok(self.publish.draft.data.as_str().len() + ROW)
    }

    fn settle(self: Box<Self>, committed: Result<(), CommitError>) {
        let writing = *self;
        if committed.is_err() {
            writing.log.change(|log| log.put_back(writing.unsaved));
        }
        let answer = committed.map_err(FeedError::from).and(writing.outcome);
        if let Ok(Published {
            id,
            duplicate: false,
        }) = answer
        {
            let Publish { topic, draft, .. } = writing.publish;
            let message = Message::encode(id, topic, draft, writing.time);
            writing.log.push(message, writing.now);
        }
        // An error only means that the publisher is gone.
        let _ = writing.reply.send(answer);
    }
}

impl Writing {
    /// The outer error is the database's, see [`Job::apply`]. The inner one is the publisher's: it writes
    /// nothing, and the group is committed.
    fn write(
        &mut self,
        transaction: &Transaction<'_>,
    ) -> rusqlite::Result<Result<Published, FeedError>> {
        let (log, Publish { topic, draft, once }) = (&self.log, &self.publish);
        let at = |seq| log.read(|log| log.at(seq));
        if let Some(once) = once
            && let Some((used, seq)) = tables::find_key(transaction, topic, &once.key, self.time)?
        {
            return Ok(once.answer_repeat(&used, at(seq)));
        }
        if let Err(refused) = log.change(|log| log.admit(topic, self.now)) {
            return Ok(Err(refused));
        }
        self.unsaved = save(log, transaction)?;
        let seq = tables::insert(transaction, topic, draft, self.time)?;
        if let Some(once) = once {
            tables::insert_key(transaction, topic, once, seq, self.time)?;
        }
        Ok(Ok(Published::new(at(seq))))
    }
}

/// Saves what the log has dropped.
struct Save(Arc<LiveLog>);

impl Job for Save {
    fn apply(&mut self, transaction: &mut Transaction<'_>) -> rusqlite::Result<usize> {
        save(&self.0, transaction).map(|_| 0)
    }

    fn settle(self: Box<Self>, _: Result<(), CommitError>) {} // the next start drops it again
}

/// Writes the log's changes to the file. A topic's mark is saved in the same transaction as its
/// deletions. Without the mark, a crash would hide the loss from a cursor.
fn save(log: &LiveLog, transaction: &Transaction<'_>) -> rusqlite::Result<Changes> {
    let unsaved = log.change(Log::take_changes);
    if !unsaved.topics.is_empty() {
        tables::save_floor(transaction, log.read(Log::floor))?;
    }
    for topic in &unsaved.topics {
        let mark = log.read(|log| log.mark_of(topic));
        tables::save_topic(transaction, topic, mark)?;
    }
    for seq in &unsaved.dropped {
        tables::delete(transaction, *seq)?;
    }
    Ok(unsaved)
}

/// `None` if the log has dropped one of the messages in the meantime.
fn read(
    log: &LiveLog,
    reader: &Connection,
    seqs: &[u64],
) -> Result<Option<Vec<Arc<Message>>>, FeedError> {
    let epoch = log.read(Log::head).epoch;
    let mut messages = Vec::with_capacity(seqs.len());
    for seq in seqs {
        let found = tables::read(reader, epoch, *seq);
        match found.map_err(|error| FeedError::Unreadable(error.to_string()))? {
            Some(message) => messages.push(Arc::new(message)),
            // The log drops a message before the file does.
            None if !log.read(|log| log.keeps(*seq)) => return Ok(None),
            None => return Err(FeedError::Unreadable(format!("message {seq} is missing"))),
        }
    }
    Ok(Some(messages))
}

impl From<CommitError> for FeedError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::NoRoom => Self::NoRoom,
            CommitError::Refused => Self::Refused,
            CommitError::Stopped => Self::Stopped,
        }
    }
}
