//! One endpoint's loop: it drains the feed by a cursor of its own and owes every message to its
//! endpoint until it is delivered or dead.
//!
//! Endpoints share nothing but the feed and the store, so a slow or dead one delays only itself.
//! Within one endpoint a message that failed waits apart, by the time of its next attempt, and newer
//! ones go ahead.
//!
//! What has ended is recorded by one transaction at a time, and what ends meanwhile by the next. Until
//! it is recorded it holds its place: after a crash no more is repeated than an endpoint may have in
//! flight. The cursor passes a message when it is delivered or has a row; as long as there are places
//! free it waits for the slow, and when there are none, the slow get a row and it goes on.

use std::{
    collections::{BTreeMap, HashMap},
    future::pending,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use common::{Cursor, Feed, FeedError, Message, Page, PageLimit, commit::CommitError};
use tokio::{
    sync::watch,
    task::{Id, JoinError, JoinSet},
    time::{Instant, interval, sleep, sleep_until, timeout_at},
};
use tracing::{error, warn};

use crate::{
    deliver::{Attempt, Failure, Outcome, Verdict},
    endpoint::Endpoint,
    guard::Guard,
    pool::Pool,
    schedule::Schedule,
    store::{self, AttemptRow, Body, Disabled, Owed, Saved, Settlement, Store, Waiting},
    tls::Tls,
};

/// Attempts of one endpoint at one time, as long as it is well. One that fails gets them one at a
/// time until one succeeds: it need not be flooded.
pub(crate) const CONCURRENCY: usize = 8;
/// Messages of one endpoint that may wait for their next attempt. Beyond, newer ones stay in the
/// feed, where they are pinned.
const MAX_WAITING: usize = 1_000;
/// And their bytes, which the feed may have let go of already. The last message may go beyond.
const MAX_WAITING_BYTES: usize = 8 << 20;
/// How often the cursor of an endpoint without news is moved to the head.
const PASS_BY: Duration = Duration::from_secs(15);
/// How long to leave a feed or a store alone that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// Why an endpoint is disabled that answered 410.
const GONE: &str = "answered 410 Gone";

/// What all the loops share.
pub(crate) struct Outbound {
    /// Not the handle that the server closes: what is in flight outlives the listener.
    pub(crate) feed: Feed,
    pub(crate) store: Store,
    pub(crate) guard: Guard,
    pub(crate) schedule: Schedule,
    pub(crate) attempt_timeout: Duration,
    /// An endpoint is disabled that has only failed for so long.
    pub(crate) give_up: Duration,
    /// What an endpoint that is disabled has not got is kept for so long.
    pub(crate) hold: Duration,
    pub(crate) drain: Duration,
}

/// A message that is owed to the endpoint and under way.
struct Delivery {
    seq: u64,
    /// Attempts that failed.
    failed: usize,
    /// Of the message, in bytes.
    size: usize,
    /// The message itself, at its first attempt. Later it is read from its row.
    body: Option<Body>,
    /// It has a row in the store.
    row: bool,
}

/// An attempt that has ended and is not recorded.
struct Ended {
    delivery: Delivery,
    fate: Fate,
    attempt: AttemptRow,
    /// Why it failed.
    reason: Option<String>,
}

/// What becomes of a delivery.
#[derive(Clone, Copy)]
enum Fate {
    Delivered,
    /// For the loop and for the store.
    Waits(Instant, SystemTime),
    Dead,
}

/// A transaction that is under way.
struct Recording {
    ended: Vec<Ended>,
    cursor: u64,
    written: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// The state of one loop. A message that was claimed is in `in_flight`, then in `ended`, then in
/// `recording`, and if it failed in `waiting`, until it is delivered or dead.
pub(crate) struct Push {
    outbound: Arc<Outbound>,
    endpoint: Arc<Endpoint>,
    pool: Pool,
    /// Everything up to here was claimed.
    after: Cursor,
    /// The cursor in the store.
    recorded: u64,
    attempts: JoinSet<(Outcome, Option<Body>)>,
    /// What each attempt's task is about.
    in_flight: HashMap<Id, Delivery>,
    ended: Vec<Ended>,
    recording: Option<Recording>,
    /// By the time of the next attempt; the message's number makes the key unique.
    waiting: BTreeMap<(Instant, u64), Waiting>,
    /// Bytes of all these messages.
    bytes: usize,
    /// The number of the last attempt.
    number: u64,
    /// The first failure after the last success.
    failing: Option<SystemTime>,
    /// The endpoint is not to be called any more.
    disabled: Option<Disabled>,
    /// The endpoint asked to be left alone until then.
    resume: Instant,
}

impl Push {
    /// Goes on where the endpoint's loop was when it was `saved`.
    pub(crate) fn new(
        outbound: Arc<Outbound>,
        endpoint: Arc<Endpoint>,
        saved: &Saved,
        waiting: Vec<Waiting>,
    ) -> Self {
        let (now, time) = (Instant::now(), SystemTime::now());
        let until = |due: SystemTime| now + due.duration_since(time).unwrap_or_default();
        let after = endpoint.status().after;
        let push = Self {
            outbound,
            endpoint,
            pool: Pool::default(),
            after,
            recorded: after.seq,
            attempts: JoinSet::new(),
            in_flight: HashMap::new(),
            ended: Vec::new(),
            recording: None,
            bytes: waiting.iter().map(|waiting| waiting.size).sum(),
            waiting: waiting
                .into_iter()
                .map(|waiting| ((until(waiting.due), waiting.seq), waiting))
                .collect(),
            number: saved.attempts,
            failing: saved.failing,
            disabled: saved.disabled.clone(),
            resume: now,
        };
        push.report();
        push
    }

    /// Delivers until it is to stop or the endpoint is disabled, then claims no more and finishes what is
    /// in flight, in the time that it is given. What is still owed then is [`Push::owed`].
    pub(crate) async fn run(mut self, mut stopping: watch::Receiver<Option<Duration>>) -> Self {
        let mut quiet = interval(PASS_BY);
        while self.disabled.is_none() {
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
                () = written(&mut self.recording) => self.written(),
                page = self.outbound.feed.next(&self.endpoint.topics, &after, limit), if free > 0 => self.claim(page),
                () = sleep_until(due.unwrap_or(self.resume)), if due.is_some() => self.retry(),
                _ = quiet.tick() => self.pass_by().await,
            }
            self.record(false);
            self.report();
        }
        let time = *stopping.borrow();
        let deadline = Instant::now() + time.unwrap_or(self.outbound.drain);
        if timeout_at(deadline, self.finish()).await.is_err() {
            self.attempts.abort_all();
        }
        self.report();
        self
    }

    /// Finishes and records what is in flight.
    async fn finish(&mut self) {
        loop {
            self.record(true);
            tokio::select! {
                Some(ended) = self.attempts.join_next_with_id() => self.settle(ended),
                () = written(&mut self.recording), if self.recording.is_some() => self.written(),
                else => return,
            }
        }
    }

    /// How many messages may be claimed now.
    fn free(&self) -> usize {
        let paused = self.resume > Instant::now();
        let count = self.waiting.len() + self.held();
        if paused || count >= MAX_WAITING || self.bytes >= MAX_WAITING_BYTES {
            return 0;
        }
        self.free_slots()
    }

    fn free_slots(&self) -> usize {
        let slots = if self.failing.is_some() {
            1
        } else {
            CONCURRENCY
        };
        slots.saturating_sub(self.held())
    }

    /// How many deliveries are under way or not recorded.
    fn held(&self) -> usize {
        let recording = self.recording.as_ref();
        let recording = recording.map_or(0, |recording| recording.ended.len());
        self.in_flight.len() + self.ended.len() + recording
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
                self.resume = Instant::now() + PAUSE;
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
                self.attempt(Delivery::first(&message));
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
        self.record(true);
    }

    /// Begins the attempt that is due; at the mere end of a pause there may be none.
    fn retry(&mut self) {
        let now = Instant::now();
        let paused = self.resume > now;
        let due = self.waiting.first_entry();
        if let Some(due) = due.filter(|due| !paused && due.key().0 <= now) {
            let Waiting {
                seq, failed, size, ..
            } = due.remove();
            self.attempt(Delivery {
                seq,
                failed,
                size,
                body: None,
                row: true,
            });
        }
    }

    fn attempt(&mut self, delivery: Delivery) {
        let attempt = Attempt {
            guard: self.outbound.guard,
            tls: Tls::system(),
            pool: self.pool.clone(),
            url: self.endpoint.url.clone(),
            secrets: self.endpoint.secrets(SystemTime::now()),
            deadline: self.outbound.attempt_timeout,
        };
        let (seq, body) = (delivery.seq, delivery.body.clone());
        let store = self.outbound.store.clone();
        let task = self.attempts.spawn(async move {
            let body = match body {
                Some(body) => Ok(body),
                None => read(&store, seq).await,
            };
            match body {
                Ok(body) => (attempt.run(&body).await, Some(body)),
                Err(error) => (Outcome::none(error.into()), None),
            }
        });
        self.in_flight.insert(task.id(), delivery);
    }

    /// An attempt has ended: the delivery is made, waits for the next one, or is dead, as soon as
    /// that is recorded.
    fn settle(&mut self, ended: Result<(Id, (Outcome, Option<Body>)), JoinError>) {
        let (id, (outcome, body)) = ended.unwrap_or_else(|error| (error.id(), panicked(&error)));
        let mut delivery = self
            .in_flight
            .remove(&id)
            .expect("it was put there with its attempt");
        let attempt = delivery.failed + 1;
        let fate = match &outcome.result {
            Ok(_) => {
                self.failing = None;
                Fate::Delivered
            }
            Err(failure) => {
                delivery.failed = attempt;
                self.judge(outcome.at, failure);
                self.postpone(attempt, failure)
            }
        };
        self.number += 1;
        let unread = || Cursor {
            seq: delivery.seq,
            ..self.after
        };
        let id = body.map_or_else(|| unread().to_string(), |body| body.id);
        let failure = outcome.result.as_ref().err();
        self.ended.push(Ended {
            attempt: AttemptRow {
                number: self.number,
                id,
                attempt,
                at: outcome.at,
                duration: outcome.duration,
                remote: outcome.remote.map(|remote| remote.to_string()),
                status: outcome.status().map(|status| status.as_u16()),
                error: failure.map(|failure| failure.class().to_owned()),
                next: fate.due(),
            },
            reason: failure.map(Failure::to_string),
            delivery,
            fate,
        });
    }

    /// Whether the endpoint is to be called any more, after this failure.
    fn judge(&mut self, at: SystemTime, failure: &Failure) {
        let since = *self.failing.get_or_insert(at);
        let failing = at.duration_since(since).unwrap_or_default();
        let reason = match failure.verdict() {
            Verdict::Gone => GONE.to_owned(),
            _ if failing >= self.outbound.give_up => {
                let failing = humantime::format_duration(Duration::from_secs(failing.as_secs()));
                format!("no success for {failing}")
            }
            _ => return,
        };
        warn!(endpoint = self.endpoint.id, reason, "disabled");
        self.disabled = Some(Disabled {
            since: at,
            reason,
            expired: None,
        });
    }

    /// When there is another attempt, if there is one. An endpoint that asks for it is left alone until
    /// then, with all of its messages.
    fn postpone(&mut self, failed: usize, failure: &Failure) -> Fate {
        let delay = self.outbound.schedule.delay(failed, rand::random());
        let pause = match failure.verdict() {
            Verdict::Retry => Duration::ZERO,
            Verdict::Pause(asked) => asked.or(delay).unwrap_or_default(),
            Verdict::Gone => return Fate::Dead,
        };
        let now = Instant::now();
        self.resume = self.resume.max(now + pause);
        match delay.map(|delay| delay.max(pause)) {
            Some(delay) => Fate::Waits(now + delay, SystemTime::now() + delay),
            None => Fate::Dead,
        }
    }

    /// Begins to record what has ended, unless a transaction is under way. If `all`, then also that there
    /// was nothing for this endpoint, and the cursor does not wait for the slow.
    fn record(&mut self, all: bool) {
        if self.recording.is_some() {
            return;
        }
        let slow = if all || self.free_slots() == 0 || self.ended.iter().any(Ended::failed) {
            self.pass_the_slow()
        } else {
            Vec::new()
        };
        let under_way = self.in_flight.values().filter(|delivery| !delivery.row);
        let oldest = under_way.map(|delivery| delivery.seq - 1).min();
        let cursor = oldest.unwrap_or(self.after.seq);
        let ready = |ended: &mut Ended| ended.delivery.row || ended.delivery.seq <= cursor;
        let ended: Vec<Ended> = self.ended.extract_if(.., ready).collect();
        if ended.is_empty() && slow.is_empty() && !(all && cursor > self.recorded) {
            return;
        }
        let mut settlement = settlement(self.endpoint.number, cursor, slow, &ended);
        settlement.failing = self.failing;
        settlement.disabled = self.disabled.clone();
        self.recording = Some(Recording {
            ended,
            cursor,
            written: Box::pin(write(self.outbound.store.clone(), settlement)),
        });
    }

    /// A row for each delivery under way that is older than one that has ended.
    fn pass_the_slow(&mut self) -> Vec<Owed> {
        let newest = self.ended.iter().map(|ended| ended.delivery.seq).max();
        let is_slow = |delivery: &&mut Delivery| !delivery.row && Some(delivery.seq) < newest;
        let now = SystemTime::now();
        let row = |delivery: &mut Delivery| {
            delivery.row = true;
            Owed {
                seq: delivery.seq,
                failed: delivery.failed,
                due: Some(now),
                at: now,
                reason: None,
                body: delivery.body.clone(),
            }
        };
        let slow = self.in_flight.values_mut().filter(is_slow);
        slow.map(row).collect()
    }

    /// What has ended is recorded: its places are free, and what failed waits.
    fn written(&mut self) {
        let Some(Recording { ended, cursor, .. }) = self.recording.take() else {
            return;
        };
        self.recorded = cursor;
        let mut status = self.endpoint.status();
        for ended in ended {
            let delivery = ended.delivery;
            match ended.fate {
                Fate::Delivered => status.delivered += 1,
                Fate::Dead => {
                    let (id, reason) = (&ended.attempt.id, &ended.reason);
                    let reason = reason.as_deref().unwrap_or_default();
                    warn!(
                        endpoint = self.endpoint.id,
                        id, reason, "a delivery is dead"
                    );
                    status.dead += 1;
                }
                Fate::Waits(due, time) => {
                    let waiting = Waiting {
                        seq: delivery.seq,
                        failed: delivery.failed,
                        due: time,
                        size: delivery.size,
                    };
                    self.bytes += delivery.size;
                    self.waiting.insert((due, delivery.seq), waiting);
                }
            }
            self.bytes -= delivery.size;
            status.last_error = ended.reason.or(status.last_error.take());
        }
    }

    fn report(&self) {
        let mut status = self.endpoint.status();
        status.after = self.after;
        status.recorded = self.recorded;
        status.disabled = self.disabled.clone();
        status.in_flight = self.held();
        status.waiting = self.waiting.len();
        status.oldest_due = self.oldest_due();
    }

    /// When the next retry is due, or was, if it has to wait for its turn.
    fn oldest_due(&self) -> Option<SystemTime> {
        let (&(due, _), _) = self.waiting.first_key_value()?;
        let (now, time) = (Instant::now(), SystemTime::now());
        Some(match due.checked_duration_since(now) {
            Some(left) => time + left,
            None => time - (now - due),
        })
    }

    /// Messages that this endpoint has not got and, where they live in memory, will never get.
    pub(crate) async fn owed(self) -> usize {
        let recording = self.recording.iter().flat_map(|recording| &recording.ended);
        let unrecorded = self.ended.iter().chain(recording);
        let unrecorded = unrecorded.filter(|ended| matches!(ended.fate, Fate::Waits(..)));
        let mut owed = self.in_flight.len() + self.waiting.len() + unrecorded.count();
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

impl Delivery {
    fn first(message: &Message) -> Self {
        Self {
            seq: message.id.seq,
            failed: 0,
            size: message.json.len(),
            body: Some(Body {
                id: message.id.to_string(),
                json: message.json.clone(),
            }),
            row: false,
        }
    }
}

impl Ended {
    fn failed(&self) -> bool {
        !matches!(self.fate, Fate::Delivered)
    }
}

impl Fate {
    fn due(self) -> Option<SystemTime> {
        match self {
            Self::Waits(_, due) => Some(due),
            Self::Delivered | Self::Dead => None,
        }
    }
}

/// What is to be written.
fn settlement(endpoint: i64, cursor: u64, slow: Vec<Owed>, ended: &[Ended]) -> Settlement {
    let mut settlement = Settlement {
        endpoint,
        cursor,
        owed: slow,
        ..Settlement::default()
    };
    for ended in ended {
        let delivery = &ended.delivery;
        settlement.attempts.push(ended.attempt.clone());
        settlement.last_error = ended.reason.clone().or(settlement.last_error);
        match ended.fate {
            Fate::Delivered => {
                settlement.delivered += 1;
                settlement.paid.extend(delivery.row.then_some(delivery.seq));
            }
            Fate::Waits(..) | Fate::Dead => settlement.owed.push(Owed {
                seq: delivery.seq,
                failed: delivery.failed,
                due: ended.fate.due(),
                at: ended.attempt.at,
                reason: ended.reason.clone(),
                body: delivery.body.clone(),
            }),
        }
    }
    settlement
}

/// Writes until it is written. After a failure of the disk that is never: then the loop comes to a halt
/// with all its places taken, and the next start goes on from what is there.
async fn write(store: Store, settlement: Settlement) {
    let settlement = Arc::new(settlement);
    loop {
        let settlement = settlement.clone();
        let settle = move |database: &_| store::settle(database, &settlement);
        match store.run(move |transaction| settle(transaction)).await {
            Ok(()) => return,
            Err(error @ CommitError::NoRoom) => {
                warn!(%error, "what was delivered is not recorded");
                sleep(PAUSE).await;
            }
            Err(CommitError::Stopped) => pending().await,
        }
    }
}

/// Resolves when the transaction that is under way is.
async fn written(recording: &mut Option<Recording>) {
    match recording {
        Some(recording) => recording.written.as_mut().await,
        None => pending().await,
    }
}

/// The message of a row.
async fn read(store: &Store, seq: u64) -> Result<Body, CommitError> {
    let body = store
        .run(move |database| store::body(database, seq))
        .await?;
    Ok(body.expect("a row refers to its message"))
}

/// Resolves when the loop is to stop.
async fn stop(stopping: &mut watch::Receiver<Option<Duration>>) {
    // That nobody is left to say so says it too.
    let _ = stopping.wait_for(Option::is_some).await;
}

fn panicked(error: &JoinError) -> (Outcome, Option<Body>) {
    error!(%error, "an attempt's task failed");
    (Outcome::none(Failure::Panicked), None)
}

#[cfg(test)]
mod tests {
    use common::{Data, Draft, Retention};
    use tokio::time::sleep;

    use super::*;
    use crate::endpoint::Registration;

    async fn outbound(feed: Feed) -> Arc<Outbound> {
        Arc::new(Outbound {
            store: Store::open(&feed).await.unwrap(),
            feed,
            guard: Guard::default(),
            schedule: Schedule::default(),
            attempt_timeout: Duration::ZERO,
            give_up: Duration::MAX,
            hold: Duration::MAX,
            drain: Duration::ZERO,
        })
    }

    /// A new endpoint that nobody answers for.
    async fn start(outbound: Arc<Outbound>) -> (Arc<Endpoint>, Push) {
        let registration = r#"{"url":"http://127.0.0.1:1/","topics":["quiet"]}"#;
        let registration: Registration = serde_json::from_str(registration).unwrap();
        let head = outbound.feed.head();
        let (target, secret) = registration.parse().unwrap();
        let saved = target.save(&secret, head.seq);
        let endpoint = Arc::new(Endpoint::restore(&saved, head.epoch).unwrap());
        let push = Push::new(outbound, endpoint.clone(), &saved, Vec::new());
        (endpoint, push)
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
        let (endpoint, push) = start(outbound(feed.clone()).await).await;
        let (_stop, stopping) = watch::channel(None);
        tokio::spawn(push.run(stopping));
        publish(&feed, "a").await;
        sleep(PASS_BY).await;
        assert_eq!(endpoint.status().after, feed.head());
        publish(&feed, "quiet").await;
        sleep(Duration::from_millis(1)).await; // it is claimed before the time goes on
        assert_eq!(endpoint.status().after, feed.head());
        assert!(
            endpoint
                .deliveries_json(vec![], vec![])
                .contains(r#""gaps":[]"#)
        );
    }
}
