//! Counts what became of the requests of each source, for `GET /sources`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

use super::source::{Secrets, Source};

/// Since the start.
#[derive(Default)]
pub(super) struct Tally([Counts; Source::ALL.len()]);

#[derive(Default)]
struct Counts {
    received: AtomicU64,
    refused: AtomicU64,
    unverified: AtomicU64,
}

#[derive(Serialize)]
struct SourceView {
    source: &'static str,
    path: &'static str,
    /// Whether there is a secret for it.
    enabled: bool,
    /// Answered 200, repeats too.
    received: u64,
    /// The signature holds, but the event was not stored.
    refused: u64,
    /// The signature does not hold, or the body was not read to its end.
    unverified: u64,
}

impl Tally {
    pub(super) fn received(&self, source: Source) {
        self.0[source as usize].received.fetch_add(1, Relaxed);
    }

    /// Returns the new count.
    pub(super) fn refused(&self, source: Source) -> u64 {
        self.0[source as usize].refused.fetch_add(1, Relaxed) + 1
    }

    pub(super) fn unverified(&self, source: Source) {
        self.0[source as usize].unverified.fetch_add(1, Relaxed);
    }

    /// The answer to `GET /sources`.
    pub(super) fn page(&self, secrets: &Secrets) -> String {
        let sources = Source::ALL.map(|source| {
            let counts = &self.0[source as usize];
            SourceView {
                source: source.name(),
                path: source.path(),
                enabled: secrets.accepts(source),
                received: counts.received.load(Relaxed),
                refused: counts.refused.load(Relaxed),
                unverified: counts.unverified.load(Relaxed),
            }
        });
        serde_json::to_string(&sources).expect("text and numbers are JSON")
    }
}
