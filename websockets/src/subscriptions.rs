//! What a session reads from the feed: sets of topics, each with its own cursor.
//!
//! With its own cursor, a subscription that catches up does not move one that is live. A topic is in one
//! subscription only, so no message is sent twice. A client keeps the same state: the last id of each
//! subscription, after which it subscribes when it reconnects.

use std::future::pending;

use common::{After, Cursor, Feed, FeedError, Page, PageLimit, Topic, Topics};
use futures_util::future::select_all;
use tracing::trace;

use crate::{
    frames::{TEXT, push_frame},
    protocol,
};

/// The most that one write carries. A stalled reader holds at most this much of the feed in memory, or
/// one message if that is longer.
pub const PAGE: PageLimit = PageLimit {
    messages: 100,
    bytes: 8 * 1024,
    newest: false,
};

/// The subscriptions of one session: what it knows of its subprotocol, `feed.v1.json`.
#[derive(Debug)]
pub struct Subscriptions {
    pub(crate) feed: Feed,
    /// The least recently served one comes first.
    pub(crate) all: Vec<Subscription>,
    /// Whether the client was told that every subscription has replayed everything.
    is_live: bool,
}

#[derive(Debug)]
pub(crate) struct Subscription {
    topics: Topics,
    /// Everything up to here was handed to the socket.
    after: After,
    /// The limits of a page, and whether it has only the newest message of each topic.
    limit: PageLimit,
    /// Whether it still sends the messages that were there when it began.
    replays: bool,
}

impl Subscription {
    /// Its next page. While it replays, it does not wait.
    async fn page(&self, feed: &Feed) -> Result<Page, FeedError> {
        match self.replays {
            true => feed.read(&self.topics, &self.after, self.limit).await,
            false => feed.next(&self.topics, &self.after, self.limit).await,
        }
    }
}

impl Subscriptions {
    /// A session without subscriptions.
    pub fn new(feed: Feed) -> Self {
        Self {
            feed,
            all: Vec::new(),
            is_live: false,
        }
    }

    /// Adds the subscription that the handshake asked for. Returns the `subscribed` frame's text.
    pub fn open(&mut self, topics: Topics, after: After, newest: bool) -> String {
        protocol::subscribed(None, self.add(topics, after, newest))
    }

    /// Adds a subscription. Returns where it starts, if that is known.
    pub(crate) fn add(&mut self, topics: Topics, after: After, newest: bool) -> Option<Cursor> {
        let start = self.feed.position(&topics, &after);
        // `latest` means this moment, not the moment of the first wait.
        let after = match (after, start) {
            (After::Latest, Some(start)) => start.into(),
            (other, _) => other,
        };
        self.all.reserve_exact(1); // `push` alone would reserve memory for four.
        self.all.push(Subscription {
            topics,
            after,
            limit: PageLimit { newest, ..PAGE },
            replays: true,
        });
        self.is_live = false;
        start
    }

    /// Removes topics. Returns the position up to which they were sent, if that is known. The client can
    /// subscribe to them again after it.
    pub(crate) fn remove(&mut self, leaving: &Topics) -> Option<Cursor> {
        let all = self.all.iter();
        let touched = all.filter(|one| one.topics.iter().any(|topic| has(leaving, topic)));
        let position = position_of(&self.feed, touched);
        self.all.retain_mut(|one| {
            let stay = one.topics.iter().filter(|topic| !has(leaving, topic));
            let topics = Topics::try_from(stay.cloned().collect::<Vec<_>>());
            topics.map(|topics| one.topics = topics).is_ok() // It fails if no topic stays.
        });
        position
    }

