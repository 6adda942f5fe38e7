//! From the stream to the log: each process has one consumer that reads the stream.
//!
//! While the process keeps up, the log trims itself by the same rules as the stream, so it knows what was
//! dropped. If the process falls behind, the stream may drop messages before they are read. Then the
//! sequence jumps, and a jump does not say which topics lost messages.
//!
//! But the stream drops a message for only two reasons: its topic is full, or the stream's first message
//! has moved past it. So after a jump a new log is filled from the whole stream. Each full topic is marked
//! as trimmed, and the floor is raised to the stream's first message. The new log replaces the old one when
//! it is complete.

use std::{convert::Infallible, fmt::Display, sync::Arc, time::Duration};

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, Consumer, DeliverPolicy, pull},
    stream::{Info, Stream},
};
use futures_util::{StreamExt, TryStreamExt};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::{error, info, warn};

use crate::{
    feed::{Cursor, Message, Retention, log::Log, store::LiveLog},
    store::instant_of,
};

use super::{
    record::Record,
    shape::{BadStream, RENEWED, epoch_of},
};

/// How long NATS may take for one request. After that it counts as unreachable.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How long a new leader of the stream may be behind the other servers. During that time an unknown cursor
/// is not yet reported as `ahead`.
pub(super) const SETTLE: Duration = Duration::from_secs(3);
/// Messages per request.
const BATCH: usize = 500;
/// A consumer that misses two of these counts as gone.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// The server removes a consumer that was not read for this long, so a killed process leaves nothing behind.
const INACTIVE: Duration = Duration::from_secs(30);
/// The pause between two attempts to read on.
const RETRY: Duration = Duration::from_millis(500);

const LOST: &str = "messages were lost on the way";

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the stream dropped messages before this server read them")]
    Jump,
    #[error("{0}")]
    Nats(#[from] BadStream),
    #[error("reconnected")]
    Reconnected,
    /// Perhaps only for a moment, because a new leader may be behind.
    #[error("the stream ends at {0}, but had more messages before")]
    WentBack(u64),
}

fn broken(error: impl Display) -> Broken {
    Broken::Nats(error.to_string().into())
}

/// Reads the stream into the log.
pub(super) struct Follower {
    pub(super) stream: Stream,
    pub(super) log: Arc<LiveLog>,
    pub(super) retention: Retention,
    /// The log's head. Only the follower moves it.
    pub(super) shown: watch::Sender<Cursor>,
    /// Changes whenever the client has connected again.
    pub(super) connections: watch::Receiver<()>,
}

impl Follower {
    /// Reads until the stream has lost acknowledged messages. Returning drops `shown`, which stops the feed.
    pub(super) async fn run(mut self, mut tail: Tail) {
        loop {
            let Err(why) = self.follow(tail).await;
            warn!("the feed's stream: {why}");
            let jumped = matches!(why, Broken::Jump);
            let Some(resumed) = self.resume(jumped).await else {
                return;
            };
            tail = resumed;
            info!("the feed's stream: reading on after {}", self.head());
        }
    }

    /// Tries until it succeeds. `None` if the stream stays behind the log for longer than [`SETTLE`]: then it
    /// has lost acknowledged messages.
    async fn resume(&mut self, jumped: bool) -> Option<Tail> {
        let (mut behind_since, mut last_warning) = (None, String::new());
        loop {
            let error = match self.try_resume(jumped).await {
                Ok(tail) => return Some(tail),
                Err(error) => error,
            };
            if !matches!(error, Broken::WentBack(_)) {
                behind_since = None;
            } else if behind_since.get_or_insert_with(Instant::now).elapsed() > SETTLE {
                error!(
                    "the feed's stream: {error}, up to {}: nothing is published until a restart, with --new-epoch",
                    self.head()
                );
                return None;
            }
            // Once per cause, not once per attempt.
            let warning = error.to_string();
            if warning != last_warning {
                warn!("the feed's stream: {warning}");
                last_warning = warning;
            }
            sleep(RETRY).await;
        }
    }

    /// Ends only with an error.
    async fn follow(&mut self, mut tail: Tail) -> Result<Infallible, Broken> {
        self.connections.mark_unchanged();
        let mut messages = tail.messages().await?;
        loop {
            let next = tokio::select! {
                next = messages.next() => next,
                // The new server may be another one, with another history: check before reading on.
                _ = self.connections.changed() => return Err(Broken::Reconnected),
            };
            let message = next.ok_or_else(|| broken("it ended"))?.map_err(broken)?;
            let (seq, head) = (tail.count(&message)?, self.head());
            match seq.checked_sub(head.seq) {
                // The log has this message already: a server that was behind started the consumer too early.
                None | Some(0) => {}
                Some(1) => self.show(Cursor { seq, ..head }, &message),
                Some(_) => return Err(Broken::Jump),
            }
        }
    }

