//! The sender's durable state: the endpoints, the position of each, and the messages that it has not received.
//!
//! A message is published into the feed's file, and answered with 201 when it is on the disk. Each endpoint
//! has one row with its *position* (`ledger.rs`): everything before it was delivered, is dead, or has a row
//! in `deliveries`. The endpoint's loop (`push.rs`) claims newer messages, attempts them (`deliver.rs`), and
//! records the outcomes in one transaction. It moves the position and adds rows for failed messages.
//! A delivery that succeeds at once only moves the position. After a crash the loop continues from the
//! position and the rows: an attempt that was not recorded is repeated, and no message is skipped.
//!
//! The tables are in the feed's own file and are written by its thread. So a position and its messages are
//! committed, restored from a copy, or lost together. An outcome is not synced by itself, but with the
//! next publish: a power cut may undo it, and then its attempts are repeated. With a feed in memory, the
//! tables are in memory too.
//!
//! The message of a row is stored in `bodies`, once for all endpoints. So a later attempt sends the same
//! bytes, even if the feed has dropped the message.

use std::{
    io,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use common::{
    Feed,
    store::{commit::CommitError, commits},
};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params, types::Type};
use serde::{Serialize, Serializer, de::DeserializeOwned};
use tokio::time::sleep;
use tracing::{error, warn};

use super::{
    deliver::{MAX_RETRY_AFTER, Payload},
    ledger::{Delivery, Ended, Failed, Fate, Health, Record, State, Waiting},
    steady::Steady,
};

/// How many dead deliveries one answer shows, and how many gaps of an endpoint are kept. Always the newest.
pub(crate) const REMEMBERED: u64 = 100;

/// After a rotation the previous secret signs too, for this long.
pub(crate) const OVERLAP: Duration = Duration::from_secs(24 * 3_600);
/// The pause after the disk was full or the feed failed.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);
/// Roughly how many bytes one transaction writes. SQLite writes whole pages, so this is one page.
const PAGE: usize = 4 << 10;

/// The form of the tables. It goes up when they change. Tables of version 1 do not tell their version.
const VERSION: u32 = 3;
/// What to do with tables of another version.
const OTHER_VERSION: &str = "run the program that wrote it until no delivery is in flight or waiting (GET /endpoints), \
    then start this one with a new file (--feed=file:PATH) and register the endpoints again";
