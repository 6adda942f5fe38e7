//! What a feed's file holds: the tables, and how a message, a key and a topic lie in them.
//!
//! The file has the parts of a message and not its JSON, whose id names the epoch: a restored copy of
//! a file begins a new epoch, and its messages get new ids.

use std::{
    path::Path,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use tokio::time::Instant;

use super::{
    commit::configure,
    window::{Window, moment},
};
use crate::feed::{
    Cursor, Data, Draft, Epoch, IdempotencyKey, Message, Retention, Topic,
    log::Entry,
    store::{Fingerprint, KEY_LIFE, MAX_KEYS, Once},
};

/// "Feed" in ASCII, in the file's header: no other program's database is taken for a feed.
const APPLICATION: i32 = 0x4665_6564;
/// The form of the tables. It goes up when they change.
const VERSION: i32 = 1;

/// `topics` has every topic that is kept. Messages at or below their topic's mark are not read: they
/// are waiting to be deleted. Keys are numbered in the order of their use. Times are milliseconds since
/// 1970.
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
#[derive(Debug, thiserror::Error)]
pub(super) enum BadFile {
    #[error("it is a database, but not a feed's")]
    Foreign,
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("message {0} is missing")]
    Missing(u64),
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
    #[error("it is of version {0}, and this program reads version {VERSION}")]
    Version(i32),
}

/// Opens the file, and makes the tables of a new one. A database that is not a feed's is left alone.
pub(super) fn prepare(path: &Path, new_epoch: bool) -> Result<Connection, BadFile> {
    let mut database = Connection::open(path)?;
    let is_new = is_new(&database)?;
    configure(&database)?;
    let transaction = database.transaction()?;
    if is_new {
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.execute_batch(SCHEMA)?;
    }
    if is_new || new_epoch {
        let epoch = Epoch::random();
        transaction.execute("UPDATE feed SET epoch = ?1", [epoch.as_str()])?;
    }
    transaction.commit()?;
    Ok(database)
}

fn is_new(database: &Connection) -> Result<bool, BadFile> {
    let pragma = |name| database.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let tables = "SELECT count(*) FROM sqlite_schema";
    let tables: u32 = database.query_row(tables, [], |row| row.get(0))?;
    match (pragma("application_id")?, pragma("user_version")?, tables) {
        (APPLICATION, VERSION, _) => Ok(false),
        (APPLICATION, version, _) => Err(BadFile::Version(version)),
        (0, 0, 0) => Ok(true),
        _ => Err(BadFile::Foreign),
    }
}

/// Reads what is kept: the newest messages whole, of the others number and cost.
pub(super) fn restore(database: &Connection, retention: Retention) -> Result<Window, BadFile> {
    let (epoch, floor) = database.query_row("SELECT epoch, floor FROM feed", [], |row| {
        Ok((row.get::<_, String>(0)?, row.get(1)?))
    })?;
    let (epoch, limit) = (parsed(&epoch)?, retention.in_memory / 2);
    let window = Window::new(epoch, retention);
    window.raise_floor(floor);
    restore_topics(database, &window)?;
    let unloaded = last_unloaded(database, epoch, limit)?;
    restore_stored(database, epoch, unloaded, &window)?;
    restore_loaded(database, epoch, unloaded, &window)?;
    let head = "SELECT seq FROM sqlite_sequence WHERE name = 'messages'";
    let head = database.query_row(head, [], |row| row.get(0)).optional()?;
    window.raise_head(head.unwrap_or(0));
    Ok(window)
}

fn restore_topics(database: &Connection, window: &Window) -> Result<(), BadFile> {
    let mut topics = database.prepare("SELECT topic, mark FROM topics")?;
    let (mut rows, now) = (topics.query([])?, Instant::now());
    while let Some(row) = rows.next()? {
        let (topic, mark) = (parsed(text(row, 0)?)?, row.get(1)?);
        window
            .log()
            .change(|log| log.restore_topic(topic, mark, now));
    }
    Ok(())
}

/// What [`cost`] reads.
const SIZES: &str = "SELECT seq, topic, length(type), octet_length(data), published FROM messages";

/// Messages up to this number stay in the file alone; the newer ones come to about `limit` bytes.
fn last_unloaded(database: &Connection, epoch: Epoch, limit: usize) -> Result<u64, BadFile> {
    let mut newest = database.prepare(&format!("{SIZES} ORDER BY seq DESC"))?;
    let (mut rows, mut bytes) = (newest.query([])?, 0);
    while let Some(row) = rows.next()? {
        if bytes >= limit {
            return Ok(row.get(0)?);
        }
        bytes += cost(row, epoch)?;
    }
    Ok(0)
}

fn restore_stored(
    database: &Connection,
    epoch: Epoch,
    unloaded: u64,
    window: &Window,
) -> Result<(), BadFile> {
    let mut stored = database.prepare(&format!("{SIZES} WHERE seq <= ?1 ORDER BY seq"))?;
    let mut rows = stored.query([unloaded])?;
    while let Some(row) = rows.next()? {
        let (seq, cost) = (row.get(0)?, cost(row, epoch)?);
        let cost = u32::try_from(cost).map_err(|_| BadFile::Damaged(format!("message {seq}")))?;
        let topic = parsed(text(row, 1)?)?;
        window.restore(
            &topic,
            Entry::Stored { seq, cost },
            moment(time(row.get(4)?)),
        );
    }
    Ok(())
}

