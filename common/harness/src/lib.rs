//! What the tests of all five members use: servers that must stop cleanly, clients that show every byte, and a
//! proxy that breaks the network on command.
//!
//! Two rules. **Nothing is hidden**: the clients follow no redirect, answer no ping and reopen no connection. An
//! incomplete end can be read, too. **Nothing is shared**: the readers here follow the standards and use no code
//! of the members, so the same mistake is not made on both sides.
//!
//! | to … | take |
//! | --- | --- |
//! | run a server on a free port and check that it drains | [`TestServer`] |
//! | run a built server, signal it, read its exit code (unix) | `Process` |
//! | read what a built server has counted (unix) | `Metered` |
//! | send a request, check status, headers and body | [`Client`], [`Reply`] |
//! | read an answer while it arrives | [`Streamed`] |
//! | compare literal bytes, half-close, reset | [`Wire`], [`RawResponse`] |
//! | play the server by hand | [`WireListener`] |
//! | read an event stream | [`EventReader`], [`Block`] |
//! | send and read websocket frames, also invalid ones | [`WsWire`], [`Frame`] |
//! | give a wall clock to code that takes one | [`wall_clock`] |
//! | put a bad network in between | [`FaultProxy`], [`Faults`], [`Fault`] |
//!
//! A test waits for an event, never for a duration. If the event does not come within [`PATIENCE`], the test
//! panics. The message says what it waited for and what had arrived.
//!
//! # What each technique must do under each fault
//!
//! In every case, other subscribers, publishing and `/healthz` are not affected. *Up* is towards the server. With
//! webhooks the proxy stands in front of the receiver, so the receiver is the server.
//!
//! - *gone*: the server ends that request, stream or session at once and frees its slot.
//! - *cut*: the server ends it after `--stall`, or by the timer for heads and bodies. It queues nothing.
//! - *again*: the client asks again with its old cursor. Only a whole answer moves the cursor.
//! - *resumes*: the client reconnects after its last whole message (`Last-Event-ID`, `after`). Nothing is lost or
//!   repeated.
//! - *retried*: another attempt with the same id. A receiver that has the event already drops it.
//!
//! | fault | short polling | long polling | SSE | websockets | webhooks |
//! | --- | --- | --- | --- | --- | --- |
//! | [`Pass`] | a page | a page, empty at the deadline | each event once, in order | each message once, in order | a 2xx ends the delivery |
//! | [`Pass`], a client's half-close | answered | answered; a wait goes on | answered; a stream goes on | answered; a session is *gone*, without a close frame | no answer: *retried* |
//! | [`ByteAtATime`] | the same page | the same page | the same events | the same messages | the signature holds |
//! | [`Delay`] | later | later; new messages are in the next page | later, in order | later, in order; a pong in time keeps the session | delivered within the timeout, else *retried* |
//! | [`Stall`] | *cut*; *again* | *cut*, but a wait is no stall; *again* | *cut*; *resumes* | *cut*, or closed because no pong came; *resumes* | times out: *retried*; other endpoints do not wait |
//! | [`Reset`] | *again* | *gone*; *again* | *gone*; *resumes* | *gone*; *resumes* | *retried* |
//! | [`HalfClose`], [`CutAfter`] down | an incomplete page is discarded: *again* | as short polling | the incomplete event is discarded (HTML §9.2.6): *resumes* | the incomplete frame is discarded: *resumes* | the answer is lost: *retried* |
//! | [`HalfClose`], [`CutAfter`] up | half a request publishes nothing | as short polling; a wait goes on | a stream goes on | half a frame is no message; *gone*; *resumes* | half a body is no delivery: *retried* |
//! | [`Blackhole`] down | the client's timeout: *again* | the client's timeout, which is longer than the wait: *again* | no heartbeat in time: *resumes* | no ping in time: *resumes*; no pong: the server closes | times out: *retried* |
//! | [`Blackhole`] up, or a close | *cut* | the wait ends by its deadline | the server notices when a write fails or stalls | no pong in time: the server closes | *cut* by the receiver: *retried* |
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
mod metered;
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
pub use metered::Metered;
#[cfg(unix)]
pub use nats::{NatsServers, free_ports};
#[cfg(unix)]
pub use process::Process;
pub use proxy::{Fault, FaultProxy, Faults};
pub use server::{Shutdown, TestServer};
pub use wire::{End, RawResponse, Wire, WireListener};

/// How long a test waits for an event. Long enough for a busy machine. Only a failing test waits this long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One wait: for what, and until when.
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

    /// The result of `event`, or `None` at the deadline.
    async fn for_event<T>(&self, event: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.deadline, event).await.ok()
    }

    /// The result of `event`. Panics at the deadline. For events of which nothing arrives in advance.
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
