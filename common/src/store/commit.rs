//! One thread that writes to a SQLite database for many who wait: a *group commit*.
//!
//! In WAL mode with `synchronous=FULL` every commit is a sync, which is what a write costs. So the
//! thread takes what has gathered while the disk was busy, and commits it as one transaction: a
//! thousand who wait cost hardly more syncs than one.
//!
//! When the disk is full, nothing of the group is written, and it may be tried again. When a write
//! or a sync *fails*, nobody knows any more what is on the disk: the kernel may have dropped the
//! pages and say yes to the next sync. Then the thread ends, and nothing is written until the next
//! start, which reads what there really is.

use std::{
    fs::File,
    io, iter,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use tokio::sync::{Notify, oneshot, watch};
use tracing::{error, warn};

/// The most jobs in one transaction: the first of a group waits for the last.
const MAX_GROUP: usize = 256;
/// Bytes written until the log is folded into the database. SQLite would do so by itself and ignore
/// that it failed.
const CHECKPOINT: usize = 4 << 20;
/// How long to wait for whoever else has the database open, an administrator say.
const BUSY: Duration = Duration::from_secs(2);

/// Why a job is not on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The disk is full, or somebody else holds the database. Nothing was written.
    #[error("the disk has no room")]
    NoRoom,
    /// A write or a sync has failed, of this job or an earlier one. This one may be on the disk or not.
    #[error("the disk has failed")]
    Stopped,
}

/// Something to write.
pub trait Job: Send + 'static {
    /// Does its part of a transaction, and returns about how many bytes that is. It is called once,
    /// whatever becomes of the transaction.
    ///
    /// # Errors
    /// The database's alone: the whole group fails with it.
    fn apply(&mut self, transaction: &mut Transaction<'_>) -> rusqlite::Result<usize>;

    /// Whether it is to outlive a power cut as soon as it has succeeded. What need not still outlives the
    /// process, and is on the disk with the next job that is.
    fn syncs(&self) -> bool {
        true
    }

    /// Hears what has become of it, in the order of the jobs.
    fn settle(self: Box<Self>, committed: Result<(), CommitError>);
}

/// The thread. Dropping it waits until all that it was given is written, and the database closed.
#[derive(Debug)]
pub struct Commits {
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
    failure: watch::Receiver<Option<String>>,
    committed: Arc<Notify>,
}

impl Commits {
    /// Writes to `database` from now on; `name` is the thread's and the log's.
    ///
    /// # Errors
    /// The system's, if there can be no thread.
    pub fn start(name: &'static str, database: Connection) -> io::Result<Self> {
        let (jobs, received) = mpsc::channel();
        let (failed, failure) = watch::channel(None);
        let committed = Arc::new(Notify::new());
        let told = committed.clone();
        let write = move || {
            if let Err((error, group)) = write(database, &received, &told) {
                error!(%error, "the {name} has failed and takes nothing any more");
                // First: who hears of it and asks is told.
                failed.send_replace(Some(error.to_string()));
                group
                    .into_iter()
                    .chain(received.try_iter())
                    .for_each(stopped);
            }
        };
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread::Builder::new().name(name.into()).spawn(write)?),
            failure,
            committed,
        })
    }

    /// Has the job written; it hears by itself what has become of it.
    pub fn submit(&self, job: impl Job) {
        let jobs = self.jobs.as_ref().expect("there are jobs until the drop");
        if let Err(refused) = jobs.send(Box::new(job)) {
            stopped(refused.0);
        }
    }

    /// Does `work` within a transaction, and returns what it gave as soon as it is on the disk. `size`
    /// is about how many bytes that is.
    ///
    /// # Errors
    /// If it is not.
    pub async fn run<T: Send + 'static>(
        &self,
        size: usize,
        work: impl FnOnce(&mut Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, CommitError> {
        self.once(size, true, work).await
    }

    /// The same, but as soon as the system has it: a power cut may take it back, up to the next job that
    /// is synced. It is for what can be found out again.
    ///
    /// # Errors
    /// If the system has it not.
    pub async fn note<T: Send + 'static>(
        &self,
        size: usize,
        work: impl FnOnce(&mut Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, CommitError> {
        self.once(size, false, work).await
    }

    async fn once<T: Send + 'static>(
        &self,
        size: usize,
        syncs: bool,
        work: impl FnOnce(&mut Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, CommitError> {
        let (reply, done) = oneshot::channel();
        self.submit(Once {
            work: Some(work),
            size,
            syncs,
            result: None,
            reply,
        });
        done.await.unwrap_or(Err(CommitError::Stopped))
    }

    /// Told after each transaction, also of those who no longer wait for it. One waits for it at a time.
    pub fn committed(&self) -> &Notify {
        &self.committed
    }

    /// What went wrong for good, if anything did. It changes once at most, and its sender is gone when
    /// the database is closed.
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failure.clone()
    }
}

impl Drop for Commits {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("a thread that writes has panicked");
        }
    }
}

