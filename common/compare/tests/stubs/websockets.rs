//! Where `session.rs` and its like go: they need nothing of the crate.

pub mod boundary;
pub mod close;
pub mod handshake;
pub mod session;
pub mod socket;
