//! What the receiver got, each event once, on disk before it is acknowledged.
//!
//! A sender that gets a 200 forgets the event, so the row is synced to disk before that; and a sender
//! that is not sure repeats, so the row is also what a repeat is told by. One record for both, or a
//! crash between the two would lose an event or handle it twice.
//!
//! SQLite in WAL mode syncs at every commit (`synchronous=FULL`). One thread writes. It commits what
//! has gathered while the disk was busy in one transaction, a *group commit*: a thousand senders cost
//! hardly more syncs than one. What to do with an event is the matter of [`crate::work`], whose results
//! go through the same thread and the same transactions.
//!
//! When the disk is full, nothing is stored and the sender is asked to come again. When a sync or a
//! write *fails*, nobody knows any more what is on the disk: the kernel may have dropped the pages and
//! say yes to the next sync. Then this inbox is at its end. The next start reads what there really is.

use std::{
    fs::File,
    io, iter,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use common::MessageType;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior,
    params,
};
use tokio::{
    sync::{Notify, oneshot, watch},
    task::spawn_blocking,
    time::timeout,
};
use tracing::{error, warn};

use crate::{source::Source, verify::Verified};

/// The most results in one transaction: the first of a group waits for the last.
const MAX_GROUP: usize = 256;
/// Bytes written until the log is folded into the database. SQLite would do so by itself and ignore
/// that it failed.
const CHECKPOINT: usize = 4 << 20;
/// What a row costs besides its payload, about.
const ROW: usize = 512;
/// How long to wait for whoever else has the database open, an administrator say.
const BUSY: Duration = Duration::from_secs(2);
/// How long an event is kept after it was received, if it is handled: no sender repeats for longer.
const KEEP: Duration = Duration::from_secs(30 * 24 * 3_600);
/// How often what is older is looked for.
const TRIM: Duration = Duration::from_secs(3_600);

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

/// A handle to the inbox. Its thread ends with the last of them.
#[derive(Clone)]
pub(crate) struct Inbox {
    commands: mpsc::Sender<Command>,
    reader: Arc<Mutex<Connection>>,
    /// There may be something due.
    pub(crate) news: Arc<Notify>,
    /// What went wrong for good.
    failure: watch::Receiver<Option<String>>,
    patience: Duration,
}

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

enum Command {
    Store {
        arrival: Arrival,
        received: SystemTime,
        new: bool,
        reply: Reply<bool>,
    },
    Settle {
        settled: Settled,
        reply: Reply<()>,
    },
    Revive {
        seq: i64,
        due: SystemTime,
        dead: bool,
        reply: Reply<bool>,
    },
}