fn restore_loaded(
    database: &Connection,
    epoch: Epoch,
    unloaded: u64,
    window: &Window,
) -> Result<(), BadFile> {
    let mut loaded = database.prepare(&format!("{MESSAGE} WHERE seq > ?1 ORDER BY seq"))?;
    let mut rows = loaded.query([unloaded])?;
    while let Some(row) = rows.next()? {
        let message = Arc::new(message(row, epoch)?);
        let (topic, published) = (message.topic.clone(), time(row.get(3)?));
        window.restore(&topic, Entry::Loaded(message), moment(published));
    }
    Ok(())
}

/// What the message counts for in the log's limits, as [`Message::cost`].
fn cost(row: &Row<'_>, epoch: Epoch) -> Result<usize, BadFile> {
    let (seq, topic) = (row.get(0)?, text(row, 1)?.len());
    let id = Cursor { epoch, seq };
    Ok(Message::cost_of(id, topic, row.get(2)?, row.get(3)?))
}

/// What [`message`] reads.
const MESSAGE: &str = "SELECT seq, topic, type, published, data FROM messages";

fn message(row: &Row<'_>, epoch: Epoch) -> Result<Message, BadFile> {
    let (id, topic) = (
        Cursor {
            epoch,
            seq: row.get(0)?,
        },
        parsed(text(row, 1)?)?,
    );
    let (kind, data) = (parsed(text(row, 2)?)?, Data::stored(text(row, 4)?));
    Ok(Message::encode(
        id,
        topic,
        Draft { kind, data },
        time(row.get(3)?),
    ))
}

/// Reads messages back; [`BadFile::Missing`] if one is not there.
pub(super) fn read(
    database: &Connection,
    epoch: Epoch,
    seqs: &[u64],
) -> Result<Vec<Arc<Message>>, BadFile> {
    let mut select = database.prepare_cached(&format!("{MESSAGE} WHERE seq = ?1"))?;
    let mut messages = Vec::with_capacity(seqs.len());
    for seq in seqs {
        let mut rows = select.query([seq])?;
        let row = rows.next()?.ok_or(BadFile::Missing(*seq))?;
        messages.push(Arc::new(message(row, epoch)?));
    }
    Ok(messages)
}

/// Adds a message and returns its number.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    topic: &Topic,
    draft: &Draft,
    published: SystemTime,
) -> rusqlite::Result<u64> {
    transaction
        .prepare_cached(
            "INSERT INTO messages (topic, type, published, data) VALUES (?1, ?2, ?3, ?4)
             RETURNING seq",
        )?
        .query_row(
            params![
                topic.as_str(),
                draft.kind.as_str(),
                millis(published),
                draft.data.as_str()
            ],
            |row| row.get(0),
        )
}

/// What the key was used for, if it was: the message's fingerprint and number.
pub(super) fn find_key(
    transaction: &Transaction<'_>,
    topic: &Topic,
    key: &IdempotencyKey,
    now: SystemTime,
) -> rusqlite::Result<Option<(Fingerprint, u64)>> {
    transaction
        .prepare_cached("DELETE FROM keys WHERE used <= ?1")?
        .execute([millis(now - KEY_LIFE)])?;
    transaction
        .prepare_cached("SELECT fingerprint, seq FROM keys WHERE topic = ?1 AND key = ?2")?
        .query_row([topic.as_str(), key.as_str()], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()
}

/// Remembers a key, and forgets the oldest if there are too many.
pub(super) fn insert_key(
    transaction: &Transaction<'_>,
    topic: &Topic,
    once: &Once,
    seq: u64,
    used: SystemTime,
) -> rusqlite::Result<()> {
    let number: i64 = transaction
        .prepare_cached(
            "INSERT INTO keys (topic, key, fingerprint, seq, used)
             VALUES (?1, ?2, ?3, ?4, ?5) RETURNING number",
        )?
        .query_row(
            params![
                topic.as_str(),
                once.key.as_str(),
                once.fingerprint,
                seq,
                millis(used)
            ],
            |row| row.get(0),
        )?;
    transaction
        .prepare_cached("DELETE FROM keys WHERE number <= ?1")?
        .execute([number - MAX_KEYS as i64])?;
    Ok(())
}

/// Saves the mark of all topics that are not kept.
pub(super) fn save_floor(transaction: &Transaction<'_>, floor: u64) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("UPDATE feed SET floor = ?1")?
        .execute([floor])?;
    Ok(())
}

/// Saves a topic's mark. A topic without one is not kept.
pub(super) fn save_topic(
    transaction: &Transaction<'_>,
    topic: &Topic,
    mark: Option<u64>,
) -> rusqlite::Result<()> {
    match mark {
        Some(mark) => transaction
            .prepare_cached("INSERT OR REPLACE INTO topics VALUES (?1, ?2)")?
            .execute(params![topic.as_str(), mark])?,
        None => transaction
            .prepare_cached("DELETE FROM topics WHERE topic = ?1")?
            .execute([topic.as_str()])?,
    };
    Ok(())
}

/// Deletes a message.
pub(super) fn delete(transaction: &Transaction<'_>, seq: u64) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("DELETE FROM messages WHERE seq = ?1")?
        .execute([seq])?;
    Ok(())
}

fn text<'a>(row: &'a Row<'_>, column: usize) -> rusqlite::Result<&'a str> {
    Ok(row.get_ref(column)?.as_str()?)
}

fn parsed<T: FromStr<Err: ToString>>(text: &str) -> Result<T, BadFile> {
    text.parse()
        .map_err(|error: T::Err| BadFile::Damaged(error.to_string()))
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn time(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}
