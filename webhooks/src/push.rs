//! One endpoint's loop: it drains the feed by a cursor of its own and owes every message to its
//! endpoint until it is delivered or dead.
//!
//! Endpoints share nothing but the feed, so a slow or dead one delays only itself. Within one
//! endpoint a message that failed waits apart, by the time of its next attempt, and newer ones go
//! ahead.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use common::{Cursor, Feed, FeedError, Message, Page, PageLimit};
use tokio::{
    sync::watch,
    task::{Id, JoinError, JoinSet},
    time::{Instant, interval, sleep_until, timeout_at},
};
use tracing::error;

use crate::{
    deliver::{Attempt, Failure, Outcome, Verdict},
    endpoint::Endpoint,
    guard::Guard,
    pool::Pool,
    schedule::Schedule,
    tls::Tls,
};

/// Attempts of one endpoint at one time, as long as it is well. One that fails gets them one at a
/// time until one succeeds: it need not be flooded.
pub(crate) const CONCURRENCY: usize = 8;
/// Messages of one endpoint that may wait for their next attempt. Beyond, newer ones stay in the
/// feed, whose retention bounds them.
const MAX_WAITING: usize = 1_000;
/// And their bytes, which the feed may have let go of already. The last message may go beyond.
const MAX_WAITING_BYTES: usize = 8 << 20;
/// How often the cursor of an endpoint without news is moved to the head.
const PASS_BY: Duration = Duration::from_secs(15);
/// How long to leave a feed alone that failed.
const FEED_PAUSE: Duration = Duration::from_secs(1);

/// What all the loops share.
pub(crate) struct Outbound {
    /// Not the handle that the server closes: what is in flight outlives the listener.
    pub(crate) feed: Feed,
    pub(crate) guard: Guard,
    pub(crate) schedule: Schedule,
    pub(crate) attempt_timeout: Duration,
    pub(crate) drain: Duration,
}

/// A message that is owed to the endpoint.
struct Delivery {
    message: Arc<Message>,
    /// Attempts that failed.
    failed: usize,
}

/// The state of one loop. A message that was claimed is in `in_flight` or in `waiting` until it is
/// delivered or dead.
pub(crate) struct Push {
    outbound: Arc<Outbound>,
    endpoint: Arc<Endpoint>,
    pool: Pool,
    /// Everything up to here was claimed.
    after: Cursor,
    attempts: JoinSet<Outcome>,
    /// What each attempt's task is about.
    in_flight: HashMap<Id, Delivery>,
    /// By the time of the next attempt; the message's number makes the key unique.
    waiting: BTreeMap<(Instant, u64), Delivery>,
    /// Bytes of the messages in both.
    bytes: usize,
    /// The last attempt failed.
    failing: bool,
    /// The endpoint asked to be left alone until then.
    resume: Instant,
}

impl Push {
    pub(crate) fn new(outbound: Arc<Outbound>, endpoint: Arc<Endpoint>, after: Cursor) -> Self {
        Self {
            outbound,
            endpoint,
            pool: Pool::default(),
            after,
            attempts: JoinSet::new(),
            in_flight: HashMap::new(),
            waiting: BTreeMap::new(),
            bytes: 0,
            failing: false,
            resume: Instant::now(),
        }
    }

    /// Delivers until `stopping`, then claims no more and finishes what is in flight. What is still
    /// owed then is [`Push::owed`].
    pub(crate) async fn run(mut self, mut stopping: watch::Receiver<bool>) -> Self {
        let mut quiet = interval(PASS_BY);
        loop {
            let free = self.free();
            let due = self.due();
            let after = self.after.into();
            let limit = PageLimit {
                messages: free,
                bytes: MAX_WAITING_BYTES.saturating_sub(self.bytes),
            };
            // Chance decides between news and retries, so that neither starves the other.
            tokio::select! {
                () = stop(&mut stopping) => break,
                Some(ended) = self.attempts.join_next_with_id() => self.settle(ended),
                page = self.outbound.feed.next(&self.endpoint.topics, &after, limit), if free > 0 => self.claim(page),
                () = sleep_until(due.unwrap_or(self.resume)), if due.is_some() => self.retry(),
                _ = quiet.tick() => self.pass_by().await,
            }
            self.report();
        }
        let deadline = Instant::now() + self.outbound.drain;
        while let Ok(Some(ended)) = timeout_at(deadline, self.attempts.join_next_with_id()).await {
            self.settle(ended);
        }
        self.attempts.abort_all();
        self.report();
        self
    }