/// `sender` has one row. `deliveries` has a row for each failed message. It waits until `due`; without `due` it is
/// dead. A body is deleted with its last row there. Times are milliseconds since 1970. `target`, `secrets` and
/// `state` are JSON. `key` is the `Idempotency-Key` of the registration, and `digest` the hash of its body.
const SCHEMA: &str = "
CREATE TABLE sender (
    version INTEGER NOT NULL
) STRICT;
CREATE TABLE endpoints (
    endpoint INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    target TEXT NOT NULL,
    secrets TEXT NOT NULL,
    state TEXT NOT NULL,
    delivered INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    key TEXT UNIQUE,
    digest BLOB
) STRICT;
CREATE TABLE bodies (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    json TEXT NOT NULL
) STRICT;
CREATE TABLE deliveries (
    endpoint INTEGER NOT NULL REFERENCES endpoints ON DELETE CASCADE,
    seq INTEGER NOT NULL REFERENCES bodies,
    failed INTEGER NOT NULL,
    throttled INTEGER NOT NULL,
    due INTEGER,
    at INTEGER NOT NULL,
    reason TEXT,
    PRIMARY KEY (endpoint, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_seq ON deliveries (seq);
CREATE TRIGGER deliveries_last AFTER DELETE ON deliveries
WHEN NOT EXISTS (SELECT 1 FROM deliveries WHERE seq = OLD.seq)
BEGIN DELETE FROM bodies WHERE seq = OLD.seq; END;
CREATE TABLE gaps (
    endpoint INTEGER NOT NULL REFERENCES endpoints ON DELETE CASCADE,
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    gap TEXT NOT NULL
) STRICT;
CREATE INDEX gaps_endpoint ON gaps (endpoint);
";

/// The tables. Clones share them.
#[derive(Clone)]
pub(crate) struct Store(Arc<Home>);

enum Home {
    /// Written by the feed's thread.
    File(Feed),
    /// Written by the caller itself: there is no disk to wait for.
    Memory(Mutex<Connection>),
}

impl Store {
    /// Opens the tables beside this feed, and creates them if they are missing.
    ///
    /// # Errors
    /// If they have another version, or the database fails.
    pub(crate) async fn open(feed: &Feed) -> io::Result<Self> {
        let home = match commits(feed) {
            Some(_) => Home::File(feed.handle()),
            None => {
                let database = Connection::open_in_memory().map_err(io::Error::other)?;
                let keys = database.pragma_update(None, "foreign_keys", "ON");
                keys.map_err(io::Error::other)?;
                database.set_prepared_statement_cache_capacity(64);
                Home::Memory(Mutex::new(database))
            }
        };
        let store = Self(Arc::new(home));
        let version = store.run(prepare).await;
        match version.map_err(io::Error::other)? {
            VERSION => Ok(store),
            other => Err(io::Error::other(format!(
                "the endpoints in the feed's file have version {other}, but this program needs version {VERSION}: \
                 {OTHER_VERSION}"
            ))),
        }
    }

    /// Does `work` within a transaction, and returns its result once it is on the disk.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, CommitError> {
        self.write(true, work).await
    }

    /// Like [`Store::run`], but does not wait for a sync: the change survives the process, but perhaps not a
    /// power cut. Retries while the disk is full. For outcomes of attempts, because a lost outcome only costs
    /// one more attempt.
    ///
    /// # Errors
    /// [`CommitError::Stopped`].
    pub(crate) async fn note<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Clone + Send + 'static,
    ) -> Result<T, CommitError> {
        loop {
            match self.write(false, work.clone()).await {
                Err(error @ CommitError::NoRoom) => {
                    warn!(%error, "outcomes of deliveries are not recorded yet");
                    sleep(PAUSE).await;
                }
                done => return done,
            }
        }
    }

    async fn write<T: Send + 'static>(
        &self,
        syncs: bool,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, CommitError> {
        let commits = match &*self.0 {
            Home::File(feed) => commits(feed).expect("a feed in a file has a thread"),
            Home::Memory(database) => return at_once(database, work),
        };
        let work = |transaction: &mut Transaction<'_>| work(transaction);
        commits.submit_work(PAGE, syncs, work).await
    }

    /// Whether the tables survive the process.
    pub(crate) fn is_durable(&self) -> bool {
        matches!(*self.0, Home::File(_))
    }
}

/// Creates the tables if they are missing, and returns their version.
fn prepare(database: &Connection) -> rusqlite::Result<u32> {
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name IN ('endpoints', 'sender')";
    match database.query_row(tables, [], |row| row.get::<_, u32>(0))? {
        0 => {
            database.execute_batch(SCHEMA)?;
            database.execute("INSERT INTO sender VALUES (?1)", [VERSION])?;
        }
        1 => return Ok(1),
        _ => {}
    }
    database.query_row("SELECT version FROM sender", [], |row| row.get(0))
}

fn at_once<T>(
    database: &Mutex<Connection>,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Result<T, CommitError> {
    let mut database = database.lock().expect("nothing panics under this lock");
    let done = database.transaction().and_then(|transaction| {
        let given = work(&transaction)?;
        transaction.commit().map(|()| given)
    });
    done.map_err(|error| {
        error!(%error, "the tables in memory reject a change");
        CommitError::Refused
    })
}

/// An endpoint as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Saved {
    /// Its number here.
    pub(crate) endpoint: i64,
    pub(crate) id: String,
    /// The registration as JSON: URL, topics and options.
    pub(crate) target: String,
    /// Newest first. Each older one has a time until which it signs.
    pub(crate) secrets: Vec<(String, Option<SystemTime>)>,
    pub(crate) state: State,
    pub(crate) delivered: u64,
    pub(crate) dead: u64,
    pub(crate) last_error: Option<String>,
}