fn stopped(job: Box<dyn Job>) {
    job.settle(Err(CommitError::Stopped));
}

/// The jobs of one transaction.
type Group = Vec<Box<dyn Job>>;

/// Writes until nobody is there to ask for it.
fn write(
    mut database: Connection,
    jobs: &mpsc::Receiver<Box<dyn Job>>,
    done: &Notify,
) -> Result<(), (rusqlite::Error, Group)> {
    let mut unfolded = 0;
    while let Ok(first) = jobs.recv() {
        let more = jobs.try_iter().take(MAX_GROUP - 1);
        let mut group: Group = iter::once(first).chain(more).collect();
        let told = match commit(&mut database, &mut group) {
            Ok(bytes) => {
                unfolded += bytes;
                Ok(())
            }
            Err(error) if is_no_room(&error) => {
                warn!(%error, jobs = group.len(), "nothing was written");
                Err(CommitError::NoRoom)
            }
            Err(error) => {
                done.notify_one();
                return Err((error, group));
            }
        };
        done.notify_one();
        group.into_iter().for_each(|job| job.settle(told));
        if unfolded > CHECKPOINT {
            unfolded = 0;
            fold(&database).map_err(|error| (error, Group::new()))?;
        }
    }
    fold(&database).map_err(|error| (error, Group::new()))
}

/// All or nothing, and synced if one of them asks for it: with all that was not before.
fn commit(database: &mut Connection, group: &mut [Box<dyn Job>]) -> rusqlite::Result<usize> {
    let syncs = group.iter().any(|job| job.syncs());
    database.execute_batch(if syncs { SYNCED } else { UNSYNCED })?;
    let mut transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut bytes = 0;
    for job in group {
        bytes += job.apply(&mut transaction)?;
    }
    transaction.commit().map(|()| bytes)
}

const SYNCED: &str = "PRAGMA synchronous = FULL";
/// In WAL mode nothing is synced but before a checkpoint.
const UNSYNCED: &str = "PRAGMA synchronous = NORMAL";

/// A checkpoint. On a full disk the log goes on growing for as long as it can.
fn fold(database: &Connection) -> rusqlite::Result<()> {
    let folded = database.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
    match folded {
        Err(error) if is_no_room(&error) => warn!(%error, "left for later"),
        folded => return folded,
    }
    Ok(())
}

