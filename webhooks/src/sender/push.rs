//! One endpoint's loop. It reads the feed with its own cursor, and attempts every message until it is
//! delivered or dead.
//!
//! Endpoints share only the feed, the store and the slots for attempts (`places.rs`), so a slow or dead
//! endpoint delays only itself. Within one endpoint, a message that failed waits for its next attempt,
//! and newer messages overtake it.
//!
//! One transaction at a time records the attempts that have ended. Those that end meanwhile are recorded
//! by the next. A finished attempt keeps its slot until it is recorded, so a crash repeats at most the
//! slots of one endpoint. The cursor passes a message once it is delivered or has a row. While slots are
//! free, the cursor waits for slow attempts. When none has been free for a while, slow attempts get a row
//! and the cursor moves on.
//!
//! The list of attempts is only informative, and would cost more than everything else. So while a backlog
//! is delivered without failures, the list is updated only from time to time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    future::pending,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use common::{Cursor, Feed, FeedError, Message, Page, PageLimit};
use rusqlite::Transaction;
use tokio::{
    sync::{Semaphore, watch},
    task::{Id, JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at},
};
use tracing::{error, warn};

use super::{
    deliver::{Attempt, Failure, MAX_RETRY_AFTER, Outcome, Payload, Verdict},
    endpoint::Endpoint,
    guard::Guard,
    places::Places,
    pool::Pool,
    steady::Steady,
    store::{
        self, AttemptRow, Disabled, Owed, PAUSE, REMEMBERED, Saved, Settlement, Store, Waiting,
    },
    tls::Tls,
};
use crate::schedule::Schedule;

/// Concurrent attempts of one healthy endpoint. A failing endpoint gets one attempt at a time until one
/// succeeds, so that it is not flooded.
pub(crate) const CONCURRENCY: usize = 8;
/// How many messages of one endpoint may wait for their next attempt. At the limit, newer messages stay
/// in the feed, where they are pinned.
const MAX_WAITING: usize = 1_000;
/// The limit on their bytes: the feed may have dropped these messages already. The last message may
/// exceed it.
const MAX_WAITING_BYTES: usize = 8 << 20;
/// How often the cursor of an endpoint without news is moved to the head.
pub(crate) const PASS_BY: Duration = Duration::from_secs(15);
/// When all slots are taken, an attempt that has run for this long is slow.
pub(crate) const SLOW: Duration = Duration::from_millis(100);
/// How many attempts may be missing at the end of the list.
const UNLISTED: u64 = 1_000;
/// The longest pause for an overloaded endpoint that sends no `Retry-After`.
const MAX_PAUSE: Duration = Duration::from_secs(300);
/// An endpoint is not disabled for the time without a success until it has failed this often.
const MIN_FAILURES: usize = 5;
/// The longest reason of a failure that is kept, in characters. It may repeat text of the endpoint.
const MAX_REASON: usize = 200;
/// Why an endpoint is disabled that answered 410.
const GONE: &str = "answered 410 Gone";

/// What all the loops share.
pub(crate) struct Outbound {
    /// Not the handle that the server closes: attempts in flight outlive the listener.
    pub(crate) feed: Feed,
    pub(crate) store: Store,
    pub(crate) guard: Guard,
    pub(crate) schedule: Schedule,
    /// The system's clock, except in tests.
    pub(crate) clock: fn() -> SystemTime,
    /// The same, without jumps: how long something has lasted is judged by it.
    pub(crate) steady: Steady,
    /// Slots for first attempts, in addition to the one that each endpoint has.
    pub(crate) stock: Arc<Semaphore>,
    pub(crate) attempt_timeout: Duration,
    /// An endpoint that has only failed for this long is disabled.
    pub(crate) give_up: Duration,
    /// How long the backlog of a disabled endpoint is kept.
    pub(crate) hold: Duration,
    /// The limit on the bytes of everything that is kept.
    pub(crate) disk: u64,
    pub(crate) drain: Duration,
}

/// A message that is being delivered.
struct Delivery {
    seq: u64,
    /// When it was claimed, or its retry came.
    since: Instant,
    /// Attempts that failed.
    failed: usize,
    /// Of the message, in bytes.
    size: usize,
    /// The message itself, at its first attempt. Later it is read from its row.
    body: Option<Payload>,
    /// It has a row in the store.
    row: bool,
}

/// A delivery that waits for its next attempt. Kept small, because there may be a million. Ordered by
/// time, so the least is the next.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Later {
    due: Instant,
    seq: u64,
    failed: u32,
    size: u32,
}

/// An attempt that has ended and is not recorded yet.
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

