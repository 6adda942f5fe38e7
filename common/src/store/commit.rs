//! Group commit: one thread writes to a SQLite database for many tasks that wait.
//!
//! In WAL mode with `synchronous=FULL` every commit is a sync, and the sync is what a write costs. So the
//! thread takes all jobs that gathered while the disk was busy, and commits them as one transaction.
//! A thousand waiting jobs cost hardly more syncs than one.
//!
//! A job that the database refuses, by a constraint or a value that it cannot hold, is undone alone.
//! When the disk is full, nothing of the group is written, and it may be tried again. When a write or a
//! sync *fails*, the state of the disk is unknown: the kernel may have dropped the pages, and may
//! report success for the next sync. Then the thread ends, and nothing is written until the next start
//! reads what the disk really has.

use std::{
    io, iter,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use tokio::sync::{Notify, oneshot, watch};
use tracing::{error, trace, warn};

/// The most jobs in one transaction: the first of a group waits for the last.
const MAX_GROUP: usize = 256;
/// Bytes written between two checkpoints. SQLite would checkpoint by itself, and ignore a failure.
const CHECKPOINT: usize = 4 << 20;

/// Why a job is not on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The disk is full, or another process holds the database. Nothing was written.
    #[error("the disk is full or the database is locked")]
    NoRoom,
    /// The database refuses this job alone. Nothing of it was written.
    #[error("the database rejects the data")]
    Refused,
    /// A write or a sync has failed, of this job or an earlier one. This one may be on the disk or not.
    #[error("the disk has failed")]
    Stopped,
}

/// Something to write.
pub trait Job: Send + 'static {
    /// Does its part of a transaction, and returns about how many bytes it wrote. Called once, even if the
    /// transaction then fails. It must not end the transaction.
    ///
    /// # Errors
    /// Those of the database. An error of the disk fails the whole group. Any other error undoes only this job.
    fn apply(&mut self, transaction: &mut Transaction<'_>) -> rusqlite::Result<usize>;

    /// Whether it must survive a power cut as soon as it has succeeded. Otherwise it survives the process,
    /// and is synced with the next job that must.
    fn syncs(&self) -> bool {
        true
    }

    /// Called with the outcome, in the order of the jobs.
    fn settle(self: Box<Self>, committed: Result<(), CommitError>);
}

/// The thread. Dropping it waits until all jobs are written and the database is closed.
#[derive(Debug)]
pub struct Commits {
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
    failure: watch::Receiver<Option<String>>,
    committed: Arc<Notify>,
}

