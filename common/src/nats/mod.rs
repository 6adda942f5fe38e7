//! A feed on NATS JetStream: many processes serve one stream, and a cursor is valid at all of them.
//!
//! The stream is the log. Each process keeps its newest messages in memory. Every message takes the same way:
//! 1. The stream stores it and acknowledges it.
//! 2. Each process's consumer reads it back into the log (`follow.rs`), and readers are woken.
//! 3. The publisher gets its answer.
//!
//! Messages that are no longer in memory are fetched from the stream.
//!
//! In a cursor, SEQ is the stream's sequence. EPOCH is stored in the stream's description. That is
//! configuration, so it is the same on every server and after every restart. The stream's creation time
//! is not (nats-server issue 8470).

mod follow;
mod record;
mod shape;
mod url;

use std::{
    env,
    fmt::Display,
    io, mem,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_nats::{
    Client, ConnectOptions, Event,
    connection::State,
    jetstream::{
        context::{Context, ContextBuilder},
        message::PublishMessage,
        publish::PublishAck,
        stream::{DirectGetErrorKind, Info, LastRawMessageErrorKind, Stream},
    },
};
use futures_util::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::feed::{
    Cursor, Feed, FeedError, IdempotencyKey, Page, Published, Retention, Topic,
    store::{LiveLog, Once, PartialPage, Publish, Store, StoreFuture, fingerprint},
};
use follow::{Follower, PATIENCE, SETTLE};
use record::Record;
use shape::{BadStream, RENEWED, STREAM, epoch_of};

pub use url::NatsUrl;

/// The variable that holds the login, if the URL has none.
const LOGIN: &str = "NATS_LOGIN";
/// The time between two pings. After three pings without an answer the client tries another server.
const PING: Duration = Duration::from_secs(2);
/// The longest pause between two attempts to connect.
const RECONNECT: Duration = Duration::from_secs(1);
/// How often to ask for the stream's last sequence while a reader's cursor is beyond this process's head.
const LOOK: Duration = Duration::from_millis(200);
/// How many older messages are fetched at the same time.
const FETCHES: usize = 32;

fn away(error: impl Display) -> FeedError {
    FeedError::Away(error.to_string())
}

/// Opens the feed, and creates its stream if there is none. With `new_epoch` the stream keeps its messages
/// but gets a new epoch, and the configuration that this program needs.
pub(crate) async fn open(url: &NatsUrl, retention: Retention, new_epoch: bool) -> io::Result<Feed> {
    let started = start(url, retention, new_epoch).await;
    started.map_err(|error| io::Error::other(format!("feed {url}: {error}")))
}

async fn start(url: &NatsUrl, retention: Retention, new_epoch: bool) -> Result<Feed, BadStream> {
    let (connected, connections) = watch::channel(());
    let client = connect(url, connected).await?;
    let context = ContextBuilder::new()
        .timeout(PATIENCE)
        .ack_timeout(PATIENCE)
        .build(client);
    let stream = shape::prepare(&context, &retention, url.replicas, new_epoch).await?;
    let (log, tail) = follow::fill(&stream, &retention).await?;
    let (shown, head) = watch::channel(log.head());
    let log = Arc::new(LiveLog::new(log));
    let follower = Follower {
        stream: stream.clone(),
        log: log.clone(),
        retention,
        shown,
        connections,
    };
    let store = Nats {
        context,
        stream,
        log: log.clone(),
        head,
        _follower: JoinSet::from_iter([follower.run(tail)]),
    };
    Ok(Feed::with_store(log, Arc::new(store)))
}

/// The first connection must succeed, so that a wrong URL is noticed at the start. Later the client
/// reconnects by itself, without end.
async fn connect(url: &NatsUrl, connected: watch::Sender<()>) -> Result<Client, BadStream> {
    let mut options = ConnectOptions::new()
        .ping_interval(PING)
        .reconnect_delay_callback(|attempt| {
            RECONNECT.min(LOOK * u32::try_from(attempt).unwrap_or(u32::MAX))
        })
        // No log line here: the client logs its connections itself.
        .event_callback(move |event| {
            if event == Event::Connected {
                connected.send_replace(());
            }
            std::future::ready(())
        });
    // `ps` shows a flag to everyone on the machine, but not a variable.
    let variable = || env::var(LOGIN).ok().map(|text| url::login(&text));
    options = match url.login.clone().or_else(variable) {
        None => options,
        Some((token, None)) => options.token(token),
        Some((user, Some(password))) => options.user_and_password(user, password),
    };
    Ok(options.connect(&url.servers[..]).await?)
}

/// One process's view of the stream.
struct Nats {
    context: Context,
    stream: Stream,
    log: Arc<LiveLog>,
    /// The log's head. The follower drops the sender when the stream has lost messages: see `health`.
    head: watch::Receiver<Cursor>,
    /// Stopped when this is dropped.
    _follower: JoinSet<()>,
}

impl Store for Nats {
    fn publish(&self, publish: Publish) -> StoreFuture<'_, Published> {
        Box::pin(async move {
            timeout(PATIENCE, self.publish(publish))
                .await
                // The message may or may not be stored.
                .unwrap_or_else(|_| Err(away("it took too long")))
        })
    }

    fn complete(&self, partial: PartialPage) -> StoreFuture<'_, Option<Page>> {
        Box::pin(async move {
            match partial.ahead() {
                Some(cursor) if self.catches_up(cursor).await? => Ok(None),
                _ => self.fetch(partial).await,
            }
        })
    }

    /// Down only if the stream has lost messages, or the follower has failed. A lost connection comes back by itself.
    fn health(&self) -> Result<(), FeedError> {
        follows(&self.head)
    }
}

