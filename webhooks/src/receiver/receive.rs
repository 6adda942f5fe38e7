//! One webhook: verify it, store it, and only then acknowledge it.
//!
//! This order is the pattern:
//! - verify before anything parses the body, because until then anybody may have sent it;
//! - store before the answer, because a sender that gets a 200 forgets the event;
//! - handle it after the answer (`work.rs`), because senders wait only a few seconds and then send again.
//!
//! ```no_run
//! # async fn route(headers: hyper::HeaderMap, body: bytes::Bytes) -> Result<hyper::StatusCode, Box<dyn std::error::Error>> {
//! use std::{path::Path, time::{Duration, SystemTime}};
//! use webhooks::receiver::{inbox::Inbox, receive::Receiver, source::{Secrets, Source}};
//!
//! let receiver = Receiver { // once, and shared by all requests
//!     secrets: Secrets {
//!         stripe: vec!["whsec_TEXT".parse()?],
//!         past: Duration::from_secs(300),
//!         ..Secrets::default()
//!     },
//!     inbox: Inbox::open(Path::new("inbox.sqlite"), Duration::from_secs(8))?,
//! };
//! let received = receiver.receive(Source::Stripe, &headers, body, SystemTime::now());
//! Ok(match received.await {
//!     Ok(_is_new) => hyper::StatusCode::OK,
//!     Err(error) => error.status(),
//! })
//! # }
//! ```

use std::time::SystemTime;

use bytes::Bytes;
use hyper::{HeaderMap, StatusCode};
use tracing::{debug, warn};

use super::{
    inbox::{Inbox, StoreError},
    source::{Rejection, Secrets, Source},
};
use crate::verify::{Refusal, unix_seconds};

/// What receiving needs.
#[derive(Debug)]
pub struct Receiver {
    /// What each source signs with.
    pub secrets: Secrets,
    /// Where events are stored.
    pub inbox: Inbox,
}

/// Why a webhook is not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum NotReceived {
    /// It failed verification, or its event cannot be read.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// It is genuine, but the inbox did not store it.
    #[error(transparent)]
    NotStored(#[from] StoreError),
}

impl Receiver {
    /// Receives one webhook that arrived at `now` with these fields and this whole body. Returns whether
    /// the event is new. Answer 200 to a repeat too: the sender only needs to know that it arrived.
    ///
    /// # Errors
    /// [`NotReceived::status`] is the answer.
    pub async fn receive(
        &self,
        source: Source,
        headers: &HeaderMap,
        body: Bytes,
        now: SystemTime,
    ) -> Result<bool, NotReceived> {
        let arrival = self
            .secrets
            .verify(source, headers, body, unix_seconds(now))?;
        let (id, secret) = (arrival.id.clone(), arrival.secret);
        match self.inbox.store(arrival, now).await {
            Ok(new) => {
                debug!(source = source.name(), id, secret, new, "stored");
                Ok(new)
            }
            Err(error) => {
                // GitHub does not retry by itself. With the id from the log an operator can redeliver it.
                warn!(source = source.name(), id, %error, "not stored");
                Err(error.into())
            }
        }
    }
}

impl NotReceived {
    /// The status to answer. 400 is only for mistakes whose reason tells an attacker nothing; other failed
    /// checks are all 401. 503 makes the sender try again.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotStored(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Rejected(
                Rejection::Unreadable(_)
                | Rejection::NotGenuine(Refusal::Malformed(_) | Refusal::Repeated(_)),
            ) => StatusCode::BAD_REQUEST,
            Self::Rejected(Rejection::NotGenuine(_)) => StatusCode::UNAUTHORIZED,
        }
    }
}
