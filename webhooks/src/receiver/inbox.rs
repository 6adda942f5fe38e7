//! The inbox: stores each received event once, and on disk before the answer.
//!
//! A sender that gets a 200 forgets the event, so its row must be synced to disk before the answer. A
//! sender that gets no answer repeats the event, so the row must also identify a repeat. One row does
//! both. With two rows, a crash between them could lose an event or handle it twice.
//!
//! One thread writes, in groups ([`common::store::commit`]): a thousand senders need hardly more syncs than
//! one. The results of the work (`work.rs`) go through the same thread and the same transactions.
//!
//! On a full disk nothing is stored, and the sender must try again. When a sync or a write *fails*, the inbox
//! stops until the next start, because the process no longer knows what is on the disk.

use std::{
    collections::HashSet,
    error::Error,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use common::store::{
    commit::{CommitError, Commits, is_disk},
    database::{Claim, Kind, Unfit, configure},
};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, Transaction, params};
use tokio::{sync::watch, task::spawn_blocking, time::timeout};

use super::source::Source;
use crate::verify::Verified;

/// Roughly how many bytes a row takes in addition to its payload.
const ROW: usize = 512;
/// How long a handled event is kept after it was received. A repeat after that would be handled again, but
/// no sender repeats an event after 30 days.
const KEEP: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Stored in the file's header, so that another program's database is not opened as an inbox.
const KIND: Kind = Kind {
    name: "an inbox",
    application: 0x496e_6278, // "Inbx" in ASCII
    version: 2,
};
/// `events` holds what arrived. Only `again` changes: how often it was to be handled again. `work` has a row
/// for each event that is not handled yet, so it stays small and its index fast. A row without a `due` time is
/// a dead event. Times are milliseconds since 1970.
const SCHEMA: &str = "
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    received INTEGER NOT NULL,
    digest BLOB NOT NULL,
    suspect INTEGER NOT NULL,
    again INTEGER NOT NULL DEFAULT 0,
    payload BLOB NOT NULL,
    UNIQUE (source, id, digest)
) STRICT;
CREATE INDEX events_digest ON events (digest) WHERE source = 'github';
CREATE TABLE work (
    seq INTEGER PRIMARY KEY REFERENCES events (seq),
    due INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    error TEXT
) STRICT;
CREATE INDEX work_due ON work (due);
";
/// Decides in one statement what is a repeat (nothing is inserted) and what is suspect.
const INSERT: &str = "
INSERT INTO events (source, id, type, received, digest, payload, suspect)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, CASE
    WHEN EXISTS (SELECT 1 FROM events WHERE source = ?1 AND id = ?2) THEN 2
    WHEN ?1 = 'github' AND EXISTS (SELECT 1 FROM events WHERE source = 'github' AND digest = ?5) THEN 1
    ELSE 0
END)
ON CONFLICT DO NOTHING RETURNING seq, suspect
";
/// A repeat of an event that is dead after its attempts: the sender's operator wants another try. One that was never
/// attempted waits for ours.
const REVIVE: &str = "
UPDATE work SET due = ?4, attempts = 0 WHERE due IS NULL AND attempts > 0
AND seq = (SELECT seq FROM events WHERE source = ?1 AND id = ?2 AND digest = ?3)
";
/// Counts that a handled event is to be handled again.
const AGAIN: &str = "
UPDATE events SET again = again + 1 WHERE seq = ?1 AND seq NOT IN (SELECT seq FROM work)
";
/// A dead event has no `due` time, and a handled one no `work`. An event that is being attempted is due already, so
/// this cannot disturb it.
const RETRY: &str = "
INSERT INTO work (seq, due)
SELECT seq, ?2 FROM events WHERE seq = ?1 AND (?3 OR seq IN (SELECT seq FROM work))
ON CONFLICT DO UPDATE SET due = ?2, attempts = 0 WHERE due IS NULL OR due > ?2
";
/// What to do with an inbox of another version.
const OTHER_VERSION: &str = "run the program that wrote it until no event is waiting (GET /events?state=waiting), \
    then start this one with a new file (--inbox). The new file knows no old event: dead ones stay behind, and a \
    repeat is handled again";
