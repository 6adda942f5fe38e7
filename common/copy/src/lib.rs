//! Copy sets: the files of a technique that go into another project.
//!
//! They are read from the `## Copy set` sections of the READMEs of the packages, and of the folders below `src`. So a
//! reader sees the list that the command copies and that the tests compile. This package has no dependencies: it is
//! built in a second.
//!
//! - `main.rs` is the command;
//! - [`CopySet`] is one section of a README;
//! - [`Chosen`] are the sets that go into one crate: their files, dependencies and modules.

mod chosen;
mod set;

pub use chosen::Chosen;
pub use set::{CopyFile, CopySet, lines};

/// The sources as they were when this was built.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
