//! What the receiver got, each event once, on disk before it is acknowledged.
//!
//! A sender that gets a 200 forgets the event, so the row is synced to disk before that; and a sender
//! that is not sure repeats, so the row is also what a repeat is told by. One record for both, or a
//! crash between the two would lose an event or handle it twice.
//!
//! One thread writes, in groups ([`common::store::commit`]): a thousand senders cost hardly more syncs than
//! one. What to do with an event is the matter of [`crate::work`], whose results go through the same
//! thread and the same transactions.
//!
//! When the disk is full, nothing is stored and the sender is asked to come again. When a sync or a
//! write *fails*, this inbox is at its end. The next start reads what there really is.

use std::{
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use common::{
    MessageType,
    store::commit::{CommitError, Commits, configure, is_no_room, lock},
};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, Transaction, params};
use tokio::{sync::watch, task::spawn_blocking, time::timeout};

use crate::{source::Source, verify::Verified};

/// What a row costs besides its payload, about.
const ROW: usize = 512;
/// How long an event is kept after it was received, if it is handled: no sender repeats for longer.
const KEEP: Duration = Duration::from_secs(30 * 24 * 3_600);
/// `events` is what came and never changes; `work` is what is left to do: a row per event that is not
/// handled, and none for one that is. Without a `due` time it is dead. Times are milliseconds since 1970.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    received INTEGER NOT NULL,
    digest BLOB,
    suspect INTEGER NOT NULL,
    payload BLOB NOT NULL,
    UNIQUE (source, id)
) STRICT;
CREATE INDEX IF NOT EXISTS events_digest ON events (digest) WHERE digest IS NOT NULL;
CREATE TABLE IF NOT EXISTS work (
    seq INTEGER PRIMARY KEY REFERENCES events (seq),
    due INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    error TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS work_due ON work (due);
";

/// An event that is to be stored.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) source: Source,
    /// The same at every repeat.
    pub(crate) id: String,
    pub(crate) kind: MessageType,
    pub(crate) payload: Bytes,
    /// The body's, where the id is not signed: the same body under another id is suspect.
    pub(crate) digest: Option<[u8; 32]>,
    /// Which secret fitted.
    pub(crate) secret: usize,
}

/// An event that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its place in the inbox, from 1.
    pub seq: i64,
    /// `standard`, `stripe`, `github` or `telegram`.
    pub source: String,
    /// The sender's id for it: unique among those of the source.
    pub id: String,
    /// The sender's type for it, as a message's type.
    pub kind: String,
    /// The body that was verified. Of a form, its field `payload`.
    pub payload: Vec<u8>,
    /// Whether the same bytes came before under another id that is not signed: perhaps a replay.
    pub suspect: bool,
    /// Attempts that failed.
    pub attempts: usize,
}

/// Why nothing was stored. In each case the sender has to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The disk is full, or somebody else holds the database.
    #[error("the inbox has no room")]
    NoRoom,
    /// The disk takes too long. It may be stored all the same.
    #[error("the inbox is too slow")]
    Slow,
    /// A write or a sync has failed, and the inbox takes nothing any more.
    #[error("the inbox has failed")]
    Stopped,
}

impl From<CommitError> for StoreError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::NoRoom => Self::NoRoom,
            CommitError::Stopped => Self::Stopped,
        }
    }
}

/// What to do inside the inbox's own transaction: it happens together with the record that the event
/// is handled, or not at all. It runs on the one thread that writes, so it is for SQL and not for
/// waiting; what waits belongs before it. It must not commit.
pub type Inside = Box<dyn FnOnce(&Connection) -> rusqlite::Result<()> + Send>;

/// How an attempt at an event went.
pub(crate) struct Settled {
    pub(crate) seq: i64,
    /// What is left to do, or why it failed.
    pub(crate) outcome: Result<Inside, String>,
    /// If it failed, or `Inside` does: when to try again, or never.
    pub(crate) retry: Option<SystemTime>,
}

/// A handle to the inbox. The database is closed with the last of them.
#[derive(Clone)]
pub(crate) struct Inbox {
    writer: Arc<Writer>,
    reader: Arc<Mutex<Connection>>,
    patience: Duration,
}

/// The thread that writes, and after it what keeps other processes away.
struct Writer {
    commits: Commits,
    _lock: File,
}