    fn show(&self, id: Cursor, message: &jetstream::Message) {
        if let Some((message, published)) = decode(id, message) {
            self.log.push(message, published);
        }
        self.log.change(|log| log.raise_head(id.seq));
        self.shown.send_replace(id);
    }

    fn head(&self) -> Cursor {
        *self.shown.borrow()
    }

    /// Continues after the head. After a jump, or with a new epoch, fills a new log instead.
    async fn try_resume(&mut self, jumped: bool) -> Result<Tail, Broken> {
        let head = self.head();
        let (tail, info) = Tail::open(&self.stream, head.seq + 1).await?;
        let epoch = epoch_of(&info.config)?;
        let last = info.state.last_sequence;
        if epoch == head.epoch && last < head.seq {
            return Err(Broken::WentBack(last));
        }
        if epoch == head.epoch && !jumped {
            return Ok(tail);
        }
        let (log, tail) = fill(&self.stream, &self.retention).await?;
        let new = log.head();
        if new.epoch == head.epoch && new.seq < head.seq {
            return Err(Broken::WentBack(new.seq));
        }
        self.log.replace(log);
        self.shown.send_replace(new);
        Ok(tail)
    }
}

/// Fills a log with everything that the stream has. Also returns the consumer that continues after it.
pub(super) async fn fill(stream: &Stream, retention: &Retention) -> Result<(Log, Tail), BadStream> {
    let first = stream.get_info().await?.state.first_sequence;
    let (mut tail, info) = Tail::open(stream, first.max(1)).await?;
    let epoch = epoch_of(&info.config)?;
    let mut log = Log::new(epoch, retention.clone());
    log.raise_floor(first.saturating_sub(1));
    while !tail.is_at_the_end().await? {
        for message in tail.batch().await? {
            let seq = tail.count(&message)?;
            if let Some((message, published)) = decode(Cursor { epoch, seq }, &message) {
                log.push(message, published);
            }
            log.raise_head(seq);
        }
    }
    // The last messages may be dropped already, but their numbers were given out.
    log.raise_head(info.state.last_sequence);
    // The stream may have changed while it was read: check the epoch again, and what was dropped.
    let after = stream.get_info().await?;
    if epoch_of(&after.config)? != epoch {
        return Err(RENEWED.into());
    }
    log.raise_floor(after.state.first_sequence.max(first).saturating_sub(1));
    log.mark_full_topics();
    Ok((log, tail))
}

/// A message and when it was published. `None` for one that this program would not have written: it is
/// skipped, but its number counts.
fn decode(id: Cursor, message: &jetstream::Message) -> Option<(Message, Instant)> {
    let record = Record::decode(&message.subject, &message.payload)
        .inspect_err(|why| warn!("message {} of the stream is skipped: {why}", id.seq))
        .ok()?;
    let published = instant_of(record.published);
    Some((record.message(id), published))
}

/// This process's own consumer.
pub(super) struct Tail {
    consumer: Consumer<pull::Config>,
    /// How many messages have arrived. The server counts them too, so a lost message is noticed.
    delivered: u64,
}

impl Tail {
    /// Creates the consumer, then gets the stream's info, in this order: if the info shows the expected epoch,
    /// the consumer reads that stream too.
    async fn open(stream: &Stream, start_sequence: u64) -> Result<(Self, Info), BadStream> {
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
            // The log's head is the position, so the server keeps none: no acks, no disk, no replicas.
            ack_policy: AckPolicy::None,
            inactive_threshold: INACTIVE,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await?;
        let info = stream.get_info().await?;
        let delivered = 0;
        Ok((
            Self {
                consumer,
                delivered,
            },
            info,
        ))
    }

    /// Whether every message that the stream has now has arrived. An empty batch does not prove it.
    async fn is_at_the_end(&mut self) -> Result<bool, BadStream> {
        let info = self.consumer.info().await?;
        if info.delivered.consumer_sequence != self.delivered {
            return Err(LOST.into());
        }
        Ok(info.num_pending == 0)
    }

    /// The next messages that the stream has now, or only some of them.
    async fn batch(&mut self) -> Result<Vec<jetstream::Message>, BadStream> {
        let fetch = async {
            let batch = self.consumer.fetch().max_messages(BATCH).messages();
            batch.await?.try_collect().await
        };
        timeout(PATIENCE, fetch)
            .await
            .unwrap_or_else(|_| Err("reading it took too long".into()))
    }

    /// The messages from now on, as they come.
    async fn messages(&self) -> Result<pull::Stream, Broken> {
        let batches = self.consumer.stream().max_messages_per_batch(BATCH);
        let messages = batches.heartbeat(HEARTBEAT).messages();
        messages.await.map_err(broken)
    }

    /// The message's sequence in the stream.
    fn count(&mut self, message: &jetstream::Message) -> Result<u64, Broken> {
        let info = message.info().map_err(broken)?;
        self.delivered += 1;
        if info.consumer_sequence == self.delivered {
            Ok(info.stream_sequence)
        } else {
            Err(broken(LOST))
        }
    }
}
