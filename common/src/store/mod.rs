//! Feeds that outlive the process: a SQLite file and the thread that writes it.

pub mod commit;
pub(crate) mod journal;