/// `suspect` of an event whose id came before with other content.
const SAME_ID: i64 = 2;
/// Why such an event is dead without an attempt.
const HELD: &str = "this id came before with other content: handled only if it is retried by hand";

/// An event to store.
#[derive(Debug)]
pub struct Arrival {
    /// Its sender.
    pub source: Source,
    /// The sender's id for it: the same at every repeat.
    pub id: String,
    /// The sender's type for it.
    pub kind: String,
    /// What [`StoredEvent::payload`] will be.
    pub payload: Bytes,
    /// SHA-256 of what a repeat has in common with the first one: the content.
    pub digest: [u8; 32],
    /// Index of the secret that matched.
    pub secret: usize,
}

/// A stored event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its number in the inbox, from 1.
    pub seq: i64,
    /// `standard`, `stripe`, `github` or `telegram`.
    pub source: String,
    /// The sender's id for it, unique within the source.
    pub id: String,
    /// The sender's type for it, or `message`.
    pub kind: String,
    /// The verified body. For a form, its field `payload`.
    pub payload: Vec<u8>,
    /// See [`Stored::Suspect`].
    pub suspect: bool,
    /// How often an operator wanted it handled again.
    pub again: u32,
    /// Failed attempts to handle it.
    pub attempts: usize,
}

impl StoredEvent {
    /// An idempotency key for effects outside the inbox: the sender's id. An event that is suspect or
    /// handled again has its own key, because the other end would take it for a repeat.
    pub fn key(&self) -> String {
        match (self.suspect, self.again) {
            (false, 0) => self.id.clone(),
            (_, again) => format!("again-{}-{again}", self.seq),
        }
    }
}

/// What became of an event that is on the disk now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is handled next.
    New,
    /// It was stored before, and so it is not stored again.
    Repeat,
    /// A repeat of a dead event: the sender's redelivery starts its schedule again.
    Revived,
    /// Stored, but not what a sender normally does. Either the id came before with other content: then the
    /// event is dead until it is retried by hand. Or the content came before under another id that is not
    /// signed, perhaps a replay: then it is handled, because two genuine events may be equal.
    Suspect,
}

/// Why an event was not stored. In each case the sender must try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It was not written.
    #[error("the inbox did not store it: {0}")]
    NotWritten(#[from] CommitError),
    /// The disk takes too long. The event may still be stored: then the sender's repeat is recognized.
    #[error("the inbox is too slow")]
    Slow,
}

/// An effect inside the inbox's own transaction. It is committed together with the record that the event
/// is handled, or not at all. It may run SQL. It must not commit, and must not wait for anything, because
/// it runs on the only thread that writes.
pub type InTransaction = Box<dyn FnOnce(&Connection) -> rusqlite::Result<()> + Send>;

/// A handle to the inbox. Dropping the last handle closes the database.
#[derive(Debug, Clone)]
pub struct Inbox {
    commits: Arc<Commits>,
    reader: Arc<Mutex<Connection>>,
    timeout: Duration,
    /// Keeps other processes away. Declared last, so it is dropped after the thread that writes.
    _claim: Arc<Claim>,
}

impl Inbox {
    /// Opens or creates the database, for this process alone. [`Inbox::store`] gives up after `timeout`. A database
    /// that is not an inbox, or is of another version, is left alone.
    ///
    /// # Errors
    /// If another process has the inbox open, or the database cannot be opened.
    pub fn open(path: &Path, timeout: Duration) -> io::Result<Self> {
        Self::try_open(path, timeout)
            .map_err(|error| io::Error::other(format!("inbox {}: {error}", path.display())))
    }