/// The sender of the head is dropped when the follower ends, also by a panic.
fn follows(head: &watch::Receiver<Cursor>) -> Result<(), FeedError> {
    head.has_changed().map(drop).map_err(|_| FeedError::Stopped)
}

impl Nats {
    async fn publish(&self, publish: Publish) -> Result<Published, FeedError> {
        self.health()?;
        // Without a connection the client would queue the message and send it later, after the error answer.
        if self.context.client().connection_state() != State::Connected {
            return Err(away("not connected"));
        }
        let before = *self.head.borrow();
        // Refuses before anything is stored: the stream knows nothing of topics, pins and their limits.
        self.log
            .change(|log| log.admit(&publish.topic, Instant::now()))?;
        let stored = self.send(&publish).await?;
        let (epoch, seq) = (before.epoch, stored.sequence);
        let id = Cursor { epoch, seq };
        let published = match publish.once {
            Some(once) if stored.duplicate => self.repeat(id, &publish.topic, &once).await?,
            // A new message cannot have an old number: another process has created the stream anew.
            _ if id.seq <= before.seq => return Err(away(RENEWED)),
            _ => Published::new(id),
        };
        // Answers only when this process shows the message: the publisher can then read what it wrote.
        if self.reached(id).await.epoch != epoch {
            return Err(away(RENEWED));
        }
        self.health()?;
        Ok(published)
    }

    async fn send(&self, publish: &Publish) -> Result<PublishAck, FeedError> {
        let Publish { topic, draft, once } = publish;
        let record = record::encode(draft, SystemTime::now());
        let mut message = PublishMessage::build().payload(record);
        if let Some(once) = once {
            message = message.message_id(message_id(topic, &once.key));
        }
        let sent = self.context.send_publish(subject(topic), message).await;
        sent.map_err(away)?.await.map_err(away)
    }

    /// The answer to a key that the stream knows. The stream compares only keys, so the messages are compared
    /// here. If the first message is no longer stored, the same key counts as the same message.
    async fn repeat(&self, id: Cursor, topic: &Topic, once: &Once) -> Result<Published, FeedError> {
        if id.seq == 0 {
            return Err(away("the key's first publish is under way"));
        }
        if epoch_of(&self.info().await?.config).map_err(away)? != id.epoch {
            return Err(away(RENEWED));
        }
        match self.stored(id.seq).await? {
            Some(first) if first.topic != *topic => Err(FeedError::KeyReused(once.key.clone())),
            Some(first) => once.answer_repeat(&fingerprint(&first.draft), id),
            None => Ok(Published::duplicate(id)),
        }
    }

