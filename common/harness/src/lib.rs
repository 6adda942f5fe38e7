//! What the tests of all five members stand on: servers that must stop cleanly, clients that show
//! every byte, and a proxy that breaks the network on command.
//!
//! Two rules. **Nothing is hidden**: no redirect is followed, no ping answered, no connection
//! silently reopened, no broken tail dropped without a way to ask for it. **Nothing is shared**:
//! the readers here are written from the standards, not from the members' code, so that a mistake
//! on one side cannot excuse itself on the other.
//!
//! | to … | take |
//! | --- | --- |
//! | run a server on a free port and prove that it drains | [`TestServer`] |
//! | run a built server, signal it, see its exit code (unix) | `Process` |
//! | send a request, look at status, headers and body | [`Client`], [`Reply`] |
//! | read an answer as it comes | [`Streamed`] |
//! | compare literal bytes, half-close, reset | [`Wire`], [`RawResponse`] |
//! | play the server by hand | [`WireListener`] |
//! | read an event stream | [`EventReader`], [`Block`] |
//! | speak websocket frames, also wrong ones | [`WsWire`], [`Frame`] |
//! | give a wall clock to code that takes one | [`wall_clock`] |
//! | put a bad network in between | [`FaultProxy`], [`Faults`], [`Fault`] |
//!
//! Every wait ends by [`PATIENCE`]: a test waits for an event, never for a duration, and one whose
//! event does not come fails with a panic that says what was waited for and what had arrived.
//!
//! # What each technique must do under each fault
//!
//! Under all of them other subscribers, publishing and `/healthz` go on as if nothing had happened.
//! *Up* is towards the server; for webhooks that is the receiver, the proxy standing before it.
//!
//! - *gone*: the server ends that request, stream or session at once and gives its place back.
//! - *cut*: the server ends it after `--stall`, or by the timer for heads and bodies; it queues
//!   nothing.
//! - *again*: the client asks again after its old cursor, which only a whole answer moves.
//! - *resumes*: the client reconnects after its last whole message (`Last-Event-ID`, `after`), so
//!   that nothing is lost and nothing repeated.
//! - *retried*: another attempt with the same id; a receiver that has had it drops it.
//!
//! | fault | short polling | long polling | SSE | websockets | webhooks |
//! | --- | --- | --- | --- | --- | --- |
//! | [`Pass`] | a page | a page, empty at the deadline | each event once, in order | each message once, in order | a 2xx ends the delivery |
//! | [`Pass`], a client's half-close | answered | answered; a wait goes on | answered; a stream goes on | answered; a session is *gone*, without a close frame | no answer: *retried* |
//! | [`ByteAtATime`] | the same page | the same page | the same events | the same messages | the signature holds |
//! | [`Delay`] | later | later; what came meanwhile is in the next page | later, in order | later, in order; a pong in time keeps the session | within the timeout delivered, beyond it *retried* |
//! | [`Stall`] | *cut*; *again* | *cut*, but a wait is no stall; *again* | *cut*; *resumes* | *cut*, or closed for want of a pong; *resumes* | times out: *retried*; other endpoints do not wait |
//! | [`Reset`] | *again* | *gone*; *again* | *gone*; *resumes* | *gone*; *resumes* | *retried* |
//! | [`HalfClose`], [`CutAfter`] down | a page short of its length is void: *again* | as short polling | the incomplete event is discarded (HTML §9.2.6): *resumes* | the incomplete frame is discarded: *resumes* | the answer is lost: *retried* |
//! | [`HalfClose`], [`CutAfter`] up | half a request publishes nothing | as short polling; a wait goes on | a stream goes on | half a frame is no message; *gone*; *resumes* | half a body is no delivery: *retried* |
//! | [`Blackhole`] down | the client's timeout: *again* | the client's timeout, above the wait's: *again* | no heartbeat in time: *resumes* | no ping in time: *resumes*; no pong: the server closes | times out: *retried* |
//! | [`Blackhole`] up, or a close | *cut* | the wait ends by its deadline | leaving is not seen; a write that fails or stalls tells | no pong in time: the server closes | *cut* by the receiver: *retried* |
//!
//! [`Pass`]: Fault::Pass
//! [`ByteAtATime`]: Fault::ByteAtATime
//! [`Delay`]: Fault::Delay
//! [`Stall`]: Fault::Stall
//! [`Reset`]: Fault::Reset
//! [`HalfClose`]: Fault::HalfClose
//! [`CutAfter`]: Fault::CutAfter
//! [`Blackhole`]: Fault::Blackhole

mod body;
mod client;
mod clock;
pub mod contract;
mod events;
mod frames;
#[cfg(unix)]
mod nats;
#[cfg(unix)]
mod process;
mod proxy;
mod server;
mod wire;

use std::{future::Future, time::Duration};

use tokio::time::{Instant, timeout_at};

pub use client::{Client, Reply, Request, Streamed};
pub use clock::{START, start_clock, wall_clock};
pub use events::{Block, Ending, EventReader};
pub use frames::{Frame, WsWire, handshake};
#[cfg(unix)]
pub use nats::{NatsServers, free_ports};
#[cfg(unix)]
pub use process::Process;
pub use proxy::{Fault, FaultProxy, Faults};
pub use server::{Shutdown, TestServer};
pub use wire::{End, RawResponse, Wire, WireListener};

/// How long a test waits for anything. Long enough for a busy machine; only a failing test ever
/// spends it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One wait: what for, and until when.
#[derive(Debug)]
struct Wait {
    what: String,
    deadline: Instant,
}

impl Wait {
    fn until(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            deadline: Instant::now() + PATIENCE,
        }
    }

    /// What `event` gives, or `None` when patience is at its end.
    async fn for_event<T>(&self, event: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.deadline, event).await.ok()
    }

    /// Like [`Wait::for_event`], where nothing can have arrived before the event itself.
    async fn patiently<T>(&self, event: impl Future<Output = T>) -> T {
        match self.for_event(event).await {
            Some(outcome) => outcome,
            None => self.ran_out(b""),
        }
    }

    #[track_caller]
    fn ran_out(&self, arrived: &[u8]) -> ! {
        panic!(
            "waited {PATIENCE:?} for {}; what had arrived: \"{}\"",
            self.what,
            arrived.escape_ascii()
        )
    }
}

/// Where `pattern` ends in `bytes`, at its first occurrence.
fn end_of(pattern: &[u8], bytes: &[u8]) -> Option<usize> {
    assert!(!pattern.is_empty(), "an empty pattern is everywhere");
    bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
        .map(|at| at + pattern.len())
}