    fn try_open(path: &Path, timeout: Duration) -> Result<Self, Box<dyn Error>> {
        let claim = Claim::new(path)?;
        let mut database = Connection::open(claim.path())?;
        // A conversion would need to know what each sender counts as the same content.
        let is_new = KIND.is_new(&database).map_err(|unfit| match unfit {
            Unfit::Version(..) => format!("{unfit}: {OTHER_VERSION}"),
            unfit => unfit.to_string(),
        })?;
        configure(&database)?;
        if is_new {
            let transaction = database.transaction()?;
            KIND.create(&transaction, SCHEMA)?;
            transaction.commit()?;
        }
        // WAL lets it read while the thread writes.
        let reader = Connection::open_with_flags(claim.path(), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        Ok(Self {
            commits: Arc::new(Commits::start("inbox", database)?),
            reader: Arc::new(Mutex::new(reader)),
            timeout,
            _claim: Arc::new(claim),
        })
    }

    /// Stores an event, unless it is stored already. When this returns, the event is on the disk.
    ///
    /// # Errors
    /// If it is not stored, or not in time.
    pub async fn store(
        &self,
        verified: Verified<Arrival>,
        received: SystemTime,
    ) -> Result<Stored, StoreError> {
        let arrival = verified.into_inner();
        let size = arrival.payload.len() + ROW;
        let stored = self.commits.run(size, move |database| {
            insert(database, &arrival, millis(received))
        });
        let in_time = timeout(self.timeout, stored).await;
        Ok(in_time.map_err(|_| StoreError::Slow)??)
    }

    /// Records an attempt at event number `seq`. `outcome` is the effect to run in the same transaction, or
    /// why the attempt failed. After a failure, also of that effect, the event is due again at `retry`.
    /// Without `retry` it is dead.
    ///
    /// # Errors
    /// If nothing is recorded. Then the effect is undone.
    pub async fn record(
        &self,
        seq: i64,
        outcome: Result<InTransaction, String>,
        retry: Option<SystemTime>,
    ) -> Result<(), CommitError> {
        let recorded = self.commits.run(ROW, move |database| {
            let done = match outcome {
                Ok(effect) => apply(database, effect)?,
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => database
                    .prepare_cached("DELETE FROM work WHERE seq = ?1")?
                    .execute([seq]),
                Err(error) => database
                    .prepare_cached(
                        "UPDATE work SET attempts = attempts + 1, due = ?2, error = ?3 WHERE seq = ?1",
                    )?
                    .execute(params![seq, retry.map(millis), error]),
            }
        });
        recorded.await.map(drop)
    }

    /// Makes an event due that is dead or waits for a later attempt, with the whole schedule, and with `again` also
    /// a handled one. Returns whether the event was in such a state, or `None` if there is no such event.
    ///
    /// # Errors
    /// If it is not recorded.
    pub async fn retry(
        &self,
        seq: i64,
        again: bool,
        due: SystemTime,
    ) -> Result<Option<bool>, CommitError> {
        let retried = self.commits.run(ROW, move |database| {
            if again {
                database.execute(AGAIN, [seq])?;
            }
            let changed = database.execute(RETRY, params![seq, millis(due), again])?;
            let mut event = database.prepare("SELECT 1 FROM events WHERE seq = ?1")?;
            Ok(event.exists([seq])?.then_some(changed > 0))
        });
        retried.await
    }

    /// Deletes handled events that were received more than 30 days before `now`. Waiting and dead events still have
    /// a `work` row, and stay.
    ///
    /// # Errors
    /// If nothing was deleted.
    pub async fn trim(&self, now: SystemTime) -> Result<usize, CommitError> {
        let old = "DELETE FROM events WHERE received < ?1 AND seq NOT IN (SELECT seq FROM work)";
        let oldest = millis(now) - KEEP.as_millis() as i64;
        let trimmed = self
            .commits
            .run(ROW, move |database| database.execute(old, [oldest]));
        trimmed.await
    }

    /// Makes due what would wait longer than the `longest` delay of a retry: it was written by a clock that was wrong.
    ///
    /// # Errors
    /// If nothing was changed.
    pub async fn correct(&self, now: SystemTime, longest: Duration) -> Result<usize, CommitError> {
        let wrong = "UPDATE work SET due = ?1 WHERE due > ?1 + ?2";
        let longest = i64::try_from(longest.as_millis()).unwrap_or(i64::MAX);
        let corrected = self.commits.run(ROW, move |database| {
            database.execute(wrong, [millis(now), longest])
        });
        corrected.await
    }

    /// Resolves after a write: an event may be due. Supports a single waiter.
    pub async fn written(&self) {
        self.commits.committed().notified().await;
    }

    /// Why the inbox has failed, if it has. Its sender is dropped when the database is closed. Unlike a
    /// handle it does not keep the database open.
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.commits.failure()
    }

