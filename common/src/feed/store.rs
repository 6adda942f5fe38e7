//! What a feed needs of a place where messages outlive the process.

use std::{any::Any, pin::Pin};

use super::{
    error::FeedError,
    message::{Draft, Published, Topic},
    page::Page,
};

pub use super::{
    keys::{Fingerprint, KEY_LIFE, MAX_KEYS, Once, fingerprint},
    live::LiveLog,
    view::PartialPage,
};

/// A file, or a stream that many processes share. It appends to the feed's [`Log`](super::log::Log)
/// what it has stored, and pages old messages out of it. [`Any`] lets a program ask for the store
/// that it gave: see [`Feed::store`](super::Feed::store).
pub trait Store: Any + Send + Sync {
    /// Answers once the message is stored and in the log that readers see.
    fn publish(&self, topic: Topic, draft: Draft, once: Option<Once>)
    -> StoreFuture<'_, Published>;

    /// Reads what memory does not have of a page. It also decides about a cursor beyond the head:
    /// other processes may have given it out before the message came here. `None`: the log has
    /// changed meanwhile, so it has to be read again.
    fn complete(&self, partial: PartialPage) -> StoreFuture<'_, Option<Page>>;

    /// Whether it takes messages, as far as is known.
    ///
    /// # Errors
    /// [`FeedError::Stopped`].
    fn health(&self) -> Result<(), FeedError>;
}

/// Boxed, because thousands wait for messages and few of them for the store.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, FeedError>> + Send + 'a>>;
