//! The five techniques side by side, over real sockets: watched live, measured, and held to one
//! story.
//!
//! Each server runs in a process of its own, so that what the process uses is what that server
//! uses. From the top:
//!
//! - `main.rs` is the command: the page, `--measure`, `--check`, or one server;
//! - [`Technique`] names the five and the rule of thumb that is told of each;
//! - [`Server`] is one of them in this process, [`Process`] in its own;
//! - `clients/` has a small [`Client`] for each, all with the same two verbs; [`Follower`] is one
//!   that goes on whatever breaks; [`Traffic`] counts what they put on the wire;
//! - [`live`] is the page with a lane for each;
//! - [`measure`] takes all figures, [`Report`] holds them, `table.rs`, `chart.rs` and `crossing.rs` show them, and
//!   [`check`] holds what a README says against new ones.
//!
//! `tests/story` proves that all five tell a client the same.

mod chart;
pub mod check;
mod clients;
mod crossing;
mod follow;
pub mod live;
pub mod measure;
mod process;
mod progress;
mod readme;
mod report;
mod server;
mod table;
mod technique;
mod traffic;

pub use clients::{Client, Gap, Heard, Message, Publisher, Receiver, Subscription};
pub use follow::{Follower, State};
pub use process::Process;
pub use readme::write_into;
pub use report::{Figure, Report, Row, Spread};
pub use server::{Knobs, Serve, Server};
pub use table::markdown;
pub use technique::{Rating, Technique};
pub use traffic::{Counts, Traffic};
