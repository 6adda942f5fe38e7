//! Where `session.rs` and its like go: they need nothing of the crate.

pub mod close;
pub mod frames;
pub mod handshake;
pub mod session;
pub mod socket;
