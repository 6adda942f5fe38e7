//! The five techniques side by side, over real sockets. They are shown on a page, measured, and tested: all
//! five must tell a client the same.
//!
//! Each server runs in its own process, so that its memory and processor time are its own. From
//! the top:
//!
//! - `main.rs` is the command: the page, `--measure`, or one server;
//! - [`Technique`] names the five; [`run`] runs one here, [`Process`] in its own process;
//! - `clients/` has a small [`Client`] for each: a stream of [`News`]. A [`Follower`] is a client that
//!   reconnects. [`Traffic`] counts their bytes and requests;
//! - [`live`] is the page, with a lane for each technique;
//! - [`measure`] takes the figures, [`Report`] holds them, `table.rs` and `chart.rs` show them.
//!
//! `tests/story` tests that all five tell a client the same.

mod chart;
mod clients;
mod follow;
pub mod live;
pub mod measure;
mod process;
mod readme;
mod report;
mod server;
mod socket;
mod table;
mod technique;
mod traffic;

pub use clients::{
    Client, Gap, Heard, Message, News, Publisher, Receiver, Subscription, subscribe,
};
pub use follow::{Follower, State};
pub use process::Process;
pub use readme::write_into;
pub use report::{Figure, Report, Row, Spread};
pub use server::{Knobs, Serve, run};
pub use table::markdown;
pub use technique::Technique;
pub use traffic::{Counts, Traffic};
