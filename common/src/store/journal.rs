//! The feed's file: what was published is on the disk before anyone hears of it.
//!
//! A publish is a [`Job`] of the one thread that writes: it adds a row, and when the group that it
//! is in has been committed, the message goes into the [`Log`] that readers look at, the readers are
//! woken, and the publisher is answered. So nobody sees what a crash could take back. What the log
//! lets go of in memory is deleted with a later group: after a crash there may be a little more, never
//! less.
//!
//! The file has the parts of a message and not its JSON, whose id names the epoch: an old copy of a
//! file is another history and takes a new one.

use std::{
    fs::File,
    io,
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, Transaction, params};
use tokio::{sync::oneshot, time::Instant};

use super::commit::{CommitError, Commits, Job, configure, lock};
use crate::feed::{
    Answer, Backing, Cursor, Data, Draft, Epoch, Feed, FeedError, IdempotencyKey, Message,
    Published, Retention, Shared, Topic,
    keys::{Fingerprint, KEY_LIFE, MAX_KEYS},
    log::{Log, Older, Saved, Unsaved},
};

/// "Feed" in ASCII, in the file's header: no other program's database is taken for a feed.
const APPLICATION: i32 = 0x4665_6564;
/// The form of the tables. It goes up when they change.
const VERSION: i32 = 1;
/// What a row costs besides its data, about.
const ROW: usize = 128;