    /// Runs a query on a second connection, so that it does not wait for the writer.
    ///
    /// # Errors
    /// Those of the query.
    ///
    /// # Panics
    /// If the query does.
    pub async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> rusqlite::Result<T> {
        let reader = self.reader.clone();
        // A query that panics leaves the connection as it was, so the next one may use it.
        let read = move || query(&reader.lock().unwrap_or_else(PoisonError::into_inner));
        spawn_blocking(read)
            .await
            .expect("the query does not panic")
    }
}

/// Inserts the event and its work together. `UNIQUE (source, id, digest)` decides what is a repeat, so two
/// equal requests in one group cannot both be new.
fn insert(
    transaction: &Transaction<'_>,
    arrival: &Arrival,
    received: i64,
) -> rusqlite::Result<Stored> {
    let (source, id, digest) = (arrival.source.name(), &arrival.id, arrival.digest);
    let (kind, payload) = (&arrival.kind, &arrival.payload[..]);
    let inserted: Option<(i64, i64)> = transaction
        .prepare_cached(INSERT)?
        .query_row(
            params![source, id, kind, received, digest, payload],
            |row| row.try_into(),
        )
        .optional()?;
    let Some((seq, suspect)) = inserted else {
        let revived = transaction
            .prepare_cached(REVIVE)?
            .execute(params![source, id, digest, received])?;
        return Ok(match revived {
            0 => Stored::Repeat,
            _ => Stored::Revived,
        });
    };
    let (due, error) = match suspect {
        SAME_ID => (None, Some(HELD)),
        _ => (Some(received), None),
    };
    transaction
        .prepare_cached("INSERT INTO work (seq, due, error) VALUES (?1, ?2, ?3)")?
        .execute(params![seq, due, error])?;
    Ok(match suspect {
        0 => Stored::New,
        _ => Stored::Suspect,
    })
}

/// Runs an effect in a savepoint. An effect that fails or panics is undone, and the others of the group
/// are still committed. The outer error is the disk's.
fn apply(
    transaction: &mut Transaction<'_>,
    effect: InTransaction,
) -> rusqlite::Result<Result<(), String>> {
    let savepoint = transaction.savepoint()?;
    match catch_unwind(AssertUnwindSafe(|| effect(&savepoint))) {
        Ok(Ok(())) => savepoint.commit().map(Ok),
        // The disk's error and not the effect's: the whole group fails.
        Ok(Err(error)) if is_disk(&error) => Err(error),
        Ok(Err(error)) => savepoint.finish().map(|()| Err(error.to_string())),
        Err(_) => savepoint.finish().map(|()| Err("it panicked".to_owned())),
    }
}

/// Milliseconds since 1970, the unit of the tables.
pub fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as i64
}

/// The first `limit` events that are due at `now` and not `claimed`, and the time until the next one is due.
///
/// # Errors
/// If the database cannot be read.
pub fn due(
    database: &Connection,
    now: SystemTime,
    claimed: &HashSet<i64>,
    limit: usize,
) -> rusqlite::Result<(Vec<StoredEvent>, Option<Duration>)> {
    let now = millis(now);
    let claimed = serde_json::to_string(claimed).expect("numbers are JSON");
    // CROSS JOIN: SQLite must begin with `work`, which has few rows, and whose index is in this order.
    let events = database
        .prepare_cached(
            "SELECT seq, source, id, type, payload, suspect, again, attempts
             FROM work CROSS JOIN events USING (seq)
             WHERE due <= ?1 AND seq NOT IN (SELECT value FROM json_each(?2))
             ORDER BY due, seq LIMIT ?3",
        )?
        .query_map(params![now, claimed, limit], stored_event)?
        .collect::<Result<_, _>>()?;
    let wait: Option<u64> = database
        .prepare_cached("SELECT min(due) - ?1 FROM work WHERE due > ?1")?
        .query_row([now], |row| row.get(0))?;
    Ok((events, wait.map(Duration::from_millis)))
}

fn stored_event(row: &Row<'_>) -> rusqlite::Result<StoredEvent> {
    Ok(StoredEvent {
        seq: row.get(0)?,
        source: row.get(1)?,
        id: row.get(2)?,
        kind: row.get(3)?,
        payload: row.get(4)?,
        suspect: row.get(5)?,
        again: row.get(6)?,
        attempts: row.get(7)?,
    })
}
