//! What a session reads of the feed: sets of topics, each with its own cursor.
//!
//! With its own cursor, a subscription that catches up does not move one that is live. A topic is in one
//! subscription only, so no message is sent twice. A client keeps the same state: the last id of each
//! subscription, after which it subscribes when it reconnects.

use std::{future::pending, mem};

use common::{After, Cursor, Feed, FeedError, Page, PageLimit, Topic, Topics};
use futures_util::future::select_all;

use crate::{
    frames::{TEXT, push_frame},
    protocol,
};

/// The most that one write carries. A stalled reader holds at most this much of the feed in memory, or
/// one message if that is longer.
pub const PAGE: PageLimit = PageLimit {
    messages: 100,
    bytes: 8 * 1024,
};

/// The subscriptions of one session.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    pub(crate) feed: Feed,
    /// The least recently served one comes first.
    all: Vec<Subscription>,
}

#[derive(Debug)]
struct Subscription {
    topics: Topics,
    /// Everything up to here was handed to the socket.
    after: After,
}

impl Subscriptions {
    /// No subscription yet.
    pub(crate) fn new(feed: Feed) -> Self {
        let all = Vec::new();
        Self { feed, all }
    }

    /// Adds a subscription. Returns where it starts, if that is known.
    pub(crate) fn add(&mut self, topics: Topics, after: After) -> Option<Cursor> {
        let start = self.feed.position(&topics, &after);
        // `latest` means this moment, not the moment of the first wait.
        let after = match (after, start) {
            (After::Latest, Some(start)) => start.into(),
            (other, _) => other,
        };
        self.all.reserve_exact(1); // `push` alone would reserve memory for four.
        self.all.push(Subscription { topics, after });
        start
    }

    /// Removes topics. Returns the position up to which they were sent, if that is known.
    pub(crate) fn remove(&mut self, leaving: &Topics) -> Option<Cursor> {
        let (touched, untouched): (Vec<_>, _) = mem::take(&mut self.all)
            .into_iter()
            .partition(|one| one.topics.iter().any(|topic| contains(leaving, topic)));
        self.all = untouched;
        // The client can subscribe to these topics again after this position.
        let position = position_of(&self.feed, &touched);
        for Subscription { topics, after } in touched {
            let stay = topics.iter().filter(|topic| !contains(leaving, topic));
            if let Ok(topics) = Topics::try_from(stay.cloned().collect::<Vec<_>>()) {
                self.all.push(Subscription { topics, after });
            }
        }
        position
    }

    /// The first of these topics that is in a subscription already.
    pub(crate) fn first_of<'a>(&self, topics: &'a Topics) -> Option<&'a Topic> {
        topics
            .iter()
            .find(|topic| self.all.iter().any(|one| contains(&one.topics, topic)))
    }

    /// How many subscriptions there are.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// How many topics all subscriptions have together.
    pub(crate) fn topics(&self) -> usize {
        self.all.iter().map(|one| one.topics.iter().len()).sum()
    }

    /// Waits for the next page of any subscription, as frames. The page itself is not returned, because
    /// every waiting session would reserve memory for it.
    pub(crate) async fn next(&mut self) -> Result<Vec<u8>, FeedError> {
        // Most sessions have one subscription, and wait without the memory that several need.
        if let [Subscription { topics, after }] = &mut self.all[..] {
            let page = self.feed.next(topics, after, PAGE).await?;
            *after = page.next.into();
            return Ok(self.encode(&page));
        }
        Box::pin(self.next_of_any()).await
    }

    async fn next_of_any(&mut self) -> Result<Vec<u8>, FeedError> {
        if self.all.is_empty() {
            return pending().await; // `select_all` takes no empty list.
        }
        let pages = self
            .all
            .iter()
            .map(|Subscription { topics, after }| Box::pin(self.feed.next(topics, after, PAGE)));
        let (read, index, _) = select_all(pages).await;
        let page = read?;
        self.all[index].after = page.next.into();
        self.all.rotate_left(index + 1); // A busy subscription does not starve the others.
        Ok(self.encode(&page))
    }

    /// A page of news, as frames, if there is one now.
    pub(crate) async fn read(&mut self) -> Option<Vec<u8>> {
        for Subscription { topics, after } in &mut self.all {
            let page = self.feed.read(topics, after, PAGE).await;
            if let Some(page) = page.ok().filter(Page::is_news) {
                *after = page.next.into();
                return Some(self.encode(&page));
            }
        }
        None
    }

    fn encode(&self, page: &Page) -> Vec<u8> {
        let mut frames = Vec::new();
        if let Some(gap) = &page.gap {
            push_frame(TEXT, protocol::gap(gap).as_bytes(), &mut frames);
        }
        for message in &page.messages {
            push_frame(TEXT, &protocol::message(message), &mut frames);
        }
        // Only this frame moves the client past the gap. If the connection breaks before it, the client
        // comes back with its old cursor and is told of the gap again.
        if page.gap.is_some()
            && let Some(next) = self.position()
        {
            push_frame(TEXT, protocol::heartbeat(next).as_bytes(), &mut frames);
        }
        frames
    }

    /// The position up to which all subscriptions were sent, if that is known.
    pub(crate) fn position(&self) -> Option<Cursor> {
        position_of(&self.feed, &self.all)
    }

    /// Moves the cursors of subscriptions without news to the head. An old cursor would cause a gap as soon
    /// as messages of other topics are trimmed.
    pub(crate) async fn advance_quiet(&mut self) {
        for Subscription { topics, after } in &mut self.all {
            if let Ok(page) = self.feed.read(topics, after, PAGE).await
                && !page.is_news()
            {
                *after = page.next.into();
            }
        }
    }
}

fn contains(topics: &Topics, topic: &Topic) -> bool {
    topics.iter().any(|other| other == topic)
}

fn position_of(feed: &Feed, subscriptions: &[Subscription]) -> Option<Cursor> {
    let positions = subscriptions
        .iter()
        .map(|one| feed.position(&one.topics, &one.after))
        .collect::<Option<Vec<_>>>()?;
    let lowest = positions.into_iter().min_by_key(|position| position.seq);
    Some(lowest.unwrap_or_else(|| feed.head()))
}