impl Commits {
    /// Starts the thread. Its log lines contain `name`.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(name: &'static str, database: Connection) -> io::Result<Self> {
        let (jobs, received) = mpsc::channel();
        let (failed, failure) = watch::channel(None);
        let committed = Arc::new(Notify::new());
        let notify = committed.clone();
        let thread = thread::Builder::new().name(name.into());
        let spawned = thread.spawn(move || run(name, database, &received, &notify, &failed))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(spawned),
            failure,
            committed,
        })
    }

    /// Queues a job. [`Job::settle`] gets the outcome.
    pub fn submit(&self, job: impl Job) {
        let jobs = self.jobs.as_ref().expect("there are jobs until the drop");
        if let Err(refused) = jobs.send(Box::new(job)) {
            stopped(refused.0);
        }
    }

    /// Runs `work` within a transaction, and returns its result when it is on the disk. `size` is about how many
    /// bytes it writes.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub async fn run<T: Send + 'static>(
        &self,
        size: usize,
        work: impl FnOnce(&mut Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, CommitError> {
        self.submit_work(size, true, work).await
    }

    /// The same, perhaps without a sync: until the next job that `syncs`, a power cut may undo it. For state that
    /// can be recomputed.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub async fn submit_work<T: Send + 'static>(
        &self,
        size: usize,
        syncs: bool,
        work: impl FnOnce(&mut Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, CommitError> {
        let (reply, done) = oneshot::channel();
        self.submit(Work {
            work: Some(work),
            size,
            syncs,
            result: None,
            reply,
        });
        done.await.unwrap_or(Err(CommitError::Stopped))
    }

    /// Notified after every transaction. Supports a single waiter.
    pub fn committed(&self) -> &Notify {
        &self.committed
    }

    /// The failure that ended the thread, if any. It changes at most once, and its sender is dropped when
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

/// What the thread runs. A panic becomes a failure, so that the health check reports it.
fn run(
    name: &str,
    database: Connection,
    jobs: &mpsc::Receiver<Box<dyn Job>>,
    committed: &Notify,
    failed: &watch::Sender<Option<String>>,
) {
    let (error, group) = match catch_unwind(AssertUnwindSafe(|| write(database, jobs, committed))) {
        Ok(Ok(())) => return,
        Ok(Err((error, group))) => (error.to_string(), group),
        Err(_) => ("it panicked".to_owned(), Group::new()),
    };
    error!(%error, "the {name} has failed: nothing is written until a restart");
    // Set before the jobs are settled, so that a job can read the reason.
    failed.send_replace(Some(error));
    group.into_iter().chain(jobs.try_iter()).for_each(stopped);
}

/// Writes until the sender of jobs is dropped.
fn write(
    mut database: Connection,
    jobs: &mpsc::Receiver<Box<dyn Job>>,
    committed: &Notify,
) -> Result<(), (rusqlite::Error, Group)> {
    let mut since_checkpoint = 0;
    while let Ok(first) = jobs.recv() {
        let more = jobs.try_iter().take(MAX_GROUP - 1);
        let mut group: Group = iter::once(first).chain(more).collect();
        let committing = commit(&mut database, &mut group);
        committed.notify_one();
        let outcomes = match committing {
            Ok(outcomes) => {
                trace!(count.commits = 1, count.committed = group.len());
                outcomes
            }
            Err(error) if is_no_room(&error) => {
                warn!(%error, jobs = group.len(), "nothing was written");
                vec![Err(CommitError::NoRoom); group.len()]
            }
            Err(error) => return Err((error, group)),
        };
        since_checkpoint += outcomes.iter().flatten().sum::<usize>();
        for (job, outcome) in group.into_iter().zip(outcomes) {
            job.settle(outcome.map(drop));
        }
        if since_checkpoint > CHECKPOINT {
            since_checkpoint = 0;
            checkpoint(&database).map_err(|error| (error, Group::new()))?;
        }
    }
    checkpoint(&database).map_err(|error| (error, Group::new()))
}

/// Commits all jobs except those that the database refuses. After an error of the disk, commits none. If one job
/// syncs, the whole group is synced, and everything before it. Returns for each job how many bytes it wrote.
fn commit(
    database: &mut Connection,
    group: &mut [Box<dyn Job>],
) -> rusqlite::Result<Vec<Result<usize, CommitError>>> {
    let syncs = group.iter().any(|job| job.syncs());
    database.execute_batch(if syncs { SYNCED } else { UNSYNCED })?;
    let mut transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let jobs = group.iter_mut();
    let outcomes = jobs
        .map(|job| apply(job.as_mut(), &mut transaction))
        .collect::<rusqlite::Result<_>>()?;
    transaction.commit().map(|()| outcomes)
}

/// Runs one job in a savepoint. The outer error is of the disk.
fn apply(
    job: &mut dyn Job,
    transaction: &mut Transaction<'_>,
) -> rusqlite::Result<Result<usize, CommitError>> {
    execute(transaction, "SAVEPOINT job")?;
    let applied = match job.apply(transaction) {
        Ok(bytes) => Ok(bytes),
        Err(error) if is_disk(&error) => return Err(error),
        Err(error) => {
            error!(%error, "the database rejects the data of a job");
            execute(transaction, "ROLLBACK TO job")?;
            Err(CommitError::Refused)
        }
    };
    execute(transaction, "RELEASE job")?;
    Ok(applied)
}

fn execute(transaction: &Transaction<'_>, sql: &str) -> rusqlite::Result<()> {
    transaction.prepare_cached(sql)?.execute([]).map(drop)
}

const SYNCED: &str = "PRAGMA synchronous = FULL";
/// In WAL mode this syncs only before a checkpoint.
const UNSYNCED: &str = "PRAGMA synchronous = NORMAL";

/// Copies the write-ahead log into the database. If the disk is full, the log goes on growing for as long as
/// it can.
fn checkpoint(database: &Connection) -> rusqlite::Result<()> {
    match database.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
        Err(error) if is_no_room(&error) => {
            warn!(%error, "no checkpoint: the disk is full or the database is locked");
            Ok(())
        }
        done => done,
    }
}

/// Whether the error may go away: the disk is full, or another process holds the database.
pub fn is_no_room(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// Whether the disk or the whole database is at fault, and not one job.
pub fn is_disk(error: &rusqlite::Error) -> bool {
    let broken = matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::OutOfMemory
        )
    );
    broken || is_no_room(error)
}

