//! Webhooks: the server calls the client.
//!
//! A client registers a URL, its *endpoint*. The sender signs each message, POSTs it to the endpoint, and
//! retries until the answer is 2xx or the schedule ends. There are two programs: `webhooks` is the sender,
//! and `receiver` is the back end that it calls.
//!
//! - [`verify`]: is a request genuine? Standard Webhooks, Stripe, GitHub and Telegram; pure functions.
//! - [`schedule`]: when to try again; pure.
//! - [`receiver`]: the program that is called. `receive.rs` takes one webhook, `source.rs` reads it,
//!   `inbox.rs` stores it before the answer, `work.rs` handles it after the answer.
//! - [`sender`]: the program that calls. `endpoints.rs` is the list of endpoints, `push.rs` the loop of one
//!   endpoint, `ledger.rs` its bookkeeping, `deliver.rs` one attempt.
//! - `serve.rs`: the accept loop and the connections of both programs.
//!
//! A module uses only modules above it in this list, and `serve.rs`. The two programs do not depend on each
//! other.
//! Without the feature `programs` there are only the two pure modules. `examples/payment` runs both programs
//! between a shop's database and a back end's.

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