/// How an attempt's task ended, with the message if the task had it.
type AttemptEnded = Result<(Id, (Outcome, Option<Payload>)), JoinError>;

/// A transaction that is being written.
struct Recording {
    ended: Vec<Ended>,
    cursor: u64,
    written: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// The state of one loop. A claimed message is in `in_flight`, then in `ended`, then in `recording`. If
/// it failed it is then in `waiting`, and starts again, until it is delivered or dead.
pub(crate) struct Push {
    outbound: Arc<Outbound>,
    endpoint: Arc<Endpoint>,
    pool: Pool,
    places: Places,
    /// Everything up to here was claimed.
    after: Cursor,
    /// The cursor in the store.
    recorded: u64,
    attempts: JoinSet<(Outcome, Option<Payload>)>,
    /// What each attempt's task is about.
    in_flight: HashMap<Id, Delivery>,
    ended: Vec<Ended>,
    recording: Option<Recording>,
    /// Gaps: what the feed had dropped before it was claimed. Not recorded yet.
    gaps: Vec<String>,
    waiting: BinaryHeap<Reverse<Later>>,
    /// Messages after the cursor that already have a row. They are delivered from the row.
    ahead: HashSet<u64>,
    /// Bytes of all these messages.
    bytes: usize,
    /// The last read of the feed reached its end.
    caught_up: bool,
    /// The number of the last attempt.
    number: u64,
    /// The newest attempts, which are not in the list yet, and the number of the last one that is.
    unlisted: VecDeque<AttemptRow>,
    listed: u64,
    /// The first failure after the last success.
    failing: Option<SystemTime>,
    /// Failures since then, and since the loop began.
    failures: usize,
    /// Pauses since the last success that the endpoint did not ask for.
    overloads: usize,
    /// Set when the endpoint must not be called any more.
    disabled: Option<Disabled>,
    /// The endpoint asked for no attempt before this time.
    resume: Instant,
}

impl Push {
    /// Continues where the endpoint's loop was when it was `saved`.
    pub(crate) fn new(
        outbound: Arc<Outbound>,
        endpoint: Arc<Endpoint>,
        saved: &Saved,
        waiting: Vec<Waiting>,
    ) -> Self {
        let (now, time) = (Instant::now(), (outbound.clock)());
        let longest = outbound.schedule.longest().max(MAX_RETRY_AFTER);
        let later = |waiting: &Waiting| {
            Reverse(Later {
                // Another clock may have written it.
                due: now
                    + waiting
                        .due
                        .duration_since(time)
                        .unwrap_or_default()
                        .min(longest),
                seq: waiting.seq,
                failed: waiting.failed,
                size: waiting.size,
            })
        };
        let after = endpoint.status().after;
        let places = Places::of(&outbound.stock);
        let push = Self {
            outbound,
            endpoint,
            pool: Pool::default(),
            places,
            after,
            recorded: after.seq,
            attempts: JoinSet::new(),
            in_flight: HashMap::new(),
            ended: Vec::new(),
            recording: None,
            gaps: Vec::new(),
            bytes: waiting.iter().map(|waiting| waiting.size as usize).sum(),
            waiting: waiting.iter().map(later).collect(),
            ahead: saved.ahead.iter().copied().collect(),
            caught_up: true,
            number: saved.attempts,
            unlisted: VecDeque::new(),
            listed: saved.attempts,
            failing: saved.failing,
            failures: 0,
            overloads: 0,
            disabled: saved.disabled.clone(),
            resume: now,
        };
        push.report();
        push
    }

