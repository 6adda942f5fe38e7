//! Webhooks: the server calls the client.
//!
//! A client registers a URL, an *endpoint*. The sender POSTs each message to it, signed, and retries
//! until the endpoint answers 2xx or the schedule ends. There are two programs: `webhooks` sends, and
//! `receiver` is the back end that is called.
//!
//! - [`verify`]: is a request genuine? Standard Webhooks, Stripe, GitHub and Telegram; pure functions.
//! - [`schedule`]: when to try again; pure.
//! - [`receiver`]: the called program. `receive.rs` takes one webhook, `source.rs` reads it, `inbox.rs`
//!   stores it before the answer, `work.rs` handles it afterwards.
//! - [`sender`]: the calling program. `endpoints.rs` lists whom to call, `push.rs` is the loop of one
//!   endpoint, `deliver.rs` is one attempt.
//! - `serve.rs`: the accept loop and the connections of both programs.
//!
//! A module uses only modules above it in this list, and `serve.rs`. The two programs never name each
//! other. Without the feature `programs` only the two pure modules remain. `examples/payment` puts both
//! programs between the databases of a shop and of a back end.

pub mod schedule;
pub mod verify;

#[cfg(feature = "programs")]
pub mod receiver;
#[cfg(feature = "programs")]
pub mod sender;
#[cfg(feature = "programs")]
mod serve;

#[cfg(feature = "programs")]
pub use sender::{Config, Lost, run};