impl Saved {
    /// Corrects times that a wrong clock may have written: nothing was disabled later than now, no pause is longer
    /// than [`MAX_RETRY_AFTER`], and an old secret signs for at most [`OVERLAP`]. See also [`super::ledger::Failures::resume`].
    pub(crate) fn believed(mut self, steady: &Steady) -> Self {
        let now = steady.now();
        self.state.failures.resume(steady.began(), now);
        match &mut self.state.health {
            Health::Well => {}
            Health::Paused { until, .. } => *until = (*until).min(now + MAX_RETRY_AFTER),
            Health::Disabled { since, .. } => *since = (*since).min(now),
        }
        for until in self
            .secrets
            .iter_mut()
            .filter_map(|(_, until)| until.as_mut())
        {
            *until = (*until).min(now + OVERLAP);
        }
        self
    }

    /// Adds a new secret. The previous one also signs for [`OVERLAP`]. Expired ones are removed.
    pub(crate) fn rotate(&mut self, secret: String, now: SystemTime) {
        self.secrets
            .retain(|(_, end)| end.is_none_or(|end| end > now));
        for (_, end) in &mut self.secrets {
            end.get_or_insert(now + OVERLAP);
        }
        self.secrets.insert(0, (secret, None));
    }
}

/// The `Idempotency-Key` of a registration, and the hash of its body.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) key: String,
    pub(crate) digest: Vec<u8>,
}

/// The endpoint that was registered with this key, and whether the body was the same.
pub(crate) fn registered(
    database: &Connection,
    key: &Key,
) -> rusqlite::Result<Option<(String, bool)>> {
    let found = "SELECT id, digest = ?2 FROM endpoints WHERE key = ?1";
    let mut row = database.prepare_cached(found)?;
    let found = row.query_row(params![key.key, key.digest], |row| {
        Ok((row.get(0)?, row.get(1)?))
    });
    found.optional()
}

/// Adds a new endpoint, and returns its number.
pub(crate) fn insert(
    database: &Connection,
    saved: &Saved,
    key: Option<&Key>,
) -> rusqlite::Result<i64> {
    database.execute(
        "INSERT INTO endpoints (id, target, secrets, state, key, digest) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            saved.id,
            saved.target,
            to_json(&saved.secrets),
            to_json(&saved.state),
            key.map(|key| &key.key),
            key.map(|key| &key.digest)
        ],
    )?;
    Ok(database.last_insert_rowid())
}

/// Writes what a change may change.
pub(crate) fn save(database: &Connection, saved: &Saved) -> rusqlite::Result<()> {
    database.execute(
        "UPDATE endpoints SET target = ?2, secrets = ?3, state = ?4 WHERE endpoint = ?1",
        params![
            saved.endpoint,
            saved.target,
            to_json(&saved.secrets),
            to_json(&saved.state),
        ],
    )?;
    Ok(())
}

/// The number of every endpoint, oldest first.
pub(crate) fn endpoints(database: &Connection) -> rusqlite::Result<Vec<i64>> {
    let mut rows = database.prepare_cached("SELECT endpoint FROM endpoints ORDER BY endpoint")?;
    let rows = rows.query_map([], |row| row.get(0))?;
    rows.collect()
}

/// One endpoint, which must exist.
pub(crate) fn endpoint(database: &Connection, endpoint: i64) -> rusqlite::Result<Saved> {
    let mut row = database.prepare_cached(
        "SELECT endpoint, id, target, secrets, state, delivered, last_error,
           (SELECT count(*) FROM deliveries WHERE endpoint = ?1 AND due IS NULL)
         FROM endpoints WHERE endpoint = ?1",
    )?;
    row.query_row([endpoint], |row| {
        Ok(Saved {
            endpoint: row.get(0)?,
            id: row.get(1)?,
            target: row.get(2)?,
            secrets: json(row, 3)?,
            state: json(row, 4)?,
            delivered: row.get(5)?,
            last_error: row.get(6)?,
            dead: row.get(7)?,
        })
    })
}

/// A column that is JSON.
fn json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
    })
}

