//! What a session reads of the feed: sets of topics, each with a cursor of its own.
//!
//! So one that catches up does not move the cursor of one that is live. No topic is in two of them:
//! nothing is sent twice. What a client keeps is the same: per subscription, the last id that it got,
//! to subscribe after when it comes back.

use std::future::pending;

use bytes::Bytes;
use common::{After, Cursor, Feed, FeedError, Page, PageLimit, Topic, Topics};
use futures_util::future::select_all;

use crate::{frames, protocol, socket};

/// One write: enough messages to be worth it, and all that a reader who stalls keeps of the feed in
/// memory, if no message is longer.
pub(crate) const PAGE: PageLimit = PageLimit {
    messages: 100,
    bytes: 8 * 1024,
};

/// The subscriptions of one session.
pub(crate) struct Subscriptions {
    feed: Feed,
    /// The one that was served longest ago is in front.
    all: Vec<Subscription>,
}

struct Subscription {
    topics: Topics,
    /// Everything up to here was handed to the socket.
    after: After,
}

impl Subscriptions {
    /// None yet.
    pub(crate) fn new(feed: Feed) -> Self {
        let all = Vec::new();
        Self { feed, all }
    }

    /// Where the subscription starts, if that can be told.
    pub(crate) fn add(&mut self, topics: Topics, mut after: After) -> Option<Cursor> {
        let start = self.feed.position(&topics, &after);
        if let (After::Latest, Some(start)) = (&after, start) {
            after = start.into();
        }
        self.all.reserve_exact(1); // One is the rule; a Vec that grows begins with four.
        self.all.push(Subscription { topics, after });
        start
    }

    /// Up to where everything of these topics was sent.
    pub(crate) fn remove(&mut self, topics: &Topics) -> Option<Cursor> {
        let leaves = |topic: &Topic| topics.iter().any(|leaving| leaving == topic);
        let all = std::mem::take(&mut self.all);
        let (touched, untouched): (Vec<_>, _) = all
            .into_iter()
            .partition(|subscription| subscription.topics.iter().any(leaves));
        self.all = untouched;
        let position = position_of(&self.feed, &touched);
        for Subscription { topics, after } in touched {
            let stay = topics.iter().filter(|topic| !leaves(topic)).cloned();
            if let Ok(topics) = Topics::try_from(stay.collect::<Vec<_>>()) {
                self.all.push(Subscription { topics, after });
            }
        }
        position
    }

    /// The first of these topics that is in a subscription.
    pub(crate) fn first_of<'a>(&self, topics: &'a Topics) -> Option<&'a Topic> {
        let has = |subscription: &Subscription, topic: &Topic| {
            subscription.topics.iter().any(|other| other == topic)
        };
        let is_subscribed = |topic: &&Topic| self.all.iter().any(|one| has(one, topic));
        topics.iter().find(is_subscribed)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// How many topics there are in all subscriptions.
    pub(crate) fn topics(&self) -> usize {
        self.all.iter().map(|one| one.topics.iter().len()).sum()
    }

    /// The next page of any subscription, as frames: thousands wait here, who need not have room for
    /// the page itself.
    pub(crate) async fn next(&mut self) -> Result<Bytes, FeedError> {
        // One is the rule, and waits without the rest of the machinery.
        if let [Subscription { topics, after }] = &mut self.all[..] {
            let page = self.feed.next(topics, after, PAGE).await?;
            *after = page.next.into();
            return Ok(self.encode(&page));
        }
        Box::pin(self.next_of_any()).await
    }

    async fn next_of_any(&mut self) -> Result<Bytes, FeedError> {
        if self.all.is_empty() {
            return pending().await;
        }
        let pages = self
            .all
            .iter()
            .map(|Subscription { topics, after }| Box::pin(self.feed.next(topics, after, PAGE)));
        let (page, index, _) = select_all(pages).await;
        let page = page?;
        self.all[index].after = page.next.into();
        self.all.rotate_left(index + 1);
        Ok(self.encode(&page))
    }

    /// A page of news, if there is one now.
    pub(crate) async fn read(&mut self) -> Option<Bytes> {
        for Subscription { topics, after } in &mut self.all {
            let page = self.feed.read(topics, after, PAGE).await;
            if let Some(page) = page.ok().filter(Page::is_news) {
                *after = page.next.into();
                return Some(self.encode(&page));
            }
        }
        None
    }

    fn encode(&self, page: &Page) -> Bytes {
        let messages = frames::of(&page.messages);
        let Some(gap) = &page.gap else {
            return messages;
        };
        let mut frames = Vec::new();
        socket::text_frame(protocol::gap(gap).as_bytes(), &mut frames);
        frames.extend_from_slice(&messages);
        // Until here the client's position was the old one: cut off in between, it hears of the gap
        // again.
        if let Some(next) = self.position() {
            socket::text_frame(protocol::heartbeat(next).as_bytes(), &mut frames);
        }
        frames.into()
    }

    /// Up to where everything of all subscriptions was sent, if that can be told.
    pub(crate) fn position(&self) -> Option<Cursor> {
        position_of(&self.feed, &self.all)
    }

    /// Moves the cursors of subscriptions without news to the head, so that what is trimmed of
    /// other topics does not look like a gap in theirs.
    pub(crate) async fn pass_by_quiet(&mut self) {
        for Subscription { topics, after } in &mut self.all {
            if let Ok(page) = self.feed.read(topics, after, PAGE).await
                && !page.is_news()
            {
                *after = page.next.into();
            }
        }
    }
}

fn position_of(feed: &Feed, subscriptions: &[Subscription]) -> Option<Cursor> {
    let positions = subscriptions
        .iter()
        .map(|subscription| feed.position(&subscription.topics, &subscription.after));
    let positions = positions.collect::<Option<Vec<_>>>()?;
    let lowest = positions.into_iter().min_by_key(|position| position.seq);
    Some(lowest.unwrap_or_else(|| feed.head()))
}
