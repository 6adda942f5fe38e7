//! The crate that a copier has, without anything of its own.

pub mod verify;
