//! The crate that a copier has, without any other item.

pub mod verify;
