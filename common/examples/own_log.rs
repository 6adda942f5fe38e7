//! Your own log in place of `common::Feed`, filled from a channel that your service already has. Run it with
//! `cargo run -p common --example own_log`.
//!
//! A `broadcast` channel alone loses messages: a slow receiver skips some, and one that reconnects starts at the end.
//! So the log keeps the last messages, a reader is a cursor into the log, and a channel only wakes readers.
//!
//! To use it: copy the folder `feed` for its types, and this file without its `main` and with your type in `fill`. Write
//! `pub use own_log::OwnLog as Feed;` in your `lib.rs`: it hides the `Feed` of `pub use feed::*;`. The patterns call
//! `read`, `next`, `position`, `head`, `is_closed` and `close`.
//!
//! This log has one limit for all topics together, in memory. `common::Feed` has limits per topic, by count and bytes.
//! It supports idempotency keys and can store its messages in a file. Both pass the same contract tests: see
//! `tests/own_log.rs`.
#![allow(unreachable_pub, reason = "an example is a program")]

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, RwLock},
    time::SystemTime,
};

use common::{
    After, Cursor, Data, Draft, Epoch, FeedError, Gap, Message, Page, PageLimit, Published, Reason,
    Topic, Topics,
};
use tokio::sync::{
    broadcast::{self, error::RecvError},
    watch,
};

/// What your service already sends.
#[derive(Debug, Clone)]
struct Quote {
    symbol: &'static str,
    price: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let quotes = broadcast::Sender::new(1_024);
    let (log, topics): (_, Topics) = (OwnLog::new(1_000), "quotes.ACME".parse()?);
    tokio::spawn(fill(log.clone(), quotes.subscribe()));
    let after = log.head().into();
    for price in [100, 101] {
        let symbol = "ACME";
        quotes.send(Quote { symbol, price })?;
    }
    let first = log.next(&topics, &after, PageLimit::default()).await?;
    println!("the news: {:?}", first.messages);
    let rest = log.read(&topics, &first.then, PageLimit::default()).await?;
    println!("after {}: {:?}", first.next, rest.messages);
    Ok(())
}

/// Publishes each quote to the log, until your channel is closed. This task must keep up with the channel: what it
/// skips is lost. If that matters, call `publish` where you now send.
async fn fill(log: OwnLog, mut quotes: broadcast::Receiver<Quote>) {
    loop {
        match quotes.recv().await {
            Ok(Quote { symbol, price }) => {
                let topic = format!("quotes.{symbol}")
                    .parse()
                    .expect("symbols are words");
                log.publish(topic, Draft::new(Data::text(&price.to_string())))
                    .await
                    .expect("it has no limit");
            }
            Err(RecvError::Lagged(lost)) => eprintln!("{lost} quotes are lost"),
            Err(RecvError::Closed) => return,
        }
    }
}

/// The last messages of all topics. Clones share it.
#[derive(Debug, Clone)]
pub struct OwnLog {
    kept: Arc<RwLock<Kept>>,
    /// Sends the topic of each new message. It only wakes readers: they read the messages from `kept`.
    news: broadcast::Sender<Topic>,
    /// Becomes true when this handle and its clones are closed.
    closed: watch::Sender<bool>,
}

#[derive(Debug)]
struct Kept {
    epoch: Epoch,
    /// How many messages are kept.
    limit: usize,
    /// In order and without holes: message `seq` is at index `seq - trimmed - 1`.
    messages: VecDeque<Arc<Message>>,
    /// The number of the last message that was dropped.
    trimmed: u64,
}

impl OwnLog {
    /// An empty log that keeps the last `limit` messages.
    pub fn new(limit: usize) -> Self {
        let kept = Kept {
            epoch: Epoch::random(),
            limit,
            messages: VecDeque::new(),
            trimmed: 0,
        };
        Self {
            kept: Arc::new(RwLock::new(kept)),
            // Small: a receiver that lags gets an error, which wakes it too. Then it reads from `kept`.
            news: broadcast::Sender::new(16),
            closed: watch::Sender::new(false),
        }
    }

