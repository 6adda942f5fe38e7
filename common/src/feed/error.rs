//! Why the feed refused.

use super::message::IdempotencyKey;

/// Why the feed refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// NATS does not answer. The message may or may not be stored: publish again with the same key.
    #[error("the feed's stream cannot be reached: {0}")]
    Away(String),
    /// The handle was closed, and everything has been read.
    #[error("the feed is closed")]
    Closed,
    /// The feed is at its limit of bytes, and every message is [pinned](super::Feed::pin).
    #[error(
        "the feed is at its limit of {0} bytes, and every message is still owed to an endpoint"
    )]
    Full(usize),
    /// The idempotency key was used for another message.
    #[error("Idempotency-Key {:.100} was used for another message in this topic", .0.as_str())]
    KeyReused(IdempotencyKey),
    /// The disk is full, or another process holds the database. Nothing was written.
    #[error("the feed's file has no room")]
    NoRoom,
    /// The database refuses this message alone.
    #[error("the feed's file refuses it")]
    Refused,
    /// A write or a sync has failed, or a stream has lost what it had acknowledged. What is stored is
    /// unknown, so the feed takes nothing until it is opened again.
    #[error("the feed has failed: nothing is published until a restart")]
    Stopped,
    /// The topic is new, the feed has its maximum of topics, and no topic is idle.
    #[error("the feed keeps at most {0} topics, and none of them is idle")]
    TooManyTopics(usize),
    /// Older messages could not be read back.
    #[error("the feed's file cannot be read: {0}")]
    Unreadable(String),
}
