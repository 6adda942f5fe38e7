//! Why the feed did not do it.

use super::IdempotencyKey;

/// Why the feed did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// NATS does not answer. What was to be published may be there or not: the same key asks again.
    #[error("the feed's stream cannot be reached: {0}")]
    Away(String),
    /// The handle was closed, and there is nothing more to read.
    #[error("the feed is closed")]
    Closed,
    /// Everything that it may keep, or more, is owed to somebody: see [`Feed::pin`](super::Feed::pin).
    #[error("the feed has its {0} bytes and more, and somebody is owed them")]
    Full(usize),
    /// The idempotency key was used for another message.
    #[error("Idempotency-Key {0} was used for another message in this topic")]
    KeyReused(IdempotencyKey),
    /// The disk is full, or somebody else holds the file.
    #[error("the feed's file has no room")]
    NoRoom,
    /// A write or a sync has failed, or a stream has lost what it had acknowledged: nobody knows what is
    /// there, and nothing is taken any more.
    #[error("the feed has failed: nothing is published until a restart")]
    Stopped,
    /// The topic is new, there are as many as the feed keeps, and none of them is idle.
    #[error("there are {0} topics, none of them idle: no room for a new one")]
    TooManyTopics(usize),
    /// Older messages could not be read back.
    #[error("the feed's file cannot be read: {0}")]
    Unreadable(String),
}