    /// How many messages may be claimed now.
    fn free(&self) -> usize {
        let paused = self.resume > Instant::now();
        let count = self.waiting.len() + self.in_flight.len();
        if paused || count >= MAX_WAITING || self.bytes >= MAX_WAITING_BYTES {
            return 0;
        }
        self.free_slots()
    }

    fn free_slots(&self) -> usize {
        let slots = if self.failing { 1 } else { CONCURRENCY };
        slots.saturating_sub(self.in_flight.len())
    }

    /// When there is something to do without news: the end of a pause, else the next retry.
    fn due(&self) -> Option<Instant> {
        if self.resume > Instant::now() {
            return Some(self.resume);
        }
        let (&(due, _), _) = self.waiting.first_key_value()?;
        (self.free_slots() > 0).then_some(due)
    }

    fn claim(&mut self, page: Result<Page, FeedError>) {
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                error!(%error, endpoint = %self.endpoint.id, "the feed failed an endpoint");
                self.resume = Instant::now() + FEED_PAUSE;
                return;
            }
        };
        if let Some(gap) = &page.gap {
            self.endpoint.record_gap(gap);
        }
        self.after = page.next;
        for message in page.messages {
            if self.endpoint.wants(&message) {
                self.bytes += message.json.len();
                self.attempt(Delivery { message, failed: 0 });
            }
        }
    }

    /// Without news the cursor moves to the head, so that what the feed lets go of in other topics
    /// does not look like a gap in these.
    async fn pass_by(&mut self) {
        let after = self.after.into();
        let (feed, topics) = (&self.outbound.feed, &self.endpoint.topics);
        if let Ok(page) = feed.read(topics, &after, PageLimit::default()).await
            && !page.is_news()
        {
            self.after = page.next;
        }
    }

    /// Begins the attempt that is due; at the mere end of a pause there may be none.
    fn retry(&mut self) {
        let now = Instant::now();
        let paused = self.resume > now;
        let due = self.waiting.first_entry();
        if let Some(due) = due.filter(|due| !paused && due.key().0 <= now) {
            let delivery = due.remove();
            self.attempt(delivery);
        }
    }

    fn attempt(&mut self, delivery: Delivery) {
        let message = delivery.message.clone();
        let attempt = Attempt {
            guard: self.outbound.guard,
            tls: Tls::system(),
            pool: self.pool.clone(),
            url: self.endpoint.url.clone(),
            secrets: self.endpoint.secrets.clone(),
            deadline: self.outbound.attempt_timeout,
        };
        let task = self
            .attempts
            .spawn(async move { attempt.run(&message).await });
        self.in_flight.insert(task.id(), delivery);
    }

    /// An attempt has ended: the delivery is made, waits for the next one, or is dead.
    fn settle(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let (id, outcome) = ended.unwrap_or_else(|error| (error.id(), panicked(&error)));
        let delivery = self
            .in_flight
            .remove(&id)
            .expect("it was put there with its attempt");
        self.failing = outcome.result.is_err();
        let attempt = delivery.failed + 1;
        let delay = match &outcome.result {
            Ok(_) => None,
            Err(failure) => self.postpone(attempt, failure),
        };
        let next = delay.map(|delay| SystemTime::now() + delay);
        self.endpoint
            .record(&delivery.message, attempt, &outcome, next);
        if let Some(delay) = delay {
            let key = (Instant::now() + delay, delivery.message.id.seq);
            let failed = attempt;
            self.waiting.insert(key, Delivery { failed, ..delivery });
        } else {
            self.bytes -= delivery.message.json.len();
        }
    }

    /// The time until the next attempt. An endpoint that asks for it is left alone until then, with all
    /// of its messages.
    fn postpone(&mut self, failed: usize, failure: &Failure) -> Option<Duration> {
        let delay = self.outbound.schedule.delay(failed, rand::random());
        let pause = match failure.verdict() {
            Verdict::Retry => Duration::ZERO,
            Verdict::Pause(asked) => asked.or(delay).unwrap_or_default(),
            Verdict::Gone => return None,
        };
        self.resume = self.resume.max(Instant::now() + pause);
        delay.map(|delay| delay.max(pause))
    }

    fn report(&self) {
        let mut status = self.endpoint.status();
        status.after = self.after;
        status.in_flight = self.in_flight.len();
        status.waiting = self.waiting.len();
    }

    /// Messages that this endpoint has not got and, since they live in memory, will never get.
    pub(crate) async fn owed(&self) -> usize {
        let mut owed = self.in_flight.len() + self.waiting.len();
        let mut after = self.after.into();
        let (feed, topics) = (&self.outbound.feed, &self.endpoint.topics);
        while let Ok(page) = feed.read(topics, &after, PageLimit::default()).await {
            let wanted = |message: &&Arc<Message>| self.endpoint.wants(message);
            owed += page.messages.iter().filter(wanted).count();
            if !page.more {
                break;
            }
            after = page.next.into();
        }
        owed
    }
}

