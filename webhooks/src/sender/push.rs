//! One endpoint's loop: it drains the feed by a cursor of its own and owes every message to its
//! endpoint until it is delivered or dead.
//!
//! Endpoints share nothing but the feed, the store and the places for attempts (`places.rs`), so a slow
//! or dead one delays only itself. Within one endpoint a message that failed waits apart, by the time of
//! its next attempt, and newer ones go ahead.
//!
//! What has ended is recorded by one transaction at a time, and what ends meanwhile by the next. Until
//! it is recorded it holds its place: after a crash no more is repeated than an endpoint may have in
//! flight. The cursor passes a message when it is delivered or has a row; as long as there are places
//! free it waits for the slow, and when there have been none for a while, the slow get a row and it goes on.
//!
//! The list of attempts is no part of that promise, and would cost more than all the rest: while there
//! is a backlog and all goes well, it is brought up to date from time to time.

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
    deliver::{Attempt, Failure, Outcome, Payload, Verdict},
    endpoint::Endpoint,
    guard::Guard,
    places::Places,
    pool::Pool,
    store::{
        self, AttemptRow, Disabled, Owed, PAUSE, REMEMBERED, Saved, Settlement, Store, Waiting,
    },
    tls::Tls,
};
use crate::schedule::Schedule;

/// Attempts of one endpoint at one time, as long as it is well. One that fails gets them one at a
/// time until one succeeds: it need not be flooded.
pub(crate) const CONCURRENCY: usize = 8;
/// Messages of one endpoint that may wait for their next attempt. Beyond, newer ones stay in the
/// feed, where they are pinned.
const MAX_WAITING: usize = 1_000;
/// And their bytes, which the feed may have let go of already. The last message may go beyond.
const MAX_WAITING_BYTES: usize = 8 << 20;
/// How often the cursor of an endpoint without news is moved to the head.
pub(crate) const PASS_BY: Duration = Duration::from_secs(15);
/// What has been under way for so long is slow, when all places are taken.
pub(crate) const SLOW: Duration = Duration::from_millis(100);
/// How many attempts the list may be behind.
const UNLISTED: u64 = 1_000;
/// How long at most to leave an endpoint alone that is overloaded and does not say how long.
const MAX_PAUSE: Duration = Duration::from_secs(300);
/// Why an endpoint is disabled that answered 410.
const GONE: &str = "answered 410 Gone";

/// What all the loops share.
pub(crate) struct Outbound {
    /// Not the handle that the server closes: what is in flight outlives the listener.
    pub(crate) feed: Feed,
    pub(crate) store: Store,
    pub(crate) guard: Guard,
    pub(crate) schedule: Schedule,
    /// What time it is: the system's, but for tests.
    pub(crate) clock: fn() -> SystemTime,
    /// Places for first attempts, beside the one that each endpoint has.
    pub(crate) stock: Arc<Semaphore>,
    pub(crate) attempt_timeout: Duration,
    /// An endpoint is disabled that has only failed for so long.
    pub(crate) give_up: Duration,
    /// What an endpoint that is disabled has not got is kept for so long.
    pub(crate) hold: Duration,
    /// Bytes that all that is kept may take.
    pub(crate) disk: u64,
    pub(crate) drain: Duration,
}

/// A message that is owed to the endpoint and under way.
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

/// A delivery that waits, as small as it can be: there may be a million. The next one is the least.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Later {
    due: Instant,
    seq: u64,
    failed: u32,
    size: u32,
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

