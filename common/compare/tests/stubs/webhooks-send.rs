//! Where the files of one delivery attempt go: they need nothing of the crate.

pub mod schedule;
pub mod sender {
    pub mod deliver;
    pub mod guard;
    pub mod lane;
    pub mod tls;
}
pub mod verify;
