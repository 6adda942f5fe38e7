//! One endpoint's loop: it drains the feed by a cursor of its own and owes every message to its
//! endpoint until it is delivered or dead.
//!
//! Endpoints share nothing but the feed and the attempts' total number, so a slow or dead one
//! delays only itself. Within one endpoint a message that failed waits apart, by the time of its
//! next attempt, and newer ones go ahead.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use common::{Cursor, Feed, FeedError, Message, Page, PageLimit};
use tokio::{
    sync::{Semaphore, watch},
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep_until, timeout_at},
};
use tracing::error;

use crate::{
    deliver::{Attempt, Failure, Outcome},
    endpoint::Endpoint,
    guard::Guard,
    schedule::Schedule,
};

/// Attempts of one endpoint at one time, as long as it is well. One that fails gets them one at a
/// time until one succeeds: it need not be flooded, and takes no other's place in `slots`.
pub(crate) const CONCURRENCY: usize = 8;
/// Messages of one endpoint that may wait for their next attempt. Beyond, newer ones stay in the
/// feed, whose retention bounds them.
const MAX_WAITING: usize = 1_000;
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
    /// One permit for each attempt that may run, over all endpoints.
    pub(crate) slots: Arc<Semaphore>,
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
    /// Everything up to here was claimed.
    after: Cursor,
    attempts: JoinSet<Outcome>,
    /// What each attempt's task is about.
    in_flight: HashMap<Id, Delivery>,
    /// By the time of the next attempt; the message's number makes the key unique.
    waiting: BTreeMap<(Instant, u64), Delivery>,
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
            after,
            attempts: JoinSet::new(),
            in_flight: HashMap::new(),
            waiting: BTreeMap::new(),
            failing: false,
            resume: Instant::now(),
        }
    }

    /// Delivers until `stopping`, then claims no more and finishes what is in flight. What is still
    /// owed then is [`Push::owed`].
    pub(crate) async fn run(mut self, mut stopping: watch::Receiver<bool>) -> Self {
        loop {
            let free = self.free();
            let due = self.due();
            let after = self.after.into();
            let limit = PageLimit {
                messages: free,
                ..PageLimit::default()
            };
            // Chance decides between news and retries, so that neither starves the other.
            tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => break,
                Some(ended) = self.attempts.join_next_with_id() => self.settle(ended),
                page = self.outbound.feed.next(&self.endpoint.topics, &after, limit), if free > 0 => self.claim(page),
                () = sleep_until(due.unwrap_or(self.resume)), if due.is_some() => self.retry(),
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
        if paused || self.waiting.len() + self.in_flight.len() >= MAX_WAITING {
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
                self.attempt(Delivery { message, failed: 0 });
            }
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
        let slots = self.outbound.slots.clone();
        let attempt = Attempt {
            guard: self.outbound.guard,
            url: self.endpoint.url.clone(),
            secrets: self.endpoint.secrets.clone(),
            deadline: self.outbound.attempt_timeout,
        };
        let task = self.attempts.spawn(async move {
            let _slot = slots.acquire().await.expect("nobody closes the slots");
            attempt.run(&message).await
        });
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
        }
    }

    /// The time until the next attempt. An endpoint that names one is left alone until then, with
    /// all of its messages.
    fn postpone(&mut self, failed: usize, failure: &Failure) -> Option<Duration> {
        let asked = match failure {
            Failure::Status { retry_after, .. } => retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        self.resume = self.resume.max(Instant::now() + asked);
        let delay = self.outbound.schedule.delay(failed, rand::random())?;
        Some(delay.max(asked))
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

fn panicked(error: &JoinError) -> Outcome {
    error!(%error, "an attempt's task failed");
    Outcome {
        at: SystemTime::now(),
        duration: Duration::ZERO,
        remote: None,
        result: Err(Failure::Panicked),
    }
}