/// Drops the backlog of a disabled endpoint: its waiting deliveries become dead. If the endpoint is enabled
/// later, it gets a gap for what the feed has dropped meanwhile.
pub(crate) fn expire(
    database: &Connection,
    saved: &mut Saved,
    now: SystemTime,
) -> rusqlite::Result<()> {
    let Health::Disabled { expired, .. } = &mut saved.state.health else {
        return Ok(()); // It was enabled in the meantime.
    };
    *expired = Some(now);
    database.execute(
        "UPDATE deliveries SET due = NULL, reason = 'held for too long; ' || ifnull(reason, '')
         WHERE endpoint = ?1 AND due IS NOT NULL",
        [saved.endpoint],
    )?;
    Ok(())
}

/// Moves the position back, never forward. Rows after it are due again, with the whole schedule of retries.
pub(crate) fn replay(
    database: &Connection,
    saved: &mut Saved,
    to: u64,
    now: SystemTime,
) -> rusqlite::Result<bool> {
    let Some(position) = saved.state.position.moved_back(to) else {
        return Ok(false);
    };
    saved.state.position = position;
    database.execute(
        "UPDATE deliveries SET due = ?3, failed = 0, throttled = 0 WHERE endpoint = ?1 AND seq > ?2",
        params![saved.endpoint, to, millis(now)],
    )?;
    Ok(true)
}

/// Makes a delivery due that is dead or waits for a later attempt, with the whole schedule of retries. Returns whether
/// it was in such a state.
pub(crate) fn revive(
    database: &Connection,
    endpoint: i64,
    seq: u64,
    id: &str,
    now: SystemTime,
) -> rusqlite::Result<bool> {
    let revived = database.execute(
        "UPDATE deliveries SET due = ?4, failed = 0, throttled = 0 WHERE endpoint = ?1 AND seq = ?2
         AND (due IS NULL OR due > ?4) AND EXISTS (SELECT 1 FROM bodies WHERE seq = ?2 AND id = ?3)",
        params![endpoint, seq, id, millis(now)],
    )?;
    Ok(revived > 0)
}

/// Bytes in use, in the file or in the tables in memory.
pub(crate) fn size(database: &Connection) -> rusqlite::Result<u64> {
    let size = "SELECT (page_count - freelist_count) * page_size
        FROM pragma_page_count, pragma_freelist_count, pragma_page_size";
    database
        .prepare_cached(size)?
        .query_row([], |row| row.get(0))
}

/// Removes an endpoint with its backlog, and returns whether it existed.
pub(crate) fn remove(database: &Connection, endpoint: i64) -> rusqlite::Result<bool> {
    let removed = database.execute("DELETE FROM endpoints WHERE endpoint = ?1", [endpoint])?;
    Ok(removed > 0)
}

pub(crate) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("text and numbers are JSON")
}

/// A time in JSON, or `null`.
pub(crate) fn rfc3339<T: Into<Option<SystemTime>> + Copy, S: Serializer>(
    time: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let time: Option<SystemTime> = (*time).into();
    let text = time.map(|time| humantime::format_rfc3339_millis(time).to_string());
    text.serialize(serializer)
}

/// Writes a record of one endpoint. Does nothing if the endpoint was removed.
pub(crate) fn write(database: &Connection, endpoint: i64, record: &Record) -> rusqlite::Result<()> {
    let known = database
        .prepare_cached(
            "UPDATE endpoints SET state = ?2, delivered = delivered + ?3, last_error = ifnull(?4, last_error)
             WHERE endpoint = ?1",
        )?
        .execute(params![
            endpoint,
            to_json(&record.state),
            record.count(Fate::Delivered),
            record.last_error(),
        ])?;
    if known == 0 {
        return Ok(());
    }
    for ended in &record.ended {
        match &ended.failed {
            Some(failed) => write_row(database, endpoint, ended, failed)?,
            None if ended.delivery.row => delete_row(database, endpoint, ended.delivery.seq)?,
            None => {}
        }
    }
    for gap in &record.gaps {
        remember_gap(database, endpoint, gap)?;
    }
    Ok(())
}

