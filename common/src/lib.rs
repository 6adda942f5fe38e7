//! What the five techniques share: the message model, the publish endpoint, the test harness.
//!
//! From the top: everything that was published is in one [`Feed`], an ordered and bounded log of
//! [`Message`]s. A reader owns no queue. It holds a [`Cursor`] and pulls a [`Page`] of what is
//! newer, now ([`Feed::read`]) or as soon as there is something ([`Feed::next`]). A page that
//! cannot continue where the cursor stopped says so in its [`Gap`].
//!
//! ```
//! # tokio_test(async {
//! use common::{After, Data, Draft, Feed, PageLimit, Retention, Topics};
//!
//! let feed = Feed::new(Retention::default());
//! let published = feed.publish("news".parse()?, Draft::new(Data::text("hello"))).await?;
//!
//! let topics: Topics = "news,weather".parse()?;
//! let page = feed.read(&topics, &After::Earliest, PageLimit::default()).await?;
//! assert_eq!(page.messages[0].id, published.id);
//! # Ok::<(), Box<dyn std::error::Error>>(()) });
//! # fn tokio_test(f: impl Future<Output = Result<(), Box<dyn std::error::Error>>>) {
//! #     tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(f).unwrap();
//! # }
//! ```
//!
//! A feed is in memory, or with the feature `file` in a file, or with the feature `nats` on a stream that
//! many servers share, by [`FeedSource`].
//!
//! Deliberately not here: an accept loop. Each member has its own, so that hyper stays in view and
//! a member can be read and copied alone.

mod browser;
#[cfg(feature = "file")]
pub mod commit;
mod cursor;
mod feed;
mod flush;
mod idempotency;
#[cfg(feature = "file")]
mod journal;
mod log;
mod message;
#[cfg(feature = "nats")]
mod nats;
mod page;
mod problem;
mod process;
mod publish;
mod query;
mod source;
mod stall;
mod wake;

#[cfg(feature = "harness")]
pub mod harness;

pub use browser::{Browsers, Origin};
pub use cursor::{After, BadCursor, Cursor, Epoch};
pub use feed::{Counts, Feed, FeedError};
pub use flush::{FlushNotes, FlushWatch};
pub use idempotency::{BadKey, IdempotencyKey};
pub use log::Retention;
pub use message::{
    BadName, BadTopics, Data, Draft, InvalidData, Message, MessageType, Published, Topic, Topics,
};
#[cfg(feature = "nats")]
pub use nats::NatsUrl;
pub use page::{Gap, Page, PageLimit, Reason};
pub use problem::{Problem, retry_after};
pub use process::{Drained, fit_descriptors, listen, positive_seconds, seconds, shutdown_signal};
pub use publish::{PublishLimits, is_json, publish, read_body};
pub use query::Query;
pub use source::FeedSource;
pub use stall::StallGuard;

/// The synchronization that `wake.rs` is built on; its model check puts loom's in this place.
mod sync {
    pub(crate) use std::sync::Mutex;
}
