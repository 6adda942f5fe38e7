//! Counts what became of the requests of each source, for `GET /sources`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

use super::source::{Secrets, Source};

/// Since the start.
#[derive(Default)]
pub(super) struct Tally([Counts; Source::ALL.len()]);

#[derive(Default, Serialize)]
struct Counts {
    /// Answered 200, repeats too.
    received: AtomicU64,
    /// The signature holds, but the event was not stored.
    refused: AtomicU64,
    /// The signature does not hold, or the body was not read to its end.
    unverified: AtomicU64,
}

#[derive(Serialize)]
struct SourceView<'t> {
    source: &'static str,
    path: &'static str,
    /// Whether there is a secret for it.
    enabled: bool,
    #[serde(flatten)]
    counts: &'t Counts,
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
        let sources = Source::ALL.map(|source| SourceView {
            source: source.name(),
            path: source.path(),
            enabled: secrets.accepts(source),
            counts: &self.0[source as usize],
        });
        serde_json::to_string(&sources).expect("text and numbers are JSON")
    }
}
