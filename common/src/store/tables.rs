//! The tables of a feed's file, and how messages, keys and topics are stored in them.
//!
//! The file holds the parts of a message, not its JSON. The JSON contains the epoch in its id, and a
//! restored copy starts a new epoch, so its messages get new ids.

use std::{
    error::Error,
    fmt::Display,
    path::Path,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rusqlite::{Connection, OptionalExtension, Params, Row, Transaction, params};
use tokio::time::Instant;

use super::{
    database::{Kind, configure},
    instant_of,
};
use crate::feed::{
    Cursor, Data, Draft, Epoch, IdempotencyKey, Message, Retention, Topic,
    log::Log,
    store::{Fingerprint, KEY_LIFE, MAX_KEYS, Once},
};

/// Stored in the file's header, so that another program's database is not opened as a feed.
const KIND: Kind = Kind {
    name: "a feed's",
    application: 0x4665_6564, // "Feed" in ASCII
    version: 1,
};

/// `feed` has one row. `topics` has every topic that is kept. Messages at or below their topic's mark are
/// not loaded: the log had dropped them. Keys are numbered in the order of their use, so the oldest can
/// be deleted by number. Times are milliseconds since 1970. `AUTOINCREMENT` never gives a deleted
/// message's number again; a reused number would make a cursor silently wrong.
const SCHEMA: &str = "
CREATE TABLE feed (
    epoch TEXT NOT NULL,
    floor INTEGER NOT NULL
) STRICT;
INSERT INTO feed VALUES ('', 0);
CREATE TABLE topics (
    topic TEXT PRIMARY KEY,
    mark INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    type TEXT NOT NULL,
    published INTEGER NOT NULL,
    data TEXT NOT NULL
) STRICT;
CREATE TABLE keys (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    seq INTEGER NOT NULL,
    used INTEGER NOT NULL,
    UNIQUE (topic, key)
) STRICT;
CREATE INDEX keys_used ON keys (used);
";

/// Why a file is not a feed.
pub(super) type BadFile = Box<dyn Error + Send + Sync>;

/// Opens the file, and creates the tables if it is new. Refuses another program's database unchanged.
pub(super) fn prepare(path: &Path, new_epoch: bool) -> Result<Connection, BadFile> {
    let mut database = Connection::open(path)?;
    // Before `configure`, which writes to the file.
    let is_new = KIND.is_new(&database)?;
    configure(&database)?;
    // One transaction: after a crash the file is empty or complete.
    let transaction = database.transaction()?;
    if is_new {
        KIND.create(&transaction, SCHEMA)?;
    }
    if is_new || new_epoch {
        let epoch = Epoch::random();
        transaction.execute("UPDATE feed SET epoch = ?1", [epoch.as_str()])?;
    }
    transaction.commit()?;
    Ok(database)
}

/// Loads everything that is kept. The log frees the bytes of older messages as newer ones come, so memory
/// stays bounded whatever the file's size. The order is floor, topics, messages: a message is kept only if
/// it is above its topic's mark, so the marks must be there first.
pub(super) fn restore(database: &Connection, retention: Retention) -> Result<Log, BadFile> {
    let (saved, floor) = database.query_row("SELECT epoch, floor FROM feed", [], |row| {
        Ok((row.get::<_, String>(0)?, row.get(1)?))
    })?;
    let epoch = parsed(&saved)?;
    let mut log = Log::new(epoch, retention);
    log.raise_floor(floor);
    let mut select_topics = database.prepare("SELECT topic, mark FROM topics")?;
    let mut topics = select_topics.query([])?;
    while let Some(row) = topics.next()? {
        log.restore_topic(parsed(text(row, 0)?)?, row.get(1)?, Instant::now());
    }
    let mut select_messages = database.prepare(&format!("{MESSAGE} ORDER BY seq"))?;
    let mut messages = select_messages.query([])?;
    while let Some(row) = messages.next()? {
        log.restore(message(row, epoch)?, instant_of(time(row.get(3)?)));
    }
    // The last message may be deleted, but its number is never used again. Its cursor stays valid.
    let last = "SELECT seq FROM sqlite_sequence WHERE name = 'messages'";
    let head = database.query_row(last, [], |row| row.get(0)).optional()?;
    log.raise_head(head.unwrap_or(0));
    log.record_changes();
    Ok(log)
}

/// What [`message`] reads.
const MESSAGE: &str = "SELECT seq, topic, type, published, data FROM messages";

/// A row as a message. Topic and type are parsed again, because a damaged file may hold anything.
fn message(row: &Row<'_>, epoch: Epoch) -> Result<Message, BadFile> {
    let seq = row.get(0)?;
    let (topic, published) = (parsed(text(row, 1)?)?, time(row.get(3)?));
    let (kind, data) = (parsed(text(row, 2)?)?, Data::stored(text(row, 4)?));
    let draft = Draft { kind, data };
    Ok(Message::encode(
        Cursor { epoch, seq },
        topic,
        draft,
        published,
    ))
}

/// Reads a message back by its number, an indexed look-up.
pub(super) fn read(
    database: &Connection,
    epoch: Epoch,
    seq: u64,
) -> Result<Option<Message>, BadFile> {
    let mut select = database.prepare_cached(&format!("{MESSAGE} WHERE seq = ?1"))?;
    let mut rows = select.query([seq])?;
    rows.next()?.map(|row| message(row, epoch)).transpose()
}

/// Adds a message and returns the number that SQLite gave it.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    topic: &Topic,
    draft: &Draft,
    published: SystemTime,
) -> rusqlite::Result<u64> {
    const INSERT: &str = "INSERT INTO messages (topic, type, published, data)
        VALUES (?1, ?2, ?3, ?4) RETURNING seq";
    let (kind, data) = (draft.kind.as_str(), draft.data.as_str());
    let row = params![topic.as_str(), kind, millis(published), data];
    let mut insert = transaction.prepare_cached(INSERT)?;
    insert.query_row(row, |row| row.get(0))
}

