//! Places where a feed's messages outlive the process: what a file and a stream have in common, and
//! the file.

#[cfg(feature = "file")]
pub mod commit;
#[cfg(feature = "file")]
pub(crate) mod journal;
#[cfg(feature = "file")]
mod tables;
pub(crate) mod window;

#[cfg(feature = "file")]
pub use journal::commits;