/// Resolves when the server drains.
async fn stop(stopping: &mut watch::Receiver<bool>) {
    // That nobody is left to say so says it too.
    let _ = stopping.wait_for(|stop| *stop).await;
}

fn panicked(error: &JoinError) -> Outcome {
    error!(%error, "an attempt's task failed");
    Outcome {
        at: SystemTime::now(),
        duration: Duration::ZERO,
        remote: None,
        result: Err(Failure::Panicked),
    }
}

#[cfg(test)]
mod tests {
    use common::{Data, Draft, Retention};
    use tokio::time::sleep;

    use super::*;
    use crate::endpoint::Registration;

    fn outbound(feed: Feed) -> Arc<Outbound> {
        Arc::new(Outbound {
            feed,
            guard: Guard::default(),
            schedule: Schedule::default(),
            attempt_timeout: Duration::ZERO,
            drain: Duration::ZERO,
        })
    }

    fn endpoint(after: Cursor) -> Arc<Endpoint> {
        let registration = r#"{"url":"http://127.0.0.1:1/","topics":["quiet"]}"#;
        let registration: Registration = serde_json::from_str(registration).unwrap();
        Arc::new(Endpoint::new(registration.parse().unwrap(), after))
    }

    async fn publish(feed: &Feed, topic: &str) {
        let draft = Draft::new(Data::text("hello"));
        feed.publish(topic.parse().unwrap(), draft).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_let_go_in_other_topics_is_no_gap_to_a_quiet_endpoint() {
        // A new topic takes the old one's place.
        let feed = Feed::new(Retention {
            topics: 1,
            idle: Duration::ZERO,
            ..Retention::default()
        });
        let endpoint = endpoint(feed.head());
        let push = Push::new(outbound(feed.clone()), endpoint.clone(), feed.head());
        let (_stop, stopping) = watch::channel(false);
        tokio::spawn(push.run(stopping));
        publish(&feed, "a").await;
        sleep(PASS_BY).await;
        assert_eq!(endpoint.status().after, feed.head());
        publish(&feed, "quiet").await;
        sleep(Duration::from_millis(1)).await; // it is claimed before the time goes on
        assert_eq!(endpoint.status().after, feed.head());
        assert!(endpoint.deliveries_json().contains(r#""gaps":[]"#));
    }
}
