//! Webhooks: the server calls the client.
//!
//! Who wants to know of news registers a URL, an *endpoint*, and the sender POSTs each message to it,
//! signed, until it answers 2xx or the schedule of retries is at its end. Two programs: `webhooks`
//! sends, `receiver` is called. From the top:
//!
//! - [`run`] is the sender (`sender.rs`), [`receiver::run`] the receiver; `app.rs` is what they have in
//!   common;
//! - `serve.rs` accepts connections and hands each to hyper;
//! - `route.rs` turns a request into an answer, for both;
//! - `endpoints.rs` knows who is to be called, each an `endpoint.rs`; `push.rs` is the loop of each, and
//!   `store.rs` what it must not forget; `pull.rs` is for who cannot be called;
//! - `places.rs` bounds how many attempts there are; `deliver.rs` is one: `guard.rs` says where it may go, `pool.rs` keeps connections and
//!   `tls.rs` proves whose they are, [`sign`] signs it, and [`schedule`] says when to try again;
//! - `receiver.rs` hands what comes to [`verify`]; `source.rs` reads what is genuine, [`inbox`] stores
//!   it before the answer, and [`work`] handles it after. Of what is not believed `cause.rs` finds out
//!   why, and `quota.rs` bounds how much of the log that takes.
//!
//! [`verify`] and [`sign`] stand alone: without the feature `programs` there is nothing else. How the two
//! programs stand between two databases, a shop's and a back end's, is `examples/payment`.

pub mod sign;
pub mod verify;

#[cfg(feature = "programs")]
mod app;
#[cfg(feature = "programs")]
mod cause;
#[cfg(feature = "programs")]
mod deliver;
#[cfg(feature = "programs")]
mod endpoint;
#[cfg(feature = "programs")]
mod endpoints;
#[cfg(feature = "programs")]
pub mod guard;
#[cfg(feature = "programs")]
pub mod inbox;
#[cfg(feature = "programs")]
mod listing;
#[cfg(feature = "programs")]
mod places;
#[cfg(feature = "programs")]
mod pool;
#[cfg(feature = "programs")]
mod pull;
#[cfg(feature = "programs")]
mod push;
#[cfg(feature = "programs")]
mod quota;
#[cfg(feature = "programs")]
pub mod receiver;
#[cfg(feature = "programs")]
mod route;
#[cfg(feature = "programs")]
pub mod schedule;
#[cfg(feature = "programs")]
mod sender;
#[cfg(feature = "programs")]
mod serve;
#[cfg(feature = "programs")]
mod source;
#[cfg(feature = "programs")]
mod store;
#[cfg(all(test, feature = "programs"))]
mod timers;
#[cfg(feature = "programs")]
mod tls;
#[cfg(feature = "programs")]
pub mod work;

#[cfg(feature = "programs")]
pub use app::Limits;
#[cfg(feature = "programs")]
use app::{App, Program};
#[cfg(feature = "programs")]
pub use sender::{Config, Lost, run};