impl Inbox {
    /// Opens or creates the database, for this process alone. A store is answered within `patience`.
    pub(crate) fn open(path: &Path, patience: Duration) -> io::Result<Self> {
        let named = |error: String| io::Error::other(format!("inbox {}: {error}", path.display()));
        let lock = lock(path).map_err(|error| named(error.to_string()))?;
        let opened = open(path).and_then(|database| {
            let reader = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            Ok((database, reader))
        });
        let (database, reader) = opened.map_err(|error| named(error.to_string()))?;
        let writer = Writer {
            commits: Commits::start("inbox", database)?,
            _lock: lock,
        };
        Ok(Self {
            writer: Arc::new(writer),
            reader: Arc::new(Mutex::new(reader)),
            patience,
        })
    }

    /// Stores an event, unless it is there already, and returns whether it is new. When this returns,
    /// it is on the disk.
    pub(crate) async fn store(
        &self,
        arrival: Verified<Arrival>,
        received: SystemTime,
    ) -> Result<bool, StoreError> {
        let arrival = arrival.into_inner();
        let size = arrival.payload.len() + ROW;
        let insert = move |database: &mut Transaction<'_>| insert(database, &arrival, received);
        let stored = self.write(size, insert);
        timeout(self.patience, stored)
            .await
            .map_err(|_| StoreError::Slow)?
    }

    /// Records how an attempt went, and does what is to be done inside.
    pub(crate) async fn settle(&self, settled: Settled) -> Result<(), StoreError> {
        self.write(ROW, move |database| record(database, settled))
            .await
    }

    /// Makes a dead event due, with the whole schedule before it. Returns whether it was dead.
    pub(crate) async fn revive(&self, seq: i64, due: SystemTime) -> Result<bool, StoreError> {
        self.write(ROW, move |database| revive(database, seq, due))
            .await
    }

    /// Deletes what was received [`KEEP`] before `now` and is handled.
    pub(crate) async fn trim(&self, now: SystemTime) -> Result<usize, StoreError> {
        self.write(ROW, move |database| trim(database, now)).await
    }

    async fn write<T: Send + 'static>(
        &self,
        size: usize,
        work: impl FnOnce(&mut Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let written = self.writer.commits.run(size, work).await;
        written.map_err(StoreError::from)
    }

    /// Resolves when there may be something due.
    pub(crate) async fn news(&self) {
        self.writer.commits.committed().notified().await;
    }

    /// How it ends, for whoever drops the last handle.
    pub(crate) fn ending(&self) -> Ending {
        Ending(self.writer.commits.failure())
    }

    /// Reads, without being in the way of the writer.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> rusqlite::Result<T> {
        let reader = self.reader.clone();
        let read = move || query(&reader.lock().expect("no query panics"));
        spawn_blocking(read).await.expect("no query panics")
    }
}

/// Tells how an inbox has ended.
pub(crate) struct Ending(watch::Receiver<Option<String>>);

impl Ending {
    /// Resolves when the inbox has failed.
    pub(crate) async fn failed(&mut self) {
        if self.0.wait_for(Option::is_some).await.is_err() {
            std::future::pending().await // it ended in peace
        }
    }

    /// Waits until the database is closed, and returns what was wrong with it.
    pub(crate) async fn closed(mut self) -> Option<String> {
        while self.0.changed().await.is_ok() {}
        self.0.borrow().clone()
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let database = Connection::open(path)?;
    configure(&database)?;
    database.execute_batch(SCHEMA)?;
    Ok(database)
}

fn insert(
    transaction: &Transaction<'_>,
    arrival: &Arrival,
    received: SystemTime,
) -> rusqlite::Result<bool> {
    let received = millis(received);
    let suspect = match arrival.digest {
        None => false,
        Some(digest) => transaction
            .prepare_cached("SELECT 1 FROM events WHERE digest = ?1 AND id <> ?2")?
            .exists(params![digest, arrival.id])?,
    };
    let inserted = transaction
        .prepare_cached(
            "INSERT INTO events (source, id, type, received, digest, suspect, payload)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            arrival.source.name(),
            arrival.id,
            arrival.kind.as_str(),
            received,
            arrival.digest,
            suspect,
            &arrival.payload[..],
        ])?;
    if inserted == 0 {
        return Ok(false);
    }
    transaction
        .prepare_cached("INSERT INTO work (seq, due) VALUES (?1, ?2)")?
        .execute([transaction.last_insert_rowid(), received])?;
    Ok(true)
}