    /// The topics of all subscriptions.
    pub(crate) fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.all.iter().flat_map(|one| one.topics.iter())
    }

    /// Waits for the next page of any subscription, as frames. The page itself is not returned, because
    /// every waiting session would reserve memory for it.
    pub(crate) async fn next_page(&mut self) -> Result<Vec<u8>, FeedError> {
        // Most sessions have one subscription, and wait without the memory that several need.
        if let [one] = &self.all[..]
            && self.is_live
        {
            let news = self.feed.next(&one.topics, &one.after, one.limit);
            let page = news.await?;
            return Ok(self.take(0, page));
        }
        Box::pin(self.next_of_any()).await
    }

    async fn next_of_any(&mut self) -> Result<Vec<u8>, FeedError> {
        if self.all.is_empty() {
            return pending().await; // `select_all` panics on an empty list.
        }
        if self.turns_live() {
            return Ok(self.heartbeat_frame()); // The last one that replayed was removed.
        }
        let (index, page) = first_page(&self.feed, &self.all).await?;
        let frames = self.take(index, page);
        self.all.rotate_left(index + 1); // A busy subscription does not starve the others.
        Ok(frames)
    }

    /// Encodes a page as frames, and moves the cursor of its subscription behind it.
    fn take(&mut self, index: usize, page: Page) -> Vec<u8> {
        trace!(count.deliveries = page.messages.len());
        let one = &mut self.all[index];
        one.after = page.then;
        one.replays &= page.more;
        let mut frames = Vec::new();
        if let Some(gap) = &page.gap {
            push_frame(TEXT, protocol::gap(gap).as_bytes(), &mut frames);
        }
        for message in &page.messages {
            protocol::push_message(message, &mut frames);
        }
        // Only this frame moves the client past a gap: if the connection breaks before it, the client comes
        // back with its old cursor and is told of the gap again.
        if self.turns_live() | page.gap.is_some() {
            frames.extend(self.heartbeat_frame());
        }
        frames
    }

    /// Whether the client must be told now that every subscription has replayed everything.
    fn turns_live(&mut self) -> bool {
        let was_live = self.is_live;
        self.is_live = self.all.iter().all(|one| !one.replays);
        self.is_live && !was_live
    }

    /// The frame that tells the client its position, if that is known.
    fn heartbeat_frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        if let Some(next) = self.position() {
            push_frame(TEXT, protocol::heartbeat(next).as_bytes(), &mut frame);
        }
        frame
    }

    /// The position up to which all subscriptions were sent, if that is known.
    pub(crate) fn position(&self) -> Option<Cursor> {
        position_of(&self.feed, self.all.iter())
    }

    /// Moves the cursors of subscriptions without news to the head. An old cursor would cause a gap as soon
    /// as messages of other topics are trimmed.
    pub(crate) async fn advance_quiet(&mut self) {
        for one in &mut self.all {
            let page = self.feed.read(&one.topics, &one.after, one.limit).await;
            if let Some(page) = page.ok().filter(|page| !page.is_news()) {
                one.after = page.then;
            }
        }
    }
}

/// Waits for a page of any of the subscriptions. Returns the index of its subscription, too.
async fn first_page(feed: &Feed, all: &[Subscription]) -> Result<(usize, Page), FeedError> {
    let pages = all.iter().enumerate();
    let mut waiting: Vec<_> = pages
        .map(|(index, one)| Box::pin(async move { Ok((index, one.page(feed).await?)) }))
        .collect();
    loop {
        let (first, _, others) = select_all(waiting).await;
        match first {
            // The feed is closed, and this one has sent everything. The others may still have news.
            Err(FeedError::Closed) if !others.is_empty() => waiting = others,
            first => return first,
        }
    }
}

fn has(topics: &Topics, topic: &Topic) -> bool {
    topics.iter().any(|other| other == topic)
}

/// The oldest position of the subscriptions, if all are known. Without subscriptions, the head.
fn position_of<'a>(
    feed: &Feed,
    subscriptions: impl Iterator<Item = &'a Subscription>,
) -> Option<Cursor> {
    let positions = subscriptions
        .map(|one| feed.position(&one.topics, &one.after))
        .collect::<Option<Vec<_>>>()?;
    let lowest = positions.into_iter().min_by_key(|position| position.seq);
    Some(lowest.unwrap_or_else(|| feed.head()))
}

#[cfg(test)]
mod tests {
    use common::{Data, Draft, Retention};
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_waited_for_a_subscription_that_leaves_is_live() {
        let feed = Feed::new(Retention::default());
        let large = Data::text(&"x".repeat(PAGE.bytes));
        for _ in 0..2 {
            let topic = "busy".parse().unwrap();
            feed.publish(topic, Draft::new(large.clone()))
                .await
                .unwrap();
        }
        let mut all = Subscriptions::new(feed.clone());
        all.add("quiet".parse().unwrap(), After::Latest, false);
        all.add("busy".parse().unwrap(), After::Earliest, false);
        // The quiet one has nothing to replay. The busy one has one page more.
        let frames = [
            all.next_page().await.unwrap(),
            all.next_page().await.unwrap(),
        ]
        .concat();
        assert!(!frames.windows(9).any(|text| text == b"heartbeat"));
        all.remove(&"busy".parse().unwrap());
        let mut live = Vec::new();
        let heartbeat = protocol::heartbeat(feed.head());
        push_frame(TEXT, heartbeat.as_bytes(), &mut live);
        let frames = all.next_page().now_or_never().expect("it does not wait");
        assert_eq!(frames.unwrap(), live);
    }
}