    /// A second handle to the same log, with its own `close`.
    pub fn handle(&self) -> Self {
        Self {
            closed: watch::Sender::new(false),
            ..self.clone()
        }
    }

    /// Appends a message, then wakes readers. In this order a woken reader always finds the message.
    pub async fn publish(&self, topic: Topic, draft: Draft) -> Result<Published, FeedError> {
        let id = self.kept.write().expect(UNPOISONED).append(&topic, draft);
        // An error only means that no reader is waiting.
        let _ = self.news.send(topic);
        Ok(Published::new(id))
    }

    /// What is newer than `after`, now; the page may be empty.
    pub async fn read(
        &self,
        topics: &Topics,
        after: &After,
        limit: PageLimit,
    ) -> Result<Page, FeedError> {
        Ok(self.with_kept(|kept| kept.page(topics, after, limit)))
    }

    /// Like `read`, but waits until there is a message or a gap.
    pub async fn next(
        &self,
        topics: &Topics,
        after: &After,
        limit: PageLimit,
    ) -> Result<Page, FeedError> {
        // Both subscribe before the first read, so nothing is lost between a read and the wait.
        let (mut news, mut closed) = (self.news.subscribe(), self.closed.subscribe());
        let after = match after {
            After::Latest => self.head().into(),
            After::Last => After::last(self.head()),
            after => after.clone(),
        };
        loop {
            let page = self.with_kept(|kept| kept.page(topics, &after, limit));
            if page.is_news() {
                return Ok(page);
            }
            if *closed.borrow_and_update() {
                return Err(FeedError::Closed);
            }
            tokio::select! {
                () = any_of(topics, &mut news) => {}
                _ = closed.changed() => {}
            }
        }
    }

    /// Where reading after `after` starts. `None` if this log never gave out that cursor, or for `last`.
    pub fn position(&self, _topics: &Topics, after: &After) -> Option<Cursor> {
        match after {
            After::Last | After::Rest { .. } => None,
            after => self.with_kept(|kept| kept.start(after).ok()),
        }
    }

    /// The position of the last message.
    pub fn head(&self) -> Cursor {
        self.with_kept(|kept| kept.at(kept.head()))
    }

    /// Ends every wait of this handle and its clones, and every later one.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Whether `next` waits no more.
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// How many readers wait in [`OwnLog::next`].
    pub fn waiters(&self) -> usize {
        self.news.receiver_count()
    }

    fn with_kept<T>(&self, read: impl FnOnce(&Kept) -> T) -> T {
        read(&self.kept.read().expect(UNPOISONED))
    }
}

/// Waits for a message of one of the topics. Also returns if the channel has dropped some (`Lagged`),
/// because one of them may have been of these topics.
async fn any_of(topics: &Topics, news: &mut broadcast::Receiver<Topic>) {
    while let Ok(topic) = news.recv().await {
        if topics.iter().any(|wanted| *wanted == topic) {
            return;
        }
    }
}

impl Kept {
    fn append(&mut self, topic: &Topic, draft: Draft) -> Cursor {
        let id = self.at(self.head() + 1);
        let message = Message::encode(id, topic.clone(), draft, SystemTime::now());
        self.messages.push_back(Arc::new(message));
        while self.messages.len() > self.limit {
            self.trimmed += 1;
            self.messages.pop_front();
        }
        id
    }