fn record(transaction: &mut Transaction<'_>, settled: Settled) -> rusqlite::Result<()> {
    let error = match settled.outcome {
        Ok(inside) => match within(transaction, inside)? {
            Ok(()) => {
                transaction
                    .prepare_cached("DELETE FROM work WHERE seq = ?1")?
                    .execute([settled.seq])?;
                return Ok(());
            }
            Err(error) => error,
        },
        Err(error) => error,
    };
    transaction
        .prepare_cached(
            "UPDATE work SET attempts = attempts + 1, due = ?2, error = ?3 WHERE seq = ?1",
        )?
        .execute(params![settled.seq, settled.retry.map(millis), error])?;
    Ok(())
}

fn revive(transaction: &Transaction<'_>, seq: i64, due: SystemTime) -> rusqlite::Result<bool> {
    let revived = transaction
        .prepare_cached("UPDATE work SET due = ?2, attempts = 0 WHERE seq = ?1 AND due IS NULL")?
        .execute([seq, millis(due)])?;
    Ok(revived > 0)
}

fn trim(transaction: &Transaction<'_>, now: SystemTime) -> rusqlite::Result<usize> {
    transaction
        .prepare_cached(
            "DELETE FROM events WHERE received < ?1 AND seq NOT IN (SELECT seq FROM work)",
        )?
        .execute([millis(now) - KEEP.as_millis() as i64])
}

/// Does it in a savepoint of its own: one that fails or panics leaves nothing behind, and does not
/// trouble the others of the group. The outer error is the disk's.
fn within(
    transaction: &mut Transaction<'_>,
    inside: Inside,
) -> rusqlite::Result<Result<(), String>> {
    let savepoint = transaction.savepoint()?;
    let done = catch_unwind(AssertUnwindSafe(|| inside(&savepoint)));
    match done {
        Ok(Ok(())) => savepoint.commit().map(Ok),
        Ok(Err(error)) if is_disk(&error) => Err(error),
        Ok(Err(error)) => savepoint.finish().map(|()| Err(error.to_string())),
        Err(_) => savepoint.finish().map(|()| Err("it panicked".to_owned())),
    }
}

/// What is wrong with the database, and not with what was asked of it.
fn is_disk(error: &rusqlite::Error) -> bool {
    let broken = matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::OutOfMemory
        )
    );
    broken || is_no_room(error)
}

/// Milliseconds since 1970.
pub(crate) fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as i64
}

/// The first `limit` events that are due at `now`, without those of `claimed`, and when the next is.
pub(crate) fn due(
    database: &Connection,
    now: i64,
    claimed: &[i64],
    limit: usize,
) -> rusqlite::Result<(Vec<Event>, Option<i64>)> {
    let mut seqs = database
        .prepare_cached("SELECT seq FROM work WHERE due <= ?1 ORDER BY due, seq LIMIT ?2")?;
    let seqs = seqs.query_map([now, (limit + claimed.len()) as i64], |row| row.get(0))?;
    let seqs: Vec<i64> = seqs.collect::<Result<_, _>>()?;
    let mut event = database.prepare_cached(
        "SELECT seq, source, id, type, payload, suspect, attempts
         FROM events JOIN work USING (seq) WHERE seq = ?1",
    )?;
    let events = seqs.iter().filter(|seq| !claimed.contains(seq)).take(limit);
    let events = events.map(|seq| event.query_row([seq], to_event).optional());
    let events: Vec<Option<Event>> = events.collect::<Result<_, _>>()?;
    let next = database
        .prepare_cached("SELECT min(due) FROM work WHERE due > ?1")?
        .query_row([now], |row| row.get(0))?;
    Ok((events.into_iter().flatten().collect(), next))
}

fn to_event(row: &Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event {
        seq: row.get(0)?,
        source: row.get(1)?,
        id: row.get(2)?,
        kind: row.get(3)?,
        payload: row.get(4)?,
        suspect: row.get(5)?,
        attempts: row.get::<_, u32>(6)? as usize,
    })
}
