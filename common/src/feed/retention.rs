//! How much a feed keeps.

use std::time::Duration;

/// What a feed keeps.
#[derive(Debug, Clone)]
pub struct Retention {
    /// Messages per topic, at least one. Default 1,000.
    pub messages: usize,
    /// Bytes per topic; the newest message stays whatever its size. Default 8 MiB.
    pub topic_bytes: usize,
    /// Bytes of all topics together. The oldest messages are dropped first. Default 256 MiB.
    pub total_bytes: usize,
    /// How many topics the feed has at most. A publish to one more reclaims idle topics, or is refused if
    /// none is idle. Default 10,000.
    pub topics: usize,
    /// A topic without a publish for this long is idle. Its messages are dropped when a new topic needs
    /// its place. Default one hour.
    pub idle: Duration,
    /// Bytes of the newest messages that a feed with a store also keeps in memory. The older ones
    /// are read from the store. Default 16 MiB.
    pub in_memory: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            messages: 1_000,
            topic_bytes: 8 << 20,
            total_bytes: 256 << 20,
            topics: 10_000,
            idle: Duration::from_secs(3_600),
            in_memory: 16 << 20,
        }
    }
}
