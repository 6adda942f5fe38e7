//! Where the receiver's files go: they need nothing of the crate.

extern crate self as common;

pub mod receiver {
    pub mod inbox;
    pub mod receive;
    pub mod source;
    pub mod work;
}
pub mod schedule;
pub mod store {
    pub mod commit;
    pub mod database;
}
pub mod verify;