/// Writes the row of a delivery that failed: it waits for a retry, or is dead.
fn write_row(
    database: &Connection,
    endpoint: i64,
    ended: &Ended,
    failed: &Failed,
) -> rusqlite::Result<()> {
    let Ended { delivery, fate, .. } = ended;
    if !delivery.row {
        let json = str::from_utf8(&failed.message.json).expect("a message is JSON");
        database
            .prepare_cached("INSERT INTO bodies VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?
            .execute(params![delivery.seq, failed.message.id, json])?;
    }
    database
        .prepare_cached("INSERT OR REPLACE INTO deliveries VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
        .execute(params![
            endpoint,
            delivery.seq,
            delivery.failed,
            delivery.throttled,
            fate.due().map(millis),
            millis(failed.at),
            failed.reason,
        ])?;
    Ok(())
}

/// Deletes the row of a delivery that has succeeded.
fn delete_row(database: &Connection, endpoint: i64, seq: u64) -> rusqlite::Result<()> {
    database
        .prepare_cached("DELETE FROM deliveries WHERE endpoint = ?1 AND seq = ?2")?
        .execute(params![endpoint, seq])?;
    Ok(())
}

fn remember_gap(database: &Connection, endpoint: i64, gap: &str) -> rusqlite::Result<()> {
    database.execute(
        "INSERT INTO gaps (endpoint, gap) VALUES (?1, ?2)",
        params![endpoint, gap],
    )?;
    database.execute(
        "DELETE FROM gaps WHERE endpoint = ?1 AND number <=
           (SELECT number FROM gaps WHERE endpoint = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
        params![endpoint, REMEMBERED],
    )?;
    Ok(())
}

/// The deliveries of an endpoint that wait for their next attempt.
pub(crate) fn waiting(database: &Connection, endpoint: i64) -> rusqlite::Result<Vec<Waiting>> {
    let mut rows = database.prepare_cached(
        "SELECT due, seq, octet_length(json), failed, throttled FROM deliveries JOIN bodies USING (seq)
         WHERE endpoint = ?1 AND due IS NOT NULL",
    )?;
    let rows = rows.query_map([endpoint], |row| {
        Ok(Waiting {
            due: time(row.get(0)?),
            delivery: Delivery {
                seq: row.get(1)?,
                size: row.get(2)?,
                failed: row.get(3)?,
                throttled: row.get(4)?,
                row: true,
            },
        })
    })?;
    rows.collect()
}

/// The message of a row.
pub(crate) fn body(database: &Connection, seq: u64) -> rusqlite::Result<Option<Payload>> {
    let mut row = database.prepare_cached("SELECT id, json FROM bodies WHERE seq = ?1")?;
    let body = |row: &Row<'_>| {
        let json: String = row.get(1)?;
        Ok(Payload {
            id: row.get(0)?,
            json: json.into(),
        })
    };
    row.query_row([seq], body).optional()
}

/// A dead delivery.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Dead {
    pub(crate) id: String,
    pub(crate) attempts: u64,
    #[serde(serialize_with = "rfc3339")]
    pub(crate) at: SystemTime,
    pub(crate) reason: String,
}

/// The newest dead deliveries of messages before this number, at most [`REMEMBERED`], oldest first.
pub(crate) fn dead(
    database: &Connection,
    endpoint: i64,
    before: Option<u64>,
) -> rusqlite::Result<Vec<Dead>> {
    let mut rows = database.prepare_cached(
        "SELECT id, failed, at, ifnull(reason, '') FROM (
           SELECT * FROM deliveries WHERE endpoint = ?1 AND due IS NULL AND (?3 IS NULL OR seq < ?3)
           ORDER BY seq DESC LIMIT ?2
         ) JOIN bodies USING (seq) ORDER BY seq",
    )?;
    let rows = rows.query_map(params![endpoint, REMEMBERED, before], |row| {
        Ok(Dead {
            id: row.get(0)?,
            attempts: row.get(1)?,
            at: time(row.get(2)?),
            reason: row.get(3)?,
        })
    })?;
    rows.collect()
}