/// Whether that is what may be over in a while: a full disk, a database that somebody else holds.
pub fn is_no_room(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// A function as a job.
struct Once<F, T> {
    work: Option<F>,
    size: usize,
    syncs: bool,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, CommitError>>,
}

impl<F, T> Job for Once<F, T>
where
    F: FnOnce(&mut Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    T: Send + 'static,
{
    fn apply(&mut self, transaction: &mut Transaction<'_>) -> rusqlite::Result<usize> {
        let work = self.work.take().expect("a job is applied once");
        self.result = Some(work(transaction)?);
        Ok(self.size)
    }

    fn syncs(&self) -> bool {
        self.syncs
    }

    fn settle(self: Box<Self>, committed: Result<(), CommitError>) {
        let Self { result, reply, .. } = *self;
        // Whoever asked may have given up.
        let _ = reply.send(committed.and_then(|()| result.ok_or(CommitError::Stopped)));
    }
}

/// Sets up a connection that is for [`Commits`].
///
/// # Errors
/// The database's.
pub fn configure(database: &Connection) -> rusqlite::Result<()> {
    database.busy_timeout(BUSY)?;
    database.set_prepared_statement_cache_capacity(64);
    for (pragma, value) in [
        ("journal_mode", "WAL"),
        ("synchronous", "FULL"),
        ("wal_autocheckpoint", "0"),
        ("foreign_keys", "ON"),
    ] {
        database.pragma_update(None, pragma, value)?;
    }
    Ok(())
}

/// Takes the database at `path` for this process alone, until the returned file is closed.
///
/// # Errors
/// If another process has it, or there can be no file beside it.
pub fn lock(path: &Path) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push("-lock");
    let file = File::create(PathBuf::from(name))?;
    file.try_lock()
        .map_err(|_| io::Error::other("another process has it open"))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// How many jobs each transaction had.
    type Groups = Arc<Mutex<Vec<usize>>>;

    /// Counts itself as the last of its group; the first one waits for the others to gather.
    struct Probe {
        first: Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>,
        open: Arc<Mutex<usize>>,
        groups: Groups,
    }

    impl Job for Probe {
        fn apply(&mut self, _: &mut Transaction<'_>) -> rusqlite::Result<usize> {
            *self.open.lock().unwrap() += 1;
            if let Some((begun, gathered)) = &self.first {
                begun.send(()).unwrap();
                gathered.recv().unwrap();
            }
            Ok(0)
        }

        fn settle(self: Box<Self>, committed: Result<(), CommitError>) {
            assert_eq!(committed, Ok(()));
            let group = std::mem::take(&mut *self.open.lock().unwrap());
            self.groups
                .lock()
                .unwrap()
                .extend((group > 0).then_some(group));
        }
    }

    #[test]
    fn what_gathers_while_the_disk_is_busy_is_one_transaction() {
        let (groups, open) = (Groups::default(), Arc::default());
        let commits = Commits::start("test", Connection::open_in_memory().unwrap()).unwrap();
        let probe = |first| Probe {
            first,
            open: Arc::clone(&open),
            groups: groups.clone(),
        };
        let ((begun, begins), (gather, gathered)) = (mpsc::channel(), mpsc::channel());
        commits.submit(probe(Some((begun, gathered))));
        begins.recv().unwrap();
        for _ in 0..=MAX_GROUP {
            commits.submit(probe(None));
        }
        gather.send(()).unwrap();
        drop(commits);
        assert_eq!(*groups.lock().unwrap(), [1, MAX_GROUP, 1]);
    }

    #[tokio::test]
    async fn a_group_is_synced_if_one_of_its_jobs_is() {
        let commits = Commits::start("test", Connection::open_in_memory().unwrap()).unwrap();
        let level = |transaction: &mut Transaction<'_>| {
            transaction.pragma_query_value(None, "synchronous", |row| row.get::<_, i32>(0))
        };
        for _ in 0..3 {
            assert_eq!(commits.run(0, level).await, Ok(2), "FULL");
            assert_eq!(commits.note(0, level).await, Ok(1), "NORMAL");
        }
    }

    #[tokio::test]
    async fn an_error_of_the_database_takes_the_group_with_it_and_ends_the_thread() {
        let commits = Commits::start("test", Connection::open_in_memory().unwrap()).unwrap();
        let bad = commits
            .run(0, |database| database.execute_batch("no SQL"))
            .await;
        assert_eq!(bad, Err(CommitError::Stopped));
        assert_eq!(commits.run(0, |_| Ok(())).await, Err(CommitError::Stopped));
        assert!(commits.failure().borrow().is_some());
    }
}
