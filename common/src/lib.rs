//! What the five techniques share: the message model and what they share of HTTP.
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

pub mod feed;
pub mod http;
#[cfg(feature = "nats")]
mod nats;
pub mod server;
mod source;
#[cfg(any(feature = "file", feature = "nats"))]
pub mod store;

pub use feed::{
    After, BadCursor, BadInput, Counts, Cursor, Data, Draft, Epoch, Feed, FeedError, Gap,
    IdempotencyKey, Message, MessageType, Newest, Page, PageLimit, Pieces, Published, Reason,
    Retention, Topic, Topics, whole_number,
};
pub use http::{
    Activity, Browsers, Busy, Handover, Origin, Problem, PublishLimits, Query, StallGuard, Taken,
    Timeouts, encode_head, expect_no_body, fair_timeout, healthz, html, idempotency_key, is_json,
    publish, read_body, retry_after, serve_unbuffered, too_large, too_slow,
};
#[cfg(feature = "nats")]
pub use nats::NatsUrl;
pub use server::{
    Connections, Drained, FeedConfig, FeedParser, Gauge, Quota, ServerConfig, Spawner,
    accept_failed, address, exit_code, fit_descriptors, listen, log_to_stderr, metrics, peer_span,
    positive, positive_seconds, prepare, seconds, shutdown_signal,
};
pub use source::FeedSource;
