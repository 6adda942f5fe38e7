//! Streams that wait for the same news share one reader. This file says whether a stream waits, and where it is,
//! compared to that reader.

use std::cmp::Ordering;

use common::After;
use tokio::time::Instant;

use crate::stream::{Reader, State, Subscriber};

impl Subscriber {
    /// Whether it has sent all there is and now only waits for news.
    pub(super) fn waits(&self) -> bool {
        let reader = &self.reader;
        let is_over = reader.streams.feed.is_closed() || Instant::now() >= reader.end_at;
        reader.is_live && matches!(self.state, State::Open) && !is_over
    }
}

impl Reader {
    /// Whether this reader is behind or ahead of another one of the same subscription. They are equal if no
    /// message of the subscription lies between them. Comparing the positions is not enough, because
    /// messages of other topics move them too. Readers that cannot be compared count as behind.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        match (&self.after, &other.after) {
            (After::Cursor(after), After::Cursor(others)) if after.epoch == others.epoch => {
                let is_ahead = self.last > others.seq;
                is_ahead.cmp(&(other.last > after.seq))
            }
            _ => Ordering::Less,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use common::{Cursor, Data, Draft, Feed, Retention};
    use futures_util::FutureExt;
    use http_body_util::Either;
    use hyper::Request;

    use super::*;
    use crate::stream::{StreamLimits, Streams};

    const LIMITS: StreamLimits = StreamLimits {
        streams: 1,
        heartbeat: Duration::from_secs(15),
        retry: Duration::from_secs(2),
        age: Duration::from_secs(3_600),
        drain: Duration::from_secs(10),
    };

    /// A reader of the topic `a`.
    fn reader(feed: &Feed, newest: bool) -> Reader {
        let streams = Arc::new(Streams::new(feed.handle(), LIMITS));
        let query = if newest { "&newest=1" } else { "" };
        let request = Request::get(format!("/?after={}{query}", feed.head())).body(());
        let answer = streams.subscribe("a", &request.unwrap()).unwrap();
        let Either::Right(subscriber) = answer.into_body() else {
            panic!("there are slots");
        };
        subscriber.reader
    }

    #[tokio::test]
    async fn a_clone_is_where_its_reader_is() {
        let feed = Feed::new(Retention::default());
        let (behind, mut ahead) = (reader(&feed, false), reader(&feed, false));
        let draft = Draft::new(Data::text("news"));
        feed.publish("a".parse().unwrap(), draft).await.unwrap();
        ahead.next().await.unwrap();
        let clone = ahead.clone();
        assert_eq!(clone.order(&ahead), Ordering::Equal);
        assert_eq!(behind.order(&clone), Ordering::Less);
        assert_eq!(clone.order(&behind), Ordering::Greater);
    }

    /// A group's reader, and a stream that reads alone until it joins. Each has read up to now.
    struct Joining {
        feed: Feed,
        group: Reader,
        alone: Option<Reader>,
        /// What the stream is sent.
        sent: Vec<u8>,
        /// The topic of each message.
        topics: Vec<char>,
    }

    impl Joining {
        fn new(retained: usize, newest: bool) -> Self {
            let feed = Feed::new(Retention {
                messages: retained,
                ..Retention::default()
            });
            let alone = reader(&feed, newest);
            let (group, alone, sent) = (alone.clone(), Some(alone), Vec::new());
            Self {
                feed,
                group,
                alone,
                sent,
                topics: Vec::new(),
            }
        }

        async fn step(&mut self, step: char) {
            match step {
                'a' | 'b' => {
                    let draft = Draft::new(Data::text("news"));
                    let topic = step.to_string().parse().unwrap();
                    self.feed.publish(topic, draft).await.unwrap();
                    self.topics.push(step);
                }
                'r' => self.read_alone().await,
                'g' => self.read_in_the_group(),
                _ => self.join().await,
            }
        }

        async fn read_alone(&mut self) {
            if let Some(alone) = &mut self.alone {
                alone.is_live = false; // It reads without waiting.
                let blocks = alone.next().await.unwrap();
                self.sent.extend(blocks.expect("it is not old"));
            }
        }

        /// As `Group::run`, which waits if there is no news.
        fn read_in_the_group(&mut self) {
            self.group.is_live = true;
            let news = self.group.next().now_or_never();
            if let Some(Ok(Some(blocks))) = news
                && self.alone.is_none()
            {
                self.sent.extend(blocks);
            }
        }

        /// As `Group::add`. A stream that is ahead stays until the group has read its news.
        async fn join(&mut self) {
            let Some(alone) = self.alone.as_ref().filter(|alone| alone.is_live) else {
                return;
            };
            if alone.order(&self.group) == Ordering::Greater {
                self.read_in_the_group();
            }
            let alone = self.alone.as_ref().expect("it reads alone");
            let order = alone.order(&self.group);
            assert_ne!(order, Ordering::Greater, "the group has read its news");
            if order == Ordering::Equal {
                self.alone = None;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn in_every_order_of_steps_a_stream_that_joins_is_sent_each_message_once_or_a_gap() {
        const STEPS: [char; 5] = ['a', 'b', 'r', 'g', 'j'];
        for orders in 0..STEPS.len().pow(4) * 3 {
            let (retained, newest) = [(100, false), (1, false), (100, true)][orders % 3];
            let mut joining = Joining::new(retained, newest);
            let digits = (1..=4).map(|place| orders / 3 / STEPS.len().pow(place - 1));
            for step in digits.map(|digit| STEPS[digit % STEPS.len()]) {
                joining.step(step).await;
            }
            for step in "rjagag".chars() {
                joining.step(step).await;
            }
            assert!(joining.alone.is_none(), "it has joined");
            is_whole(&joining, newest);
        }
    }

    fn is_whole(joining: &Joining, newest: bool) {
        let mut next = 1;
        for event in crate::parse::Parser::default().feed(&joining.sent) {
            if event.event == "gap" {
                let gap: serde_json::Value = serde_json::from_str(&event.data).unwrap();
                let resumed: Cursor = gap["resumed"].as_str().unwrap().parse().unwrap();
                next = next.max(resumed.seq + 1);
                continue;
            }
            let id: Cursor = event.id.parse().unwrap();
            // Messages of the other topic have numbers, too.
            let others = |seq: u64| joining.topics[seq as usize - 1] == 'b';
            assert!(id.seq >= next, "{} twice", id.seq);
            assert!(newest || (next..id.seq).all(others), "{next} is lost");
            next = id.seq + 1;
        }
        assert_eq!(next, joining.feed.head().seq + 1, "the last one is sent");
    }
}
