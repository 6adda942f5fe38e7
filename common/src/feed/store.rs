//! The trait of a place where messages outlive the process.

use std::{any::Any, pin::Pin};

use super::{error::FeedError, message::Published, page::Page};

pub use super::{
    keys::{Fingerprint, KEY_LIFE, MAX_KEYS, Once, Publish, fingerprint},
    live::LiveLog,
    view::PartialPage,
};

/// A file, or a stream that many processes share. A store appends each stored message to the feed's
/// [`Log`](super::log::Log) and pages old messages out of it. [`Any`] lets a program get its own store
/// type back from [`Feed::store`](super::Feed::store).
pub trait Store: Any + Send + Sync {
    /// Resolves when the message is stored and in the log that readers see.
    fn publish(&self, publish: Publish) -> StoreFuture<'_, Published>;

    /// Adds the messages of a page that are not in memory. Also decides about a cursor beyond the head:
    /// another process may have given it out before the message came here. `None` if the log has changed
    /// meanwhile: read it again.
    fn complete(&self, partial: PartialPage) -> StoreFuture<'_, Option<Page>>;

    /// Whether it accepts messages, as far as this process knows.
    ///
    /// # Errors
    /// [`FeedError::Stopped`].
    fn health(&self) -> Result<(), FeedError>;
}

/// Boxed, so that readers that do not wait for the store reserve no memory for its future.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, FeedError>> + Send + 'a>>;