/// `topics` has every topic that is kept; messages at or below its mark are there for other reasons
/// than to be read, if at all. The keys are numbered in the order of their use. Times are milliseconds
/// since 1970.
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
enum BadFile {
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

/// The file and its thread. Dropping it closes the file.
pub(crate) struct Journal {
    commits: Commits,
    /// To another thread, which reads without being in the way of the one that writes.
    fetches: mpsc::Sender<Fetch>,
    epoch: Epoch,
    shared: Arc<Shared>,
    /// Until the file is closed.
    _lock: File,
}

/// Opens or creates a feed's file, for this process alone. With `new_epoch` it begins another history
/// with the same messages: for a copy that was restored, since the cursors that were given out in the
/// meantime mean something else.
pub(crate) fn open(path: &Path, retention: Retention, new_epoch: bool) -> io::Result<Feed> {
    let named = |error: String| io::Error::other(format!("feed file {}: {error}", path.display()));
    let lock = lock(path).map_err(|error| named(error.to_string()))?;
    let opened = prepare(path, new_epoch).and_then(|database| {
        let log = restore(&database, retention)?;
        let reader = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        Ok((database, log, reader))
    });
    let (database, log, reader) = opened.map_err(|error| named(error.to_string()))?;
    let shared = Arc::new(Shared::new(log));
    let epoch = shared.look(Log::head).epoch;
    let (fetches, asked) = mpsc::channel();
    let kept = shared.clone();
    let serve = move || serve(&reader, &kept, epoch, &asked);
    thread::Builder::new()
        .name("feed reader".into())
        .spawn(serve)?;
    let journal = Journal {
        commits: Commits::start("feed", database)?,
        fetches,
        epoch,
        shared: shared.clone(),
        _lock: lock,
    };
    Ok(Feed::over(shared, Some(Arc::new(journal))))
}

/// Makes the tables of a new file, and leaves another one alone that is not ours.
fn prepare(path: &Path, new_epoch: bool) -> Result<Connection, BadFile> {
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

/// Reads what is kept: of all messages the number and the cost, and the newest as they are.
fn restore(database: &Connection, retention: Retention) -> Result<Log, BadFile> {
    let saved = saved(database)?;
    let (epoch, now, time) = (saved.epoch, Instant::now(), SystemTime::now());
    let mut kept = database.prepare(
        "SELECT seq, topic, length(type), octet_length(data), published
         FROM messages ORDER BY seq",
    )?;
    let kept = kept.query_map([], |row| Ok(older(row, epoch, now, time)))?;
    let kept = kept.map(|row| row?);
    let mut log = Log::restore(saved, kept, retention, now)?;
    let mut newest = database.prepare(&format!("{MESSAGE} ORDER BY seq DESC"))?;
    let mut rows = newest.query([])?;
    while let Some(row) = rows.next()? {
        if !log.page_in(message(row, epoch)?) {
            break;
        }
    }
    Ok(log)
}

fn saved(database: &Connection) -> Result<Saved, BadFile> {
    let feed = database.query_row("SELECT epoch, floor FROM feed", [], |row| {
        Ok((row.get::<_, String>(0)?, row.get(1)?))
    });
    let (epoch, floor) = feed?;
    let head = "SELECT seq FROM sqlite_sequence WHERE name = 'messages'";
    let head = database.query_row(head, [], |row| row.get(0)).optional()?;
    let mut marks = database.prepare("SELECT topic, mark FROM topics")?;
    let marks = marks.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?;
    let marks = marks.map(|row| {
        let (topic, mark) = row?;
        Ok((parsed(&topic)?, mark))
    });
    Ok(Saved {
        epoch: parsed(&epoch)?,
        head: head.unwrap_or(0),
        floor,
        marks: marks.collect::<Result<_, BadFile>>()?,
    })
}

fn older(
    row: &Row<'_>,
    epoch: Epoch,
    now: Instant,
    time: SystemTime,
) -> Result<(Topic, Older, Instant), BadFile> {
    let (seq, topic): (u64, String) = (row.get(0)?, row.get(1)?);
    let cost = Message::cost_of(Cursor { epoch, seq }, topic.len(), row.get(2)?, row.get(3)?);
    let older = Older {
        seq,
        cost: u32::try_from(cost).map_err(|_| BadFile::Damaged(format!("message {seq}")))?,
    };
    let age = time.duration_since(published(row.get(4)?));
    // An age from before this machine's start is as good as none.
    let published = now.checked_sub(age.unwrap_or_default()).unwrap_or(now);
    Ok((parsed(&topic)?, older, published))
}

/// What [`message`] reads.
const MESSAGE: &str = "SELECT seq, topic, type, published, data FROM messages";

fn message(row: &Row<'_>, epoch: Epoch) -> Result<Message, BadFile> {
    let seq = row.get(0)?;
    let text = |column| row.get_ref(column).and_then(|value| Ok(value.as_str()?));
    let draft = Draft {
        kind: parsed(text(2)?)?,
        data: Data::stored(text(4)?),
    };
    let (id, published) = (Cursor { epoch, seq }, published(row.get(3)?));
    Ok(Message::encode(id, parsed(text(1)?)?, draft, published))
}

fn parsed<T: std::str::FromStr<Err: ToString>>(text: &str) -> Result<T, BadFile> {
    text.parse()
        .map_err(|error: T::Err| BadFile::Damaged(error.to_string()))
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn published(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}

impl Backing for Journal {
    fn publish(
        &self,
        topic: Topic,
        draft: Draft,
        once: Option<(IdempotencyKey, Fingerprint)>,
    ) -> Answer<'_, Published> {
        let (reply, answer) = oneshot::channel();
        self.commits.submit(Publish {
            shared: self.shared.clone(),
            epoch: self.epoch,
            topic,
            draft,
            once,
            now: Instant::now(),
            time: SystemTime::now(),
            fate: Fate::Refused(FeedError::Stopped),
            unsaved: Unsaved::default(),
            reply,
        });
        Box::pin(async { answer.await.unwrap_or(Err(FeedError::Stopped)) })
    }

    fn fetch(&self, seqs: Vec<u64>) -> Answer<'_, Option<Vec<Arc<Message>>>> {
        let (reply, fetched) = oneshot::channel();
        // Whoever does not wait for it any more holds up nobody.
        let _ = self.fetches.send(Fetch { seqs, reply });
        let ended = |_| Err(FeedError::Unreadable("its thread has ended".into()));
        Box::pin(async move { fetched.await.unwrap_or_else(ended) })
    }

    fn commits(&self) -> Option<&Commits> {
        Some(&self.commits)
    }

    fn health(&self) -> Result<(), FeedError> {
        match *self.commits.failure().borrow() {
            None => Ok(()),
            Some(_) => Err(FeedError::Stopped),
        }
    }
}

impl Drop for Journal {
    /// The next start finds what this one ends with.
    fn drop(&mut self) {
        self.commits.submit(Save(self.shared.clone()));
    }
}

/// Messages that are to be read, and who waits for them.
struct Fetch {
    seqs: Vec<u64>,
    reply: oneshot::Sender<Fetched>,
}

type Fetched = Result<Option<Vec<Arc<Message>>>, FeedError>;

/// Reads until nobody is there to ask for it.
fn serve(reader: &Connection, shared: &Shared, epoch: Epoch, asked: &mpsc::Receiver<Fetch>) {
    for Fetch { seqs, reply } in asked {
        let fetched = match fetch(reader, epoch, &seqs) {
            Ok(messages) => Ok(Some(messages)),
            // The log lets go of a message before the file does.
            Err(BadFile::Missing(seq)) if !shared.look(|log| log.keeps(seq)) => Ok(None),
            Err(error) => Err(FeedError::Unreadable(error.to_string())),
        };
        // Whoever asked may have left.
        let _ = reply.send(fetched);
    }
}

fn fetch(reader: &Connection, epoch: Epoch, seqs: &[u64]) -> Result<Vec<Arc<Message>>, BadFile> {
    let mut select = reader.prepare_cached(&format!("{MESSAGE} WHERE seq = ?1"))?;
    let mut messages = Vec::with_capacity(seqs.len());
    for seq in seqs {
        let mut rows = select.query([seq])?;
        let row = rows.next()?.ok_or(BadFile::Missing(*seq))?;
        messages.push(Arc::new(message(row, epoch)?));
    }
    Ok(messages)
}

/// One publish on its way to the disk.
struct Publish {
    shared: Arc<Shared>,
    epoch: Epoch,
    topic: Topic,
    draft: Draft,
    once: Option<(IdempotencyKey, Fingerprint)>,
    now: Instant,
    time: SystemTime,
    fate: Fate,
    /// What went into the file along with it.
    unsaved: Unsaved,
    reply: oneshot::Sender<Result<Published, FeedError>>,
}

/// What is to be answered, if the transaction succeeds.
enum Fate {
    Appended(u64),
    Duplicate(u64),
    Refused(FeedError),
}

impl Job for Publish {
    fn apply(&mut self, transaction: &mut Transaction<'_>) -> rusqlite::Result<usize> {
        if let Some(fate) = self.known(transaction)? {
            self.fate = fate;
            return Ok(0);
        }
        let admit = |log: &mut Log| log.admit(&self.topic, self.now);
        if let Err(refused) = self.shared.change(admit) {
            self.fate = Fate::Refused(refused);
            return Ok(0);
        }
        let (unsaved, floor) = self.shared.change(Log::take_unsaved);
        self.unsaved = unsaved;
        save(&self.shared, transaction, &self.unsaved, floor)?;
        let seq = self.insert(transaction)?;
        self.fate = Fate::Appended(seq);
        Ok(self.draft.data.as_str().len() + ROW)
    }