impl Inbox {
    /// Opens or creates the database, for this process alone. A store is answered within `patience`.
    pub(crate) fn open(path: &Path, patience: Duration) -> io::Result<Self> {
        let named = |error: String| io::Error::other(format!("inbox {}: {error}", path.display()));
        let lock = lock(path).map_err(|error| named(error.to_string()))?;
        let database = open(path).map_err(|error| named(error.to_string()))?;
        let reader = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .map_err(|error| named(error.to_string()))?;
        let (commands, received) = mpsc::channel();
        let (failed, failure) = watch::channel(None);
        let news = Arc::new(Notify::new());
        let writer = Writer {
            database,
            news: news.clone(),
            unfolded: 0,
            trimmed: None,
        };
        let write = move || {
            if let Err(error) = writer.run(&received) {
                error!(%error, "the inbox has failed and takes nothing any more");
                failed.send_replace(Some(error.to_string()));
            }
            drop(lock); // and then `failed`, which says that all is closed
        };
        thread::Builder::new().name("inbox".into()).spawn(write)?;
        Ok(Self {
            commands,
            reader: Arc::new(Mutex::new(reader)),
            news,
            failure,
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
        let stored = self.ask(|reply| Command::Store {
            arrival: arrival.into_inner(),
            received,
            new: false,
            reply,
        });
        timeout(self.patience, stored)
            .await
            .map_err(|_| StoreError::Slow)?
    }

    /// Records how an attempt went, and does what is to be done inside.
    pub(crate) async fn settle(&self, settled: Settled) -> Result<(), StoreError> {
        self.ask(|reply| Command::Settle { settled, reply }).await
    }

    /// Makes a dead event due, with the whole schedule before it. Returns whether it was dead.
    pub(crate) async fn revive(&self, seq: i64, due: SystemTime) -> Result<bool, StoreError> {
        let dead = false;
        self.ask(|reply| Command::Revive {
            seq,
            due,
            dead,
            reply,
        })
        .await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, StoreError> {
        let (reply, done) = oneshot::channel();
        let sent = self.commands.send(command(reply));
        sent.map_err(|_| StoreError::Stopped)?;
        done.await.unwrap_or(Err(StoreError::Stopped))
    }

    /// How it ends, for whoever drops the last handle.
    pub(crate) fn ending(&self) -> Ending {
        Ending(self.failure.clone())
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

/// One process per inbox: two would handle every event twice.
fn lock(path: &Path) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push("-lock");
    let file = File::create(PathBuf::from(name))?;
    file.try_lock()
        .map_err(|_| io::Error::other("another process has it open"))?;
    Ok(file)
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let database = Connection::open(path)?;
    database.busy_timeout(BUSY)?;
    for (pragma, value) in [
        ("journal_mode", "WAL"),
        ("synchronous", "FULL"),
        ("wal_autocheckpoint", "0"),
        ("foreign_keys", "ON"),
    ] {
        database.pragma_update(None, pragma, value)?;
    }
    database.execute_batch(SCHEMA)?;
    Ok(database)
}

/// The thread that writes.
struct Writer {
    database: Connection,
    news: Arc<Notify>,
    /// Bytes in the log that are not in the database yet.
    unfolded: usize,
    trimmed: Option<SystemTime>,
}

impl Writer {
    /// Writes until nobody is there to ask for it.
    fn run(mut self, commands: &mpsc::Receiver<Command>) -> rusqlite::Result<()> {
        self.trim()?;
        while let Ok(first) = commands.recv() {
            let more = commands.try_iter().take(MAX_GROUP - 1);
            let mut group: Vec<Command> = iter::once(first).chain(more).collect();
            match self.commit(&mut group) {
                Ok(()) => group.into_iter().for_each(Command::done),
                Err(error) if is_no_room(&error) => {
                    warn!(%error, commands = group.len(), "nothing was stored");
                    group.into_iter().for_each(Command::no_room);
                    continue;
                }
                // The replies are dropped, which says that it has stopped.
                Err(error) => return Err(error),
            }
            self.news.notify_one();
            self.fold()?;
            self.trim()?;
        }
        self.unfolded = CHECKPOINT;
        self.fold()
    }

    /// All or nothing, synced.
    fn commit(&mut self, group: &mut [Command]) -> rusqlite::Result<()> {
        let mut transaction = self
            .database
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        for command in group {
            self.unfolded += command.apply(&mut transaction)?;
        }
        transaction.commit()
    }

    /// A checkpoint. On a full disk the log goes on growing for as long as it can.
    fn fold(&mut self) -> rusqlite::Result<()> {
        if self.unfolded < CHECKPOINT {
            return Ok(());
        }
        self.unfolded = 0;
        let folded = self
            .database
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        folded.or_else(unless_no_room)
    }

    fn trim(&mut self) -> rusqlite::Result<()> {
        let now = SystemTime::now();
        let due = |last: SystemTime| now.duration_since(last).is_ok_and(|since| since > TRIM);
        if !self.trimmed.is_none_or(due) {
            return Ok(());
        }
        self.trimmed = Some(now);
        let trimmed = self.database.execute(
            "DELETE FROM events WHERE received < ?1 AND seq NOT IN (SELECT seq FROM work)",
            [millis(now) - KEEP.as_millis() as i64],
        );
        trimmed.map(drop).or_else(unless_no_room)
    }
}

impl Command {
    /// Returns about how many bytes that is.
    fn apply(&mut self, transaction: &mut Transaction<'_>) -> rusqlite::Result<usize> {
        match self {
            Self::Store {
                arrival,
                received,
                new,
                ..
            } => {
                *new = insert(transaction, arrival, *received)?;
                Ok(arrival.payload.len() + ROW)
            }
            Self::Settle { settled, .. } => settle(transaction, settled).map(|()| ROW),
            Self::Revive { seq, due, dead, .. } => {
                *dead = revive(transaction, *seq, *due)?;
                Ok(ROW)
            }
        }
    }

    /// Whoever asked may have given up.
    fn done(self) {
        match self {
            Self::Store { new, reply, .. } => drop(reply.send(Ok(new))),
            Self::Settle { reply, .. } => drop(reply.send(Ok(()))),
            Self::Revive { dead, reply, .. } => drop(reply.send(Ok(dead))),
        }
    }

    fn no_room(self) {
        match self {
            Self::Store { reply, .. } | Self::Revive { reply, .. } => {
                let _ = reply.send(Err(StoreError::NoRoom));
            }
            Self::Settle { reply, .. } => drop(reply.send(Err(StoreError::NoRoom))),
        }
    }
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

fn settle(transaction: &mut Transaction<'_>, settled: &mut Settled) -> rusqlite::Result<()> {
    // A command is applied once: what is taken here is not asked for again.
    let outcome = std::mem::replace(&mut settled.outcome, Err(String::new()));
    let error = match outcome {
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

/// What may be over in a while.
fn is_no_room(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
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

fn unless_no_room(error: rusqlite::Error) -> rusqlite::Result<()> {
    if is_no_room(&error) {
        warn!(%error, "left for later");
        return Ok(());
    }
    Err(error)
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