/// A function as a job.
struct Work<F, T> {
    work: Option<F>,
    size: usize,
    syncs: bool,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, CommitError>>,
}

impl<F, T> Job for Work<F, T>
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
        // The caller may have given up.
        let _ = reply.send(committed.and_then(|()| result.ok_or(CommitError::Stopped)));
    }
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
            assert_eq!(commits.submit_work(0, false, level).await, Ok(1), "NORMAL");
        }
    }

    fn failed(code: i32) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None)
    }

    /// Three jobs in one transaction: the second writes, and then gives this error.
    async fn group_with(error: rusqlite::Error) -> (Commits, [Result<(), CommitError>; 3]) {
        let database = Connection::open_in_memory().unwrap();
        database
            .execute_batch("CREATE TABLE numbers (number)")
            .unwrap();
        let commits = Commits::start("test", database).unwrap();
        let ((begun, begins), (gather, gathered)) = (mpsc::channel(), mpsc::channel());
        let insert = "INSERT INTO numbers VALUES (1)";
        let first = commits.run(0, move |database| {
            begun.send(()).unwrap();
            gathered.recv().unwrap();
            database.execute_batch(insert)
        });
        let gathers = async {
            tokio::task::spawn_blocking(move || begins.recv().unwrap())
                .await
                .unwrap();
        };
        let second = async {
            gathers.await;
            let job = commits.run(0, move |database| {
                database.execute_batch(insert)?;
                Err(error)
            });
            let third = commits.run(0, move |database| database.execute_batch(insert));
            let opens = async { gather.send(()).unwrap() };
            tokio::join!(job, third, opens)
        };
        let (first, (second, third, ())) = tokio::join!(first, second);
        (commits, [first, second, third])
    }

    #[tokio::test]
    async fn an_error_that_is_not_the_disks_is_the_answer_to_one_job() {
        for error in [
            failed(rusqlite::ffi::SQLITE_ERROR),
            failed(rusqlite::ffi::SQLITE_CONSTRAINT),
            rusqlite::Error::ToSqlConversionFailure("too large".into()),
            rusqlite::Error::QueryReturnedNoRows,
        ] {
            let (commits, told) = group_with(error).await;
            assert_eq!(told, [Ok(()), Err(CommitError::Refused), Ok(())]);
            let count = "SELECT count(*) FROM numbers";
            let counted = commits.run(0, |rows| rows.query_row(count, [], |row| row.get(0)));
            assert_eq!(counted.await, Ok(2));
            assert_eq!(*commits.failure().borrow(), None);
        }
    }

    #[tokio::test]
    async fn an_error_of_the_disk_takes_the_group_with_it_and_ends_the_thread() {
        for code in [
            rusqlite::ffi::SQLITE_IOERR,
            rusqlite::ffi::SQLITE_CORRUPT,
            rusqlite::ffi::SQLITE_READONLY,
        ] {
            let (commits, told) = group_with(failed(code)).await;
            assert_eq!(told[1..], [Err(CommitError::Stopped); 2]);
            assert_eq!(commits.run(0, |_| Ok(())).await, Err(CommitError::Stopped));
            assert!(commits.failure().borrow().is_some());
        }
    }

    #[tokio::test]
    async fn a_panic_ends_the_thread_and_is_its_failure() {
        let commits = Commits::start("test", Connection::open_in_memory().unwrap()).unwrap();
        let panics = commits.run(0, |_| -> rusqlite::Result<()> { panic!("on purpose") });
        assert_eq!(panics.await, Err(CommitError::Stopped));
        let mut failure = commits.failure();
        let told = failure.wait_for(Option::is_some).await;
        assert_eq!(told.unwrap().as_deref(), Some("it panicked"));
        assert_eq!(commits.run(0, |_| Ok(())).await, Err(CommitError::Stopped));
    }
}
