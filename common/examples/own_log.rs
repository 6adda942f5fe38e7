//! A log of your own behind the four verbs that the patterns call: `read`, `next`, `position` and
//! `close`. Run it with `cargo run -p common --example own_log`.
//!
//! Take it if your service has a `tokio::sync::broadcast` channel already. A channel alone loses
//! messages: a receiver that is too slow skips some, and one that reconnects starts at the end. So the
//! last messages are kept in a log, a reader is a cursor into it, and the channel only wakes readers.
//!
//! It keeps the last messages of all topics together, in memory. `common::Feed` keeps some of each
//! topic, by count and bytes, knows idempotency keys and can live in a file. The feed's own contract
//! tests hold both: see `tests/own_log.rs`.

use std::{
    collections::VecDeque,
    sync::{Arc, RwLock},
    time::SystemTime,
};

use common::{
    After, Cursor, Data, Draft, Epoch, FeedError, Gap, Message, Page, PageLimit, Published, Reason,
    Topic, Topics,
};
use tokio::sync::{broadcast, watch};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (log, topics) = (OwnLog::new(1_000), "news".parse()?);
    let streaming = tokio::spawn(stream(log.handle(), "news".parse()?));
    while log.waiters() == 0 {
        tokio::task::yield_now().await;
    }
    let hello = Draft::new(Data::text("hello"));
    log.publish("news".parse()?, hello).await?;
    streaming.await?;
    let page = log.read(&topics, &After::Earliest, PageLimit::default());
    println!("a poll: {:?}", page.await?.to_json());
    Ok(())
}

/// Prints what comes, and leaves after the first page.
async fn stream(log: OwnLog, topics: Topics) {
    println!("from {:?}", log.position(&topics, &After::Latest));
    let limit = PageLimit::default();
    while let Ok(page) = log.next(&topics, &After::Latest, limit).await {
        println!("a page: {:?}", page.to_json());
        log.close();
    }
}

/// The last messages of all topics. Clones share it.
#[derive(Clone)]
pub(crate) struct OwnLog {
    kept: Arc<RwLock<Kept>>,
    /// The topic of each new message. It only wakes: the messages are read from `kept`.
    news: broadcast::Sender<Topic>,
    /// Becomes true when this handle and its clones are closed.
    closed: watch::Sender<bool>,
}

struct Kept {
    epoch: Epoch,
    /// How many messages are kept.
    limit: usize,
    /// In order and without holes, so a message's place follows from its number.
    messages: VecDeque<Arc<Message>>,
    /// The number of the last message that was dropped.
    trimmed: u64,
}

impl OwnLog {
    /// An empty log that keeps the last `limit` messages.
    pub(crate) fn new(limit: usize) -> Self {
        let kept = Kept {
            epoch: Epoch::random(),
            limit,
            messages: VecDeque::new(),
            trimmed: 0,
        };
        Self {
            kept: Arc::new(RwLock::new(kept)),
            // A receiver that lags is woken by that as well, so a small channel suffices.
            news: broadcast::Sender::new(16),
            closed: watch::Sender::new(false),
        }
    }

    /// The same log, to be closed by itself.
    pub(crate) fn handle(&self) -> Self {
        Self {
            closed: watch::Sender::new(false),
            ..self.clone()
        }
    }

    /// Appends a message, then wakes: in this order, a reader that is woken finds it.
    pub(crate) async fn publish(&self, topic: Topic, draft: Draft) -> Result<Published, FeedError> {
        let id = self.kept.write().expect(UNPOISONED).append(&topic, draft);
        // An error says only that nobody is waiting.
        let _ = self.news.send(topic);
        Ok(Published::new(id))
    }

    /// What is newer than `after`, now; the page may be empty.
    pub(crate) async fn read(
        &self,
        topics: &Topics,
        after: &After,
        limit: PageLimit,
    ) -> Result<Page, FeedError> {
        Ok(self.look(|kept| kept.page(topics, after, limit)))
    }

    /// The same, but waits until there is a message or a gap.
    pub(crate) async fn next(
        &self,
        topics: &Topics,
        after: &After,
        limit: PageLimit,
    ) -> Result<Page, FeedError> {
        // Both before the first look, so nothing is lost between a look and the wait.
        let (mut news, mut closed) = (self.news.subscribe(), self.closed.subscribe());
        let after = match after {
            After::Latest => self.head().into(),
            after => after.clone(),
        };
        loop {
            let page = self.look(|kept| kept.page(topics, &after, limit));
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

    /// Where reading after `after` starts; `None` if this log never gave that cursor out.
    pub(crate) fn position(&self, _topics: &Topics, after: &After) -> Option<Cursor> {
        self.look(|kept| kept.start(after).ok())
    }

    /// The position of the last message.
    pub(crate) fn head(&self) -> Cursor {
        self.look(|kept| kept.at(kept.head()))
    }

    /// Ends every wait of this handle and its clones, now and from now on.
    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
    }

    /// How many readers wait in [`OwnLog::next`].
    pub(crate) fn waiters(&self) -> usize {
        self.news.receiver_count()
    }

    fn look<T>(&self, look: impl FnOnce(&Kept) -> T) -> T {
        look(&self.kept.read().expect(UNPOISONED))
    }
}

/// Waits for a message of one of the topics, or for so many messages that the channel dropped some.
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
            Ok(_) => (self.trimmed, Some(Reason::Trimmed)),
            Err(reason) => (self.trimmed, Some(reason)),
        };
        let gap = gap.map(|reason| Gap {
            reason,
            topics: topics.clone(),
            requested: after.to_string(),
            resumed: self.at(start),
        });
        let (messages, more) = self.collect(topics, start, limit);
        let given = messages.last().map(|message| message.id);
        let head = self.at(self.head());
        Page {
            next: given.filter(|_| more).unwrap_or(head),
            last: given.unwrap_or_else(|| self.last(topics)),
            messages,
            more,
            gap,
            published: None, // not known here; it only makes a hint to poll again better
        }
    }

    /// Where to read after, or why this log does not know the cursor.
    fn start(&self, after: &After) -> Result<Cursor, Reason> {
        match after {
            After::Earliest => Ok(self.at(self.trimmed)),
            After::Latest => Ok(self.at(self.head())),
            After::Cursor(cursor) if cursor.epoch != self.epoch => Err(Reason::Foreign),
            After::Cursor(cursor) if cursor.seq > self.head() => Err(Reason::Ahead),
            After::Cursor(cursor) => Ok(*cursor),
            After::Unreadable(_) => Err(Reason::Foreign),
        }
    }

    /// As many messages after `start` as the limit admits, at least one, and whether there are more.
    fn collect(&self, topics: &Topics, start: u64, limit: PageLimit) -> (Vec<Arc<Message>>, bool) {
        let (mut messages, mut bytes) = (Vec::new(), 0);
        let skipped = usize::try_from(start - self.trimmed).unwrap_or(usize::MAX);
        for message in self.messages.iter().skip(skipped) {
            if !topics.iter().any(|topic| *topic == message.topic) {
                continue;
            }
            bytes += message.json.len();
            let is_full = messages.len() == limit.messages || bytes > limit.bytes;
            if is_full && !messages.is_empty() {
                return (messages, true);
            }
            messages.push(message.clone());
        }
        (messages, false)
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

const UNPOISONED: &str = "nothing panics under this lock";
