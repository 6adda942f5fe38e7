//! Stores that keep a feed's messages after the process ends: the part that a file and a stream share
//! (`window.rs`), and the file.

#[cfg(feature = "file")]
pub mod commit;
#[cfg(feature = "file")]
pub(crate) mod journal;
#[cfg(feature = "file")]
mod tables;
pub(crate) mod window;

#[cfg(feature = "file")]
pub use journal::commits;
