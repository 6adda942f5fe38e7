//! Where the feed goes: it needs nothing of the crate.

pub mod feed;