/// How an attempt's task ended, with the message if it came to that.
type AttemptEnded = Result<(Id, (Outcome, Option<Payload>)), JoinError>;

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
    /// What the feed had let go of before it was claimed, and is not recorded.
    gaps: Vec<String>,
    waiting: BinaryHeap<Reverse<Later>>,
    /// Messages that are to be claimed and have a row already: they come by that.
    ahead: HashSet<u64>,
    /// Bytes of all these messages.
    bytes: usize,
    /// The feed had no more when it was read last.
    caught_up: bool,
    /// The number of the last attempt.
    number: u64,
    /// The last attempts that are not in the list, and the number of the last one that is.
    unlisted: VecDeque<AttemptRow>,
    listed: u64,
    /// The first failure after the last success.
    failing: Option<SystemTime>,
    /// Pauses after the last success that it did not ask for.
    overloads: usize,
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
        let (now, time) = (Instant::now(), (outbound.clock)());
        let later = |waiting: &Waiting| {
            Reverse(Later {
                due: now + waiting.due.duration_since(time).unwrap_or_default(),
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
            overloads: 0,
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

    /// Finishes and records what is in flight.
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

    /// How many messages may be claimed now. First attempts go before retries, but for one place if
    /// there are several.
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

    /// How many deliveries there may be under way or not recorded.
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

    /// How many deliveries are under way or not recorded.
    fn held(&self) -> usize {
        let recording = self.recording.as_ref();
        let recording = recording.map_or(0, |recording| recording.ended.len());
        self.in_flight.len() + self.ended.len() + recording
    }

    /// When there is something to do without news: the end of a pause, else the next retry.
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
            secrets: self.endpoint.secrets((outbound.clock)()),
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

    /// This attempt has ended, and perhaps others: what is recorded together costs little more than one.
    fn settle_all(&mut self, ended: AttemptEnded) {
        self.settle(ended);
        while let Some(ended) = self.attempts.try_join_next_with_id() {
            self.settle(ended);
        }
    }

    /// An attempt has ended: the delivery is made, waits for the next one, or is dead, as soon as
    /// that is recorded.
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
                self.overloads = 0;
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

    /// How long to leave an endpoint alone that is overloaded and does not say how long: by the steps of
    /// the schedule too. After each pause one message's attempt asks again.
    fn pause(&mut self) -> Duration {
        if !self.is_paused() {
            self.overloads += 1;
        }
        let pause = self.outbound.schedule.delay(self.overloads, 0.0);
        pause.unwrap_or(MAX_PAUSE).min(MAX_PAUSE)
    }

    /// Begins to record what has ended, unless a transaction is under way, or in a backlog so little has
    /// ended that it waits for more. If `all`, then also that there was nothing for this endpoint, and the
    /// cursor does not wait for the slow.
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

    /// The first message under way that has no row: the cursor cannot pass it.
    fn oldest(&self) -> Option<&Delivery> {
        let under_way = self.in_flight.values().filter(|delivery| !delivery.row);
        under_way.min_by_key(|delivery| delivery.seq)
    }

    /// When it is slow, if there is no place for another and what has ended holds some of them.
    fn slow_at(&self) -> Option<Instant> {
        let waits = self.recording.is_none() && self.free_slots() == 0 && !self.ended.is_empty();
        let oldest = self.oldest()?;
        waits.then_some(oldest.since + SLOW)
    }

    /// The attempts that are to be listed now, if any are.
    fn list(&mut self, now: bool) -> Vec<AttemptRow> {
        let old = self.unlisted.len().saturating_sub(REMEMBERED as usize);
        self.unlisted.drain(..old);
        if !now {
            return Vec::new();
        }
        self.listed = self.number;
        self.unlisted.drain(..).collect()
    }

    /// A row for each delivery under way that is older than one that has ended.
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

    /// When the next retry is due, or was, if it has to wait for its turn.
    fn oldest_due(&self) -> Option<SystemTime> {
        let Reverse(Later { due, .. }) = *self.waiting.peek()?;
        let (now, time) = (Instant::now(), (self.outbound.clock)());
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
    let settle = move |database: &Transaction<'_>| store::settle(database, &settlement);
    if store.note(settle).await.is_err() {
        pending().await
    }
}

/// Resolves when the transaction that is under way is.
async fn written(recording: &mut Option<Recording>) {
    match recording {
        Some(recording) => recording.written.as_mut().await,
        None => pending().await,
    }
}

/// The message of a row. That a disk cannot be read is no failure of the endpoint's: see [`write()`]. Nor
/// is it that the endpoint was removed, whose loop ends now.
async fn read(store: &Store, seq: u64) -> Payload {
    match store.note(move |database| store::body(database, seq)).await {
        Ok(Some(body)) => body,
        Ok(None) | Err(_) => pending().await,
    }
}

/// Resolves when the loop is to stop.
async fn stop(stopping: &mut watch::Receiver<Option<Duration>>) {
    // That nobody is left to say so says it too.
    let _ = stopping.wait_for(Option::is_some).await;
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