    /// Delivers until it must stop or the endpoint is disabled. Then claims nothing more and finishes the
    /// attempts in flight within the drain time. What then remains undelivered is [`Push::owed`].
    pub(crate) async fn run(mut self, mut stopping: watch::Receiver<Option<Duration>>) -> Self {
        let mut quiet = interval(PASS_BY);
        quiet.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.disabled.is_none() {
            let free = self.free();
            let due = self.due();
            let slow = self.slow_at();
            let after = self.after.into();
            let limit = PageLimit {
                messages: free,
                bytes: MAX_WAITING_BYTES.saturating_sub(self.bytes),
                ..PageLimit::default()
            };
            tokio::select! {
                biased;
                () = stop(&mut stopping) => break,
                Some(ended) = self.attempts.join_next_with_id() => self.settle_all(ended),
                () = written(&mut self.recording) => self.written(),
                page = self.outbound.feed.next(&self.endpoint.topics, &after, limit), if free > 0 => self.claim(page),
                () = sleep_until(due.unwrap_or(self.resume)), if due.is_some() => self.retry(),
                () = sleep_until(slow.unwrap_or(self.resume)), if slow.is_some() => {}
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

    /// Finishes and records the attempts in flight.
    async fn finish(&mut self) {
        loop {
            self.record(true);
            tokio::select! {
                Some(ended) = self.attempts.join_next_with_id() => self.settle_all(ended),
                () = written(&mut self.recording), if self.recording.is_some() => self.written(),
                else => return,
            }
        }
    }

    /// How many messages may be claimed now. First attempts go before retries, but one of several slots
    /// is kept for retries.
    fn free(&self) -> usize {
        let count = self.waiting.len() + self.held();
        if self.is_paused() || count >= MAX_WAITING || self.bytes >= MAX_WAITING_BYTES {
            return 0;
        }
        let due = self.due().is_some_and(|due| due <= Instant::now());
        let kept = self.slots() > 1 && due && !self.in_flight.values().any(Delivery::is_retry);
        self.free_slots().saturating_sub(usize::from(kept))
    }

    fn is_paused(&self) -> bool {
        self.resume > Instant::now()
    }

    /// The limit on deliveries that are in flight or not recorded.
    fn slots(&self) -> usize {
        if self.failing.is_some() {
            1
        } else {
            CONCURRENCY
        }
    }

    fn free_slots(&self) -> usize {
        self.slots().saturating_sub(self.held())
    }

    /// The number of deliveries that are in flight or not recorded.
    fn held(&self) -> usize {
        let recording = self.recording.as_ref();
        let recording = recording.map_or(0, |recording| recording.ended.len());
        self.in_flight.len() + self.ended.len() + recording
    }

    /// When to wake up without news: at the end of a pause, else at the next retry.
    fn due(&self) -> Option<Instant> {
        if self.is_paused() {
            return Some(self.resume);
        }
        let Reverse(next) = self.waiting.peek()?;
        (self.free_slots() > 0).then_some(next.due)
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
        if let Some(gap) = page.gap {
            let gap = gap.to_json();
            warn!(
                endpoint = self.endpoint.id,
                gap, "an endpoint misses messages"
            );
            self.gaps.push(gap);
        }
        self.after = page.next;
        self.caught_up = !page.more;
        for message in page.messages {
            if self.endpoint.wants(&message) && !self.ahead.remove(&message.id.seq) {
                self.bytes += message.json.len();
                self.attempt(Delivery::first(&message));
            }
        }
    }

    /// Without news the cursor moves to the head. Otherwise messages that the feed drops in other topics
    /// would look like a gap here.
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

    /// Begins the attempt that is due. At the end of a pause there may be none.
    fn retry(&mut self) {
        let now = Instant::now();
        let is_due = |next: &Reverse<Later>| next.0.due <= now;
        if self.is_paused() || !self.waiting.peek().is_some_and(is_due) {
            return;
        }
        if let Some(Reverse(next)) = self.waiting.pop() {
            self.attempt(Delivery {
                seq: next.seq,
                since: now,
                failed: next.failed as usize,
                size: next.size as usize,
                body: None,
                row: true,
            });
        }
    }

    fn attempt(&mut self, delivery: Delivery) {
        let (outbound, places) = (self.outbound.clone(), self.places.clone());
        let attempt = Attempt {
            guard: outbound.guard,
            tls: Tls::system(),
            pool: self.pool.clone(),
            url: self.endpoint.url.clone(),
            secrets: self.endpoint.secrets(outbound.steady.now()),
            deadline: outbound.attempt_timeout,
        };
        let (seq, body) = (delivery.seq, delivery.body.clone());
        let task = self.attempts.spawn(async move {
            let (body, _place) = match body {
                Some(body) => (body, places.first().await),
                None => (read(&outbound.store, seq).await, places.retry().await),
            };
            (attempt.run(&body, (outbound.clock)()).await, Some(body))
        });
        self.in_flight.insert(task.id(), delivery);
    }

    /// Takes this ended attempt, and others that have ended too: recording them together costs little more
    /// than recording one.
    fn settle_all(&mut self, ended: AttemptEnded) {
        self.settle(ended);
        while let Some(ended) = self.attempts.try_join_next_with_id() {
            self.settle(ended);
        }
    }

    /// Decides what becomes of a delivery after an attempt: delivered, retried or dead. It takes effect
    /// when it is recorded.
    fn settle(&mut self, ended: AttemptEnded) {
        let panicked = |error: JoinError| (error.id(), panicked(&error, (self.outbound.clock)()));
        let (id, (outcome, body)) = ended.unwrap_or_else(panicked);
        let mut delivery = self
            .in_flight
            .remove(&id)
            .expect("it was put there with its attempt");
        let attempt = delivery.failed + 1;
        let fate = match &outcome.result {
            Ok(_) => {
                self.failing = None;
                self.failures = 0;
                self.overloads = 0;
                Fate::Delivered
            }
            Err(failure) => {
                delivery.failed = attempt;
                self.judge(failure);
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
            reason: failure.map(reason),
            delivery,
            fate,
        });
    }

    /// Disables the endpoint if this failure is final, or if it has failed for too long.
    fn judge(&mut self, failure: &Failure) {
        let at = self.outbound.steady.now();
        let since = *self.failing.get_or_insert(at);
        let failing = at.duration_since(since).unwrap_or_default();
        self.failures += 1;
        let reason = match failure.verdict() {
            Verdict::Gone => GONE.to_owned(),
            _ if failing >= self.outbound.give_up && self.failures >= MIN_FAILURES => {
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

    /// When the next attempt is, if there is one. An endpoint that asks for a pause gets it for all of its
    /// messages.
    fn postpone(&mut self, failed: usize, failure: &Failure) -> Fate {
        let delay = self.outbound.schedule.delay(failed, rand::random());
        let pause = match failure.verdict() {
            Verdict::Retry => Duration::ZERO,
            Verdict::Pause(Some(asked)) => asked,
            Verdict::Pause(None) => self.pause(),
            Verdict::Gone => return Fate::Dead,
        };
        let now = Instant::now();
        self.resume = self.resume.max(now + pause);
        match delay.map(|delay| delay.max(pause)) {
            Some(delay) => Fate::Waits(now + delay, (self.outbound.clock)() + delay),
            None => Fate::Dead,
        }
    }

    /// The pause for an overloaded endpoint that sends no `Retry-After`. It grows by the steps of the
    /// schedule. After each pause, one attempt tests the endpoint.
    fn pause(&mut self) -> Duration {
        if !self.is_paused() {
            self.overloads += 1;
        }
        let pause = self.outbound.schedule.delay(self.overloads, 0.0);
        pause.unwrap_or(MAX_PAUSE).min(MAX_PAUSE)
    }

    /// Begins to record what has ended, unless a transaction is being written. In a backlog it waits until
    /// enough has ended. With `all` it also records that nothing was due, and the cursor does not wait for
    /// slow attempts.
    fn record(&mut self, all: bool) {
        if self.recording.is_some() {
            return;
        }
        let failed = self.ended.iter().any(Ended::failed);
        let passes = all || failed || self.slow_at().is_some_and(|slow| slow <= Instant::now());
        let gathers = !self.caught_up && self.oldest().is_some();
        if gathers && !passes && self.ended.len() < CONCURRENCY / 2 {
            return;
        }
        let slow = if passes {
            self.pass_the_slow()
        } else {
            Vec::new()
        };
        let cursor = self
            .oldest()
            .map_or(self.after.seq, |oldest| oldest.seq - 1);
        let ready = |ended: &mut Ended| ended.delivery.row || ended.delivery.seq <= cursor;
        let ended: Vec<Ended> = self.ended.extract_if(.., ready).collect();
        let attempts = ended.iter().map(|ended| ended.attempt.clone());
        self.unlisted.extend(attempts);
        let lists = all || failed || self.caught_up || self.number - self.listed >= UNLISTED;
        let attempts = self.list(lists);
        let nothing = ended.is_empty() && slow.is_empty() && self.gaps.is_empty();
        let nothing = nothing && attempts.is_empty();
        if nothing && !(all && cursor > self.recorded) {
            return;
        }
        let mut settlement = settlement(self.endpoint.number, cursor, slow, &ended);
        settlement.attempts = attempts;
        settlement.gaps = std::mem::take(&mut self.gaps);
        settlement.failing = self.failing;
        settlement.disabled = self.disabled.clone();
        self.recording = Some(Recording {
            ended,
            cursor,
            written: Box::pin(write(self.outbound.store.clone(), settlement)),
        });
    }

    /// The first message in flight without a row: the cursor cannot pass it.
    fn oldest(&self) -> Option<&Delivery> {
        let under_way = self.in_flight.values().filter(|delivery| !delivery.row);
        under_way.min_by_key(|delivery| delivery.seq)
    }

    /// When it becomes slow. Only if no slot is free and ended attempts hold some of them.
    fn slow_at(&self) -> Option<Instant> {
        let waits = self.recording.is_none() && self.free_slots() == 0 && !self.ended.is_empty();
        let oldest = self.oldest()?;
        waits.then_some(oldest.since + SLOW)
    }

    /// The attempts to add to the list now.
    fn list(&mut self, now: bool) -> Vec<AttemptRow> {
        let old = self.unlisted.len().saturating_sub(REMEMBERED as usize);
        self.unlisted.drain(..old);
        if !now {
            return Vec::new();
        }
        self.listed = self.number;
        self.unlisted.drain(..).collect()
    }

    /// A row for each delivery in flight that is older than one that has ended.
    fn pass_the_slow(&mut self) -> Vec<Owed> {
        let newest = self.ended.iter().map(|ended| ended.delivery.seq).max();
        let is_slow = |delivery: &&mut Delivery| !delivery.row && Some(delivery.seq) < newest;
        let now = (self.outbound.clock)();
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

    /// Called when the transaction is written: slots become free, and failed messages wait.
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
                Fate::Waits(due, _) => {
                    self.bytes += delivery.size;
                    self.waiting.push(Reverse(Later {
                        due,
                        seq: delivery.seq,
                        failed: delivery.failed as u32,
                        size: delivery.size as u32,
                    }));
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

    /// When the next retry is due. In the past if it has to wait for a slot.
    fn oldest_due(&self) -> Option<SystemTime> {
        let Reverse(Later { due, .. }) = *self.waiting.peek()?;
        let (now, time) = (Instant::now(), (self.outbound.clock)());
        Some(match due.checked_duration_since(now) {
            Some(left) => time + left,
            None => time - (now - due),
        })
    }

    /// Messages that the endpoint did not get. With a feed in memory it never will.
    pub(crate) async fn owed(self) -> usize {
        let recording = self.recording.iter().flat_map(|recording| &recording.ended);
        let unrecorded = self.ended.iter().chain(recording);
        let unrecorded = unrecorded.filter(|ended| matches!(ended.fate, Fate::Waits(..)));
        let mut owed = self.in_flight.len() + self.waiting.len() + unrecorded.count();
        let mut after = self.after.into();
        let (feed, topics) = (&self.outbound.feed, &self.endpoint.topics);
        while let Ok(page) = feed.read(topics, &after, PageLimit::default()).await {
            let wanted = |message: &&Arc<Message>| {
                self.endpoint.wants(message) && !self.ahead.contains(&message.id.seq)
            };
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
    fn is_retry(&self) -> bool {
        self.body.is_none()
    }

    fn first(message: &Message) -> Self {
        Self {
            seq: message.id.seq,
            since: Instant::now(),
            failed: 0,
            size: message.json.len(),
            body: Some(Payload {
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

/// What to write.
fn settlement(endpoint: i64, cursor: u64, slow: Vec<Owed>, ended: &[Ended]) -> Settlement {
    let mut settlement = Settlement {
        endpoint,
        cursor,
        owed: slow,
        ..Settlement::default()
    };
    for ended in ended {
        let delivery = &ended.delivery;
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

/// Retries until it is written. After a disk failure that never succeeds: the loop then halts with all its
/// slots taken, and the next start continues from what is stored.
async fn write(store: Store, settlement: Settlement) {
    let settlement = Arc::new(settlement);
    let settle = move |database: &Transaction<'_>| store::settle(database, &settlement);
    if store.note(settle).await.is_err() {
        pending().await
    }
}

/// Resolves when the current transaction is written.
async fn written(recording: &mut Option<Recording>) {
    match recording {
        Some(recording) => recording.written.as_mut().await,
        None => pending().await,
    }
}

/// The message of a row. If the disk cannot be read, that is not the endpoint's failure: see [`write()`].
/// If the endpoint was removed, its loop ends now anyway.
async fn read(store: &Store, seq: u64) -> Payload {
    match store.note(move |database| store::body(database, seq)).await {
        Ok(Some(body)) => body,
        Ok(None) | Err(_) => pending().await,
    }
}

/// Resolves when the loop must stop.
async fn stop(stopping: &mut watch::Receiver<Option<Duration>>) {
    // An error means that the sender is gone, which is also a reason to stop.
    let _ = stopping.wait_for(Option::is_some).await;
}

fn reason(failure: &Failure) -> String {
    failure.to_string().chars().take(MAX_REASON).collect()
}

fn panicked(error: &JoinError, at: SystemTime) -> (Outcome, Option<Payload>) {
    error!(%error, "an attempt's task failed");
    let outcome = Outcome {
        at,
        duration: Duration::ZERO,
        remote: None,
        result: Err(Failure::Panicked),
    };
    (outcome, None)
}
