//! Counts what became of the requests of each source, for `GET /sources`.

use std::sync::atomic::AtomicU64;

use serde::Serialize;

use super::source::{Secrets, Source};

/// One source, and its requests since the start.
#[derive(Serialize)]
pub(super) struct Tally {
    source: &'static str,
    path: &'static str,
    /// Whether there is a secret for it.
    enabled: bool,
    /// Answered 200, repeats too.
    pub(super) received: AtomicU64,
    /// The signature holds, but the event was not stored.
    pub(super) refused: AtomicU64,
    /// The signature does not hold, or the body was not read to its end.
    pub(super) unverified: AtomicU64,
}

impl Tally {
    pub(super) fn new(source: Source, secrets: &Secrets) -> Self {
        Self {
            source: source.name(),
            path: source.path(),
            enabled: secrets.accepts(source),
            received: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            unverified: AtomicU64::new(0),
        }
    }
}