    /// Waits for the log to reach a cursor beyond its head, which another process may have given out. `false`
    /// if the stream has no such message: then no process gave the cursor out.
    async fn catches_up(&self, cursor: Cursor) -> Result<bool, FeedError> {
        let started = Instant::now();
        loop {
            // Most often this process is only a moment behind the other one.
            if timeout(LOOK, self.reached(cursor)).await.is_ok() {
                return self.health().map(|()| true);
            }
            // A new leader may itself be behind, so one look at the stream is not enough.
            let is_stored = self.info().await?.state.last_sequence >= cursor.seq;
            if !is_stored && started.elapsed() >= SETTLE {
                return Ok(false);
            }
            if started.elapsed() >= PATIENCE {
                return Err(away("this server is behind it"));
            }
        }
    }

    /// Fetches the messages that are no longer in memory.
    async fn fetch(&self, mut partial: PartialPage) -> Result<Option<Page>, FeedError> {
        let (epoch, seqs) = (partial.page.next.epoch, mem::take(&mut partial.missing));
        let records: Vec<_> = stream::iter(seqs.clone())
            .map(|seq| self.stored(seq))
            .buffered(FETCHES)
            .try_collect()
            .await?;
        let mut messages = Vec::with_capacity(seqs.len());
        for (seq, record) in seqs.iter().zip(records) {
            match record {
                Some(record) => {
                    messages.push(Arc::new(record.message(Cursor { epoch, seq: *seq })))
                }
                // The stream trims itself, sometimes earlier than the log. The log then follows.
                None => self.log.change(|log| log.lose(*seq)),
            }
        }
        let is_whole = messages.len() == seqs.len() && self.head.borrow().epoch == epoch;
        Ok(is_whole.then(|| partial.complete(messages)))
    }

    /// Waits until the log has reached this position, has another epoch, or the follower has stopped. Returns
    /// the head then.
    async fn reached(&self, cursor: Cursor) -> Cursor {
        let mut head = self.head.clone();
        let reached = head
            .wait_for(|head| head.epoch != cursor.epoch || head.seq >= cursor.seq)
            .await
            .map(|head| *head);
        reached.unwrap_or_else(|_| *self.head.borrow())
    }

    async fn info(&self) -> Result<Info, FeedError> {
        self.stream.get_info().await.map_err(away)
    }

    /// A message as the stream has it; `None` if it has dropped it.
    async fn stored(&self, seq: u64) -> Result<Option<Record>, FeedError> {
        let stored = match self.stream.direct_get(seq).await {
            // A direct get may be answered by a server that is behind. So ask the leader as well.
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => {
                match self.stream.get_raw_message(seq).await {
                    Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                        return Ok(None);
                    }
                    stored => stored.map_err(away)?,
                }
            }
            stored => stored.map_err(away)?,
        };
        let record = Record::decode(&stored.subject, &stored.payload);
        record.map(Some).map_err(FeedError::Unreadable)
    }
}

fn subject(topic: &Topic) -> String {
    format!("{STREAM}.{topic}")
}

/// The id by which the stream recognizes a repeat. A key counts per topic, but the stream compares ids over
/// all topics, so the topic is hashed into the id.
fn message_id(topic: &Topic, key: &IdempotencyKey) -> String {
    let hash = Sha256::new()
        .chain_update(topic.as_str())
        .chain_update([0])
        .chain_update(key.as_str())
        .finalize();
    hash[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_follower_that_panics_stops_the_feed() {
        let (shown, head) = watch::channel("e-1".parse().unwrap());
        assert!(follows(&head).is_ok());
        let follower = tokio::spawn(async move {
            let _shown = shown;
            panic!("a test's");
        });
        assert!(follower.await.is_err());
        assert!(matches!(follows(&head), Err(FeedError::Stopped)));
    }
}