    fn settle(self: Box<Self>, committed: Result<(), CommitError>) {
        let publish = *self;
        let answer = match committed {
            Ok(()) => publish.fate.answer(publish.epoch),
            Err(error) => {
                let unsaved = publish.unsaved;
                publish.shared.change(|log| log.put_back(unsaved));
                Err(error.into())
            }
        };
        if let Ok(Published {
            id,
            duplicate: false,
        }) = answer
        {
            let topic = publish.topic;
            let message = Message::encode(id, topic.clone(), publish.draft, publish.time);
            publish.shared.append(&topic, message, publish.now);
        }
        // Whoever asked may have given up.
        let _ = publish.reply.send(answer);
    }
}

impl Fate {
    fn answer(self, epoch: Epoch) -> Result<Published, FeedError> {
        let published = |seq, duplicate| Published {
            id: Cursor { epoch, seq },
            duplicate,
        };
        match self {
            Self::Appended(seq) => Ok(published(seq, false)),
            Self::Duplicate(seq) => Ok(published(seq, true)),
            Self::Refused(error) => Err(error),
        }
    }
}

impl Publish {
    /// What the key was used for, if it was.
    fn known(&self, transaction: &Transaction<'_>) -> rusqlite::Result<Option<Fate>> {
        let Some((key, fingerprint)) = &self.once else {
            return Ok(None);
        };
        let life = u64::try_from(KEY_LIFE.as_millis()).unwrap_or(u64::MAX);
        transaction
            .prepare_cached("DELETE FROM keys WHERE used <= ?1")?
            .execute([millis(self.time).saturating_sub(life)])?;
        let used = transaction
            .prepare_cached("SELECT fingerprint, seq FROM keys WHERE topic = ?1 AND key = ?2")?
            .query_row([self.topic.as_str(), key.as_str()], |row| {
                Ok((row.get::<_, Fingerprint>(0)?, row.get(1)?))
            })
            .optional()?;
        Ok(used.map(|(used, seq)| {
            if used == *fingerprint {
                Fate::Duplicate(seq)
            } else {
                Fate::Refused(FeedError::KeyReused(key.clone()))
            }
        }))
    }