/// The fingerprint and number of the message that this key was used for, if any. Deletes expired keys
/// first, so that an expired key is not found.
pub(super) fn find_key(
    transaction: &Transaction<'_>,
    topic: &Topic,
    key: &IdempotencyKey,
    now: SystemTime,
) -> rusqlite::Result<Option<(Fingerprint, u64)>> {
    const FIND: &str = "SELECT fingerprint, seq FROM keys WHERE topic = ?1 AND key = ?2";
    let expired = [millis(now - KEY_LIFE)];
    execute(transaction, "DELETE FROM keys WHERE used <= ?1", expired)?;
    let mut find = transaction.prepare_cached(FIND)?;
    find.query_row([topic.as_str(), key.as_str()], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
    .optional()
}

/// Stores a key and deletes the oldest beyond [`MAX_KEYS`]. Counting by number avoids a `count(*)`. The
/// numbers may have holes, so there may be fewer keys, but never more.
pub(super) fn insert_key(
    transaction: &Transaction<'_>,
    topic: &Topic,
    once: &Once,
    seq: u64,
    used: SystemTime,
) -> rusqlite::Result<()> {
    const INSERT: &str = "INSERT INTO keys (topic, key, fingerprint, seq, used)
        VALUES (?1, ?2, ?3, ?4, ?5) RETURNING number";
    let (topic, key) = (topic.as_str(), once.key.as_str());
    let row = params![topic, key, once.fingerprint, seq, millis(used)];
    let mut insert = transaction.prepare_cached(INSERT)?;
    let number: i64 = insert.query_row(row, |row| row.get(0))?;
    let oldest = [number - MAX_KEYS as i64];
    execute(transaction, "DELETE FROM keys WHERE number <= ?1", oldest)
}

/// Saves the floor: the mark of all topics that are not kept.
pub(super) fn save_floor(transaction: &Transaction<'_>, floor: u64) -> rusqlite::Result<()> {
    execute(transaction, "UPDATE feed SET floor = ?1", [floor])
}

/// Saves a topic's mark. `None` deletes the topic: it was reclaimed, and the floor now covers it.
pub(super) fn save_topic(
    transaction: &Transaction<'_>,
    topic: &Topic,
    mark: Option<u64>,
) -> rusqlite::Result<()> {
    const SAVE: &str = "INSERT OR REPLACE INTO topics VALUES (?1, ?2)";
    const DELETE: &str = "DELETE FROM topics WHERE topic = ?1";
    match mark {
        Some(mark) => execute(transaction, SAVE, params![topic.as_str(), mark]),
        None => execute(transaction, DELETE, [topic.as_str()]),
    }
}

/// Deletes a message that the log has dropped.
pub(super) fn delete(transaction: &Transaction<'_>, seq: u64) -> rusqlite::Result<()> {
    execute(transaction, "DELETE FROM messages WHERE seq = ?1", [seq])
}

/// Caches the prepared statement, because each publish runs the same few.
fn execute(
    transaction: &Transaction<'_>,
    statement: &str,
    parameters: impl Params,
) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(statement)?;
    statement.execute(parameters).map(drop)
}

/// Borrows a text column, because most are parsed at once: no `String` is needed.
fn text<'a>(row: &'a Row<'_>, column: usize) -> rusqlite::Result<&'a str> {
    Ok(row.get_ref(column)?.as_str()?)
}

fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, BadFile> {
    text.parse()
        .map_err(|error: T::Err| format!("it is damaged: {error}").into())
}

/// A clock before 1970 counts as 1970.
fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn time(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}
