//! One webhook: verify it, store it, and only then acknowledge it.
//!
//! This order is the pattern:
//! - verify before anything parses the body, because until then anybody may have sent it;
//! - store before the answer, because a sender that gets a 200 forgets the event;
//! - handle it after the answer (`work.rs`), because senders wait only a few seconds and then send again.
//!
//! ```no_run
//! # async fn route(headers: hyper::HeaderMap, body: bytes::Bytes) -> Result<hyper::StatusCode, Box<dyn std::error::Error>> {
//! use std::{path::Path, sync::Arc, time::{Duration, SystemTime}};
//! use webhooks::receiver::{inbox::Inbox, receive::Receiver, source::{Secrets, Source}};
//!
//! let receiver = Receiver { // once, and shared by all requests
//!     secrets: Arc::new(Secrets {
//!         stripe: vec!["whsec_TEXT".parse()?],
//!         ..Secrets::default()
//!     }),
//!     inbox: Inbox::open(Path::new("inbox.sqlite"), Duration::from_secs(8))?,
//! };
//! let received = receiver.receive(Source::Stripe, &headers, body, SystemTime::now());
//! Ok(match received.await {
//!     Ok(_stored) => hyper::StatusCode::OK, // to a repeat too
//!     Err(error) => error.status(),
//! })
//! # }
//! ```

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use hyper::HeaderMap;
use tokio::{sync::Semaphore, task::spawn_blocking};
use tracing::{debug, info, warn};

use super::{
    inbox::{Arrival, Inbox, Stored},
    source::{Rejection, Secrets, Source},
};
use crate::verify::{Verified, unix_seconds};

/// A larger body is verified outside the runtime's threads, because hashing it would hold up other requests:
/// 25 MiB take 20 ms and more.
const ON_THE_SPOT: usize = 64 << 10;
/// One at a time, so that forged ones leave the processor to the runtime's threads.
static LARGE_BODIES: Semaphore = Semaphore::const_new(1);

/// What receiving needs.
#[derive(Debug)]
pub struct Receiver {
    /// What each source signs with.
    pub secrets: Arc<Secrets>,
    /// Where events are stored.
    pub inbox: Inbox,
}

impl Receiver {
    /// Receives one webhook that arrived at `now` with these fields and this whole body. Answer 200 to a
    /// repeat too: the sender only needs to know that it arrived.
    ///
    /// # Errors
    /// [`Rejection::status`] is the answer.
    pub async fn receive(
        &self,
        source: Source,
        headers: &HeaderMap,
        body: Bytes,
        now: SystemTime,
    ) -> Result<Stored, Rejection> {
        let arrival = self.verify(source, headers, body, now).await?;
        let (source, id, secret) = (source.name(), arrival.id.clone(), arrival.secret);
        let stored = self.inbox.store(arrival, now).await.inspect_err(|error| {
            // GitHub does not retry by itself. With the id from the log an operator can redeliver it.
            warn!(source, id, %error, "not stored");
        })?;
        match stored {
            Stored::Suspect => {
                warn!(
                    source,
                    id, "stored as suspect: its id or its content came before"
                );
            }
            Stored::Revived => info!(source, id, "redelivered: a dead event is attempted again"),
            Stored::New | Stored::Repeat => debug!(source, id, secret, ?stored, "received"),
        }
        Ok(stored)
    }

    async fn verify(
        &self,
        source: Source,
        headers: &HeaderMap,
        body: Bytes,
        now: SystemTime,
    ) -> Result<Verified<Arrival>, Rejection> {
        let now = unix_seconds(now);
        if body.len() <= ON_THE_SPOT {
            return self.secrets.verify(source, headers, body, now);
        }
        let _turn = LARGE_BODIES.acquire().await;
        let (secrets, headers) = (self.secrets.clone(), headers.clone());
        spawn_blocking(move || secrets.verify(source, &headers, body, now))
            .await
            .expect("no header and no body makes it panic")
    }
}