    fn page(&self, topics: &Topics, after: &After, limit: PageLimit) -> Page {
        let (start, gap) = match self.start(after) {
            Ok(start) if start.seq >= self.trimmed => (start.seq, None),
            Ok(_) if limit.newest && self.has_all(topics) => (self.trimmed, None),
            Ok(_) => (self.trimmed, Some(Reason::Trimmed)),
            Err(reason) => (self.trimmed, Some(reason)),
        };
        let state_end = self.state_end(after);
        let gap = gap.map(|reason| Gap {
            reason,
            topics: topics.clone(),
            requested: after.to_string(),
            resumed: self.at(start),
        });
        let newest_end = if limit.newest { u64::MAX } else { state_end };
        let wanted = self.wanted(topics, start, newest_end);
        let (messages, more) = first_of(&wanted, limit);
        let given = messages.last().map(|message| message.id);
        let next = given.filter(|_| more).unwrap_or(self.at(self.head()));
        let page = Page {
            next,
            then: After::going_on(next, state_end),
            last: given.unwrap_or_else(|| self.last(topics)),
            messages,
            more,
            gap,
            published: None, // unknown here; only used for a better hint when to poll again
        };
        page.log_gap()
    }

    /// Where to read after, or why this log does not know the cursor.
    fn start(&self, after: &After) -> Result<Cursor, Reason> {
        match after {
            After::Earliest | After::Last => Ok(self.at(self.trimmed)),
            After::Rest { epoch, .. } if *epoch != self.epoch => Err(Reason::Foreign),
            // `last` asks only for what is kept, so what was trimmed of it is no gap.
            After::Rest { seq, until, .. } if self.trimmed <= *until => {
                Ok(self.at(self.trimmed.max(*seq)))
            }
            After::Rest { seq, .. } => Ok(self.at(*seq)),
            After::Latest => Ok(self.at(self.head())),
            After::Cursor(cursor) if cursor.epoch != self.epoch => Err(Reason::Foreign),
            After::Cursor(cursor) if cursor.seq > self.head() => Err(Reason::Ahead),
            After::Cursor(cursor) => Ok(*cursor),
            After::Unreadable(_) => Err(Reason::Foreign),
        }
    }

    /// The number up to which only the newest messages are wanted because the reader began with `last`.
    fn state_end(&self, after: &After) -> u64 {
        match after {
            After::Last => self.head(),
            After::Rest { epoch, until, .. } if *epoch == self.epoch => *until,
            _ => 0,
        }
    }

    /// Each topic's newest message in (`start`, `newest_end`], and all messages after both.
    fn wanted(&self, topics: &Topics, start: u64, newest_end: u64) -> Vec<&Arc<Message>> {
        let mut given = HashSet::new();
        let newer = self.messages.iter().rev();
        let mut wanted: Vec<_> = newer
            .take_while(|message| message.id.seq > start)
            .filter(|message| topics.iter().any(|topic| *topic == message.topic))
            .filter(|message| message.id.seq > newest_end || given.insert(&message.topic))
            .collect();
        wanted.reverse();
        wanted
    }

    /// Whether a message of each topic is kept.
    fn has_all(&self, topics: &Topics) -> bool {
        self.wanted(topics, 0, u64::MAX).len() == topics.iter().len()
    }

    /// The last message of the topics, as far as it is kept.
    fn last(&self, topics: &Topics) -> Cursor {
        let mut newest = self.messages.iter().rev();
        let last = newest.find(|message| topics.iter().any(|topic| *topic == message.topic));
        last.map_or(self.at(self.trimmed), |message| message.id)
    }

    fn head(&self) -> u64 {
        self.trimmed + self.messages.len() as u64
    }

    fn at(&self, seq: u64) -> Cursor {
        let epoch = self.epoch;
        Cursor { epoch, seq }
    }
}

/// The first messages, as many as the limit admits, at least one, and whether there are more.
fn first_of(wanted: &[&Arc<Message>], limit: PageLimit) -> (Vec<Arc<Message>>, bool) {
    let (mut messages, mut bytes) = (Vec::new(), 0);
    for message in wanted {
        bytes += message.json.len();
        let is_full = messages.len() == limit.messages || bytes > limit.bytes;
        if is_full && !messages.is_empty() {
            return (messages, true);
        }
        messages.push(Arc::clone(message));
    }
    (messages, false)
}

const UNPOISONED: &str = "nothing panics under this lock";