    fn insert(&self, transaction: &Transaction<'_>) -> rusqlite::Result<u64> {
        let topic = self.topic.as_str();
        let used = millis(self.time);
        let seq = transaction
            .prepare_cached(
                "INSERT INTO messages (topic, type, published, data) VALUES (?1, ?2, ?3, ?4)
                 RETURNING seq",
            )?
            .query_row(
                params![
                    topic,
                    self.draft.kind.as_str(),
                    used,
                    self.draft.data.as_str()
                ],
                |row| row.get(0),
            )?;
        if let Some((key, fingerprint)) = &self.once {
            let number: i64 = transaction
                .prepare_cached(
                    "INSERT INTO keys (topic, key, fingerprint, seq, used)
                     VALUES (?1, ?2, ?3, ?4, ?5) RETURNING number",
                )?
                .query_row(
                    params![topic, key.as_str(), fingerprint, seq, used],
                    |row| row.get(0),
                )?;
            transaction
                .prepare_cached("DELETE FROM keys WHERE number <= ?1")?
                .execute([number - MAX_KEYS as i64])?;
        }
        Ok(seq)
    }
}

/// What the log has let go of, for the last time.
struct Save(Arc<Shared>);

impl Job for Save {
    fn apply(&mut self, transaction: &mut Transaction<'_>) -> rusqlite::Result<usize> {
        let (unsaved, floor) = self.0.change(Log::take_unsaved);
        save(&self.0, transaction, &unsaved, floor).map(|()| 0)
    }

    fn settle(self: Box<Self>, _: Result<(), CommitError>) {} // it would be found out again
}

/// Brings the file up to what the log keeps.
fn save(
    shared: &Shared,
    transaction: &Transaction<'_>,
    unsaved: &Unsaved,
    floor: u64,
) -> rusqlite::Result<()> {
    if unsaved.topics.is_empty() {
        return Ok(());
    }
    transaction
        .prepare_cached("UPDATE feed SET floor = ?1")?
        .execute([floor])?;
    for topic in &unsaved.topics {
        match shared.look(|log| log.kept_mark(topic)) {
            Some(mark) => transaction
                .prepare_cached("INSERT OR REPLACE INTO topics VALUES (?1, ?2)")?
                .execute(params![topic.as_str(), mark])?,
            None => transaction
                .prepare_cached("DELETE FROM topics WHERE topic = ?1")?
                .execute([topic.as_str()])?,
        };
    }
    let mut delete = transaction.prepare_cached("DELETE FROM messages WHERE seq = ?1")?;
    for seq in &unsaved.gone {
        delete.execute([seq])?;
    }
    Ok(())
}

impl From<CommitError> for FeedError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::NoRoom => Self::NoRoom,
            CommitError::Stopped => Self::Stopped,
        }
    }
}