/// The last gaps, oldest first.
pub(crate) fn gaps(database: &Connection, endpoint: i64) -> rusqlite::Result<Vec<String>> {
    let mut rows =
        database.prepare_cached("SELECT gap FROM gaps WHERE endpoint = ?1 ORDER BY number")?;
    let rows = rows.query_map([endpoint], |row| row.get(0))?;
    rows.collect()
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn time(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}

#[cfg(test)]
mod tests {
    use super::{super::ledger::Position, *};

    fn database() -> Connection {
        let database = Connection::open_in_memory().unwrap();
        database.pragma_update(None, "foreign_keys", "ON").unwrap();
        assert_eq!(prepare(&database).unwrap(), VERSION);
        database
    }

    /// Nothing is open.
    fn at(claimed: u64) -> State {
        let open = Vec::new();
        State {
            position: Position { claimed, open },
            ..State::default()
        }
    }

    /// The tables of version 1 had no table `sender`.
    #[tokio::test]
    async fn tables_of_another_version_are_refused_with_what_to_do() {
        for (change, version) in [
            ("DROP TABLE sender", "1"),
            ("UPDATE sender SET version = 2", "2"),
            ("UPDATE sender SET version = 4", "4"),
        ] {
            let name = format!("webhooks-version-{version}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let source = common::FeedSource::File(path.clone());
            let feed = source.open(Default::default(), false).await.unwrap();
            let store = Store::open(&feed).await.unwrap();
            let changed = store.run(|database| database.execute_batch(change)).await;
            changed.unwrap();
            let refused = Store::open(&feed).await.err().unwrap().to_string();
            let begin = format!(
                "the endpoints in the feed's file have version {version}, but this program needs version 3: run the"
            );
            assert!(refused.starts_with(&begin), "{refused}");
            for end in ["", "-wal", "-shm", "-lock"] {
                let _ = std::fs::remove_file(format!("{}{end}", path.display())); // it is in the temporary folder
            }
        }
    }

    fn new(id: &str) -> Saved {
        Saved {
            endpoint: 0,
            id: id.into(),
            target: "{}".into(),
            secrets: vec![("new".into(), None), ("old".into(), Some(time(5)))],
            state: at(7),
            delivered: 0,
            dead: 0,
            last_error: None,
        }
    }

    /// An endpoint, up to 7.
    fn added(database: &Connection, id: &str) -> i64 {
        insert(database, &new(id), None).unwrap()
    }

    fn delivery(seq: u64, row: bool) -> Delivery {
        Delivery {
            seq,
            size: 2,
            failed: 1,
            throttled: 0,
            row,
        }
    }

    fn failed(seq: u64) -> Failed {
        Failed {
            message: Payload {
                id: format!("a-{seq}"),
                json: "{}".into(),
            },
            at: time(5),
            reason: "answered 500".into(),
        }
    }

    /// Records ended attempts: the message, whether it has a row, and what becomes of it.
    fn settles(database: &Connection, endpoint: i64, state: State, ended: &[(u64, bool, Fate)]) {
        let one = |(seq, row, fate): &(u64, bool, Fate)| Ended {
            delivery: delivery(*seq, *row),
            fate: *fate,
            failed: (*fate != Fate::Delivered).then(|| failed(*seq)),
        };
        let record = Record {
            state,
            ended: ended.iter().map(one).collect(),
            gaps: Vec::new(),
        };
        write(database, endpoint, &record).unwrap();
    }

    fn waits(millis: u64) -> Fate {
        Fate::Waits(time(millis))
    }

    fn disabled(expired: Option<SystemTime>) -> Health {
        Health::Disabled {
            since: time(8),
            reason: "gone".into(),
            expired,
        }
    }

    fn all(database: &Connection) -> Vec<Saved> {
        let numbers = endpoints(database).unwrap().into_iter();
        numbers
            .map(|number| endpoint(database, number).unwrap())
            .collect()
    }

    fn bodies(database: &Connection) -> u64 {
        let count = "SELECT count(*) FROM bodies";
        database.query_row(count, [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn an_endpoint_comes_back_as_it_was_with_its_newest_secret_first() {
        let database = database();
        let one = added(&database, "ep_1");
        let two = Saved {
            target: r#"{"url":"http://b.example/"}"#.into(),
            ..new("ep_2")
        };
        let number = insert(&database, &two, None).unwrap();
        let expected = |endpoint, saved| Saved { endpoint, ..saved };
        let both = [expected(one, new("ep_1")), expected(number, two)];
        assert_eq!(all(&database), both);
    }

    #[test]
    fn what_failed_waits_with_its_message_and_what_was_delivered_leaves_nothing() {
        let database = database();
        let endpoint = added(&database, "ep_1");
        let ended = [(8, false, waits(60)), (9, false, Fate::Delivered)];
        settles(&database, endpoint, at(9), &ended);
        let now = all(&database).remove(0);
        assert_eq!((now.state, now.delivered, now.dead), (at(9), 1, 0));
        assert_eq!(now.last_error.as_deref(), Some("answered 500"));
        let waiting_one = Waiting {
            due: time(60),
            delivery: delivery(8, true),
        };
        assert_eq!(waiting(&database, endpoint).unwrap(), [waiting_one]);
        assert_eq!(body(&database, 8).unwrap().unwrap().id, "a-8");

        settles(&database, endpoint, at(9), &[(8, true, Fate::Delivered)]);
        assert_eq!(waiting(&database, endpoint).unwrap(), []);
        assert_eq!(body(&database, 8).unwrap(), None);
        let now = all(&database).remove(0);
        assert_eq!(now.last_error.as_deref(), Some("answered 500"), "it stays");
    }

    #[test]
    fn what_is_dead_is_listed_with_its_reason_and_does_not_wait() {
        let database = database();
        let endpoint = added(&database, "ep_1");
        let ended = [(8, false, Fate::Dead), (9, false, Fate::Dead)];
        settles(&database, endpoint, at(9), &ended);
        assert_eq!(waiting(&database, endpoint).unwrap(), []);
        let dead = dead(&database, endpoint, None).unwrap();
        assert_eq!(
            dead.iter().map(|dead| &*dead.id).collect::<Vec<_>>(),
            ["a-8", "a-9"]
        );
        assert_eq!(
            (dead[0].attempts, dead[0].at, &*dead[0].reason),
            (1, time(5), "answered 500")
        );
        assert_eq!(all(&database)[0].dead, 2);
        assert!(body(&database, 8).unwrap().is_some(), "it can be retried");
    }

    #[test]
    fn what_is_dead_or_waits_can_be_made_due_once_and_by_its_id() {
        let database = database();
        let number = added(&database, "ep_1");
        let ended = [
            (8, false, Fate::Dead),
            (9, false, waits(60)),
            (10, false, waits(71)),
        ];
        settles(&database, number, at(10), &ended);
        let revive = |seq, id| revive(&database, number, seq, id, time(70)).unwrap();
        assert!(!revive(8, "b-8"), "it is of another epoch");
        assert!(!revive(9, "a-9"), "it is due already");
        for (seq, id) in [(8, "a-8"), (10, "a-10")] {
            assert!(revive(seq, id));
            assert!(!revive(seq, id), "it is due now");
            let waiting = waiting(&database, number).unwrap();
            let made_due = waiting.iter().find(|one| one.delivery.seq == seq).unwrap();
            assert_eq!((made_due.delivery.failed, made_due.due), (0, time(70)));
        }
        assert_eq!(endpoint(&database, number).unwrap().dead, 0);
    }

    #[test]
    fn of_the_secrets_the_new_one_is_first_and_those_at_their_end_go() {
        let database = database();
        let number = added(&database, "ep_1");
        let secrets = || endpoint(&database, number).unwrap().secrets;
        let rotate = |secret: &str, now| {
            let mut saved = endpoint(&database, number).unwrap();
            saved.rotate(secret.into(), time(now));
            save(&database, &saved).unwrap();
        };
        rotate("newer", 4);
        let [newer, new] = [
            ("newer".into(), None),
            ("new".into(), Some(time(4) + OVERLAP)),
        ];
        assert_eq!(secrets(), [newer, new, ("old".into(), Some(time(5)))]);
        rotate("newest", 5);
        let names = secrets().into_iter().map(|(secret, _)| secret);
        assert_eq!(names.collect::<Vec<_>>(), ["newest", "newer", "new"]);
    }

    #[test]
    fn an_endpoint_is_disabled_with_a_reason_and_enabled_as_if_it_had_not_failed() {
        let database = database();
        let number = added(&database, "ep_1");
        let mut state = at(7);
        state.health = disabled(None);
        state.failures.since = Some(time(3));
        settles(&database, number, state.clone(), &[]);
        assert_eq!(endpoint(&database, number).unwrap().state, state);
        let mut saved = endpoint(&database, number).unwrap();
        saved.state.enable();
        save(&database, &saved).unwrap();
        assert_eq!(endpoint(&database, number).unwrap().state, at(7));
    }

    #[test]
    fn what_waits_for_who_is_disabled_too_long_is_dead_and_says_so() {
        let database = database();
        let number = added(&database, "ep_1");
        let health = disabled(None);
        let state = State { health, ..at(8) };
        settles(&database, number, state, &[(8, false, waits(60))]);
        let mut saved = endpoint(&database, number).unwrap();
        expire(&database, &mut saved, time(90)).unwrap();
        save(&database, &saved).unwrap();
        let now = endpoint(&database, number).unwrap();
        assert_eq!((now.dead, now.state.health), (1, disabled(Some(time(90)))));
        let dead = dead(&database, number, None).unwrap();
        assert_eq!(dead[0].reason, "held for too long; answered 500");
    }

    #[test]
    fn a_position_is_moved_back_and_not_on_and_what_is_open_before_it_stays_open() {
        let database = database();
        let number = added(&database, "ep_1");
        let open = Position {
            claimed: 7,
            open: vec![3, 6],
        };
        let state = State {
            position: open.clone(),
            ..State::default()
        };
        settles(&database, number, state, &[]);
        let position = || endpoint(&database, number).unwrap().state.position;
        assert_eq!(position(), open);
        let replay = |to| {
            let mut saved = endpoint(&database, number).unwrap();
            let moved = replay(&database, &mut saved, to, time(70)).unwrap();
            save(&database, &saved).unwrap();
            moved
        };
        assert!(!replay(8) && replay(7));
        assert_eq!(position(), open);
        assert!(replay(5));
        let moved = Position {
            claimed: 5,
            open: vec![3],
        };
        assert_eq!(position(), moved);
    }

    #[test]
    fn a_key_belongs_to_one_endpoint_and_one_body() {
        let database = database();
        let key = |digest: u8| Key {
            key: "k".into(),
            digest: vec![digest],
        };
        assert_eq!(registered(&database, &key(1)).unwrap(), None);
        insert(&database, &new("ep_1"), Some(&key(1))).unwrap();
        for (digest, is_same) in [(1, true), (2, false)] {
            let found = registered(&database, &key(digest)).unwrap();
            assert_eq!(found, Some(("ep_1".into(), is_same)));
        }
        assert!(insert(&database, &new("ep_2"), Some(&key(1))).is_err());
    }

    #[test]
    fn a_body_is_there_once_and_as_long_as_anyone_is_owed_it() {
        let database = database();
        let both = ["ep_1", "ep_2"].map(|id| added(&database, id));
        for endpoint in both {
            settles(&database, endpoint, at(8), &[(8, false, waits(60))]);
        }
        assert_eq!(bodies(&database), 1);
        delete_row(&database, both[0], 8).unwrap();
        assert_eq!(bodies(&database), 1);
        assert!(remove(&database, both[1]).unwrap());
        assert_eq!(bodies(&database), 0);
        assert!(!remove(&database, both[1]).unwrap());
    }

    #[test]
    fn what_is_settled_after_an_endpoint_was_removed_is_nothing() {
        let database = database();
        let endpoint = added(&database, "ep_1");
        remove(&database, endpoint).unwrap();
        settles(&database, endpoint, at(8), &[(8, false, waits(60))]);
        assert_eq!(bodies(&database), 0);
    }

    #[tokio::test]
    async fn beside_a_feed_in_memory_the_tables_are_in_memory() {
        let feed = Feed::new(common::Retention::default());
        let store = Store::open(&feed).await.unwrap();
        assert!(!store.is_durable());
        let number = store.run(|database| insert(database, &new("ep_1"), None));
        let number = number.await.unwrap();
        let there = store.run(endpoints).await.unwrap();
        assert_eq!(there[0], number);
    }
}
