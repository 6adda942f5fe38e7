//! Copy sets: the files of a technique that go into another project.
//!
//! They are read from the `## Copy set` sections of the READMEs, so the command copies and the tests compile the list
//! that a reader sees. This package has no dependencies, so it is built in a second.
//!
//! - `main.rs` is the command;
//! - [`CopySet`] is one section of a README;
//! - [`Chosen`] is the sets that go into one crate: their files, dependencies and modules.

mod chosen;
mod set;

pub use chosen::Chosen;
pub use set::{CopyFile, CopySet, lines};

/// The sources as they were when this was built.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
