//! Opening a SQLite database: claimed by this process alone ([`Claim`]), of the expected kind ([`Kind`]), and
//! set up for group commit ([`configure`]).

use std::{
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, Transaction};
use tracing::warn;

/// How long to wait for another process that holds the database, such as an administrator's shell.
const BUSY: Duration = Duration::from_secs(2);

/// Keeps other processes out of a database while it exists. Drop it after the database is closed.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    lock: File,
}

impl Claim {
    /// Takes the database at `path`, and creates an empty file if the path does not exist. On Unix only its owner can
    /// read that file, and SQLite gives the write-ahead log the same mode.
    ///
    /// The lock is on a file beside the database, because a lock on the database itself would conflict with
    /// SQLite's own locks. Links are followed first. A second hard link is refused, because it would have another
    /// lock and another write-ahead log. Systems other than Unix do not report hard links.
    ///
    /// # Errors
    /// If another process has the database, if it has a second name, or if a file cannot be created.
    pub fn new(path: &Path) -> io::Result<Self> {
        let path = resolve(path)?;
        refuse_other(&path)?;
        #[cfg(unix)]
        refuse_names(&path)?;
        let mut name = path.clone().into_os_string();
        name.push("-lock");
        let beside = PathBuf::from(name);
        if let Ok(found) = beside.symlink_metadata()
            && !found.is_file()
        {
            let error = format!("{} is a link, or not a regular file", beside.display());
            return Err(io::Error::other(error));
        }
        let lock = create(&beside)?;
        lock.try_lock()
            .map_err(|_| io::Error::other("another process has it open"))?;
        Ok(Self { path, lock })
    }

    /// The path without links. Open this one.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Closing is not enough: a child process that is just starting has a copy of the descriptor until its `exec`.
        if let Err(error) = self.lock.unlock() {
            warn!(%error, "a database's lock stays until this process ends");
        }
    }
}

/// Follows links, even to a missing file, which is created. An existing file is not opened, because closing it would
/// release SQLite's locks on it in this process.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    if !path.exists() {
        create(path)?;
    }
    path.canonicalize()
}

/// Opens a file for writing, and keeps its contents. A new file is readable only by its owner.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// A folder is no database, and opening a pipe would wait for its other end.
fn refuse_other(path: &Path) -> io::Result<()> {
    match path.metadata()?.is_file() {
        true => Ok(()),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

#[cfg(unix)]
fn refuse_names(path: &Path) -> io::Result<()> {
    match std::os::unix::fs::MetadataExt::nlink(&path.metadata()?) {
        0 | 1 => Ok(()),
        names => Err(io::Error::other(format!(
            "it has {names} hard links, and must have one"
        ))),
    }
}

/// What a database's header says it is.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// What it is, with its article.
    pub name: &'static str,
    /// SQLite's `application_id`.
    pub application: i32,
    /// The form of the tables, SQLite's `user_version`. It goes up when they change.
    pub version: i32,
}

/// Why a database is not of a kind.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// It may be another program's, which must not be written to.
    #[error("it is a database, but not {0}")]
    Foreign(&'static str),
    /// It was written by another version of this program.
    #[error("it has version {0}, but this program needs version {1}")]
    Version(i32, i32),
    /// It cannot be read.
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
}

impl Kind {
    /// Whether the database has no tables yet.
    ///
    /// # Errors
    /// If it has, and is not of this kind.
    pub fn is_new(&self, database: &Connection) -> Result<bool, Unfit> {
        let count = "SELECT count(*) FROM sqlite_schema";
        let tables: u32 = database.query_row(count, [], |row| row.get(0))?;
        let application = pragma(database, "application_id")?;
        let version = pragma(database, "user_version")?;
        match (application, version, tables) {
            (0, 0, 0) => Ok(true),
            (id, ..) if id != self.application => Err(Unfit::Foreign(self.name)),
            (_, version, _) if version != self.version => {
                Err(Unfit::Version(version, self.version))
            }
            _ => Ok(false),
        }
    }

    /// Makes the tables of a new database, and says in its header what it is.
    ///
    /// # Errors
    /// The database's.
    pub fn create(&self, transaction: &Transaction<'_>, schema: &str) -> rusqlite::Result<()> {
        transaction.pragma_update(None, "application_id", self.application)?;
        transaction.pragma_update(None, "user_version", self.version)?;
        transaction.execute_batch(schema)
    }
}

fn pragma(database: &Connection, name: &str) -> rusqlite::Result<i32> {
    database.pragma_query_value(None, name, |row| row.get(0))
}

/// Sets up a connection for [`Commits`](super::commit::Commits).
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As if a child process was starting.
    #[test]
    fn a_copy_of_the_descriptor_does_not_keep_the_claim() {
        let path = std::env::temp_dir().join(format!("claim-{}.sqlite", std::process::id()));
        let claim = Claim::new(&path).unwrap();
        let copy = claim.lock.try_clone().unwrap();
        Claim::new(&path).unwrap_err();
        drop(claim);
        drop(Claim::new(&path).unwrap());
        drop(copy);
        std::fs::remove_file(path.with_extension("sqlite-lock")).unwrap();
        std::fs::remove_file(path).unwrap();
    }
}
