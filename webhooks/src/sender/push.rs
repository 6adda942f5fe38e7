//! One endpoint's loop. It reads the feed with its own position, and attempts every message until it is
//! delivered or dead.
//!
//! The ledger (`ledger.rs`) decides what to do next. This file does it: it reads the feed, sends over lanes
//! (`lane.rs`), and writes to the store. Endpoints share only the feed, the store and the slots for attempts
//! (`places.rs`), so a slow or dead endpoint delays only itself.
//!
//! One transaction at a time records the attempts that have ended. Attempts that end meanwhile wait for the
//! next transaction.

use std::{
    collections::VecDeque,
    future::pending,
    mem,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use common::{Cursor, Data, Draft, Feed, FeedError, Message, Page, PageLimit};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{error, info, trace, warn};
use url::Position;

use super::{
    config::Config,
    deliver::{Attempt, Failure, MAX_RETRY_AFTER, Outcome, Payload},
    endpoint::{AttemptView, Disabled, Endpoint},
    guard::Guard,
    lane::Lane,
    ledger::{CONCURRENCY, Ended, Failed, Fate, Health, Ledger, Record, Rules, Waiting},
    places::{Places, Stock},
    steady::Steady,
    store::{self, PAUSE, Saved, Store},
    tls::Tls,
};

/// How often the position of an endpoint without news is moved to the head.
pub(crate) const PASS_BY: Duration = Duration::from_secs(15);
/// How many characters of a failure's reason are kept. A reason may contain text from the endpoint.
const MAX_REASON: usize = 200;
/// What is read from the feed at one time. More than one message per free slot, because a read of a file waits
/// for two other threads, and a filter may want few of them. Few bytes, because each endpoint may hold a page.
const PAGE: PageLimit = PageLimit {
    messages: 100,
    bytes: 64 << 10,
    newest: false,
};
/// The topic on which the sender tells the operator about endpoints.
pub(crate) const OPERATOR: &str = "webhooks.endpoints";

/// The most attempts at the same time, in addition to one for each endpoint. Together they take about
/// 50 MiB of buffers.
const MAX_ATTEMPTS: usize = 1_024;

/// What all the loops share.
pub(crate) struct Outbound {
    pub(crate) config: Config,
    /// A handle that is never closed. The server closes another one, while attempts are still in flight.
    pub(crate) feed: Feed,
    pub(crate) store: Store,
    pub(crate) guard: Guard,
    /// The system's clock, except in tests. Attempts are signed with it.
    pub(crate) clock: fn() -> SystemTime,
    /// The same without jumps. All other decisions use it.
    pub(crate) steady: Steady,
    /// Slots for attempts, in addition to the one that each endpoint has.
    pub(crate) stock: Stock,
}

impl Outbound {
    /// `own` is where the sender itself listens.
    pub(crate) fn new(config: Config, feed: Feed, store: Store, own: Option<SocketAddr>) -> Self {
        Self {
            feed,
            store,
            guard: Guard {
                http: config.allow_http,
                loopback: config.allow_loopback,
                private: config.allow_private,
                own,
                lookup: config.lookup,
            },
            config,
            clock: SystemTime::now,
            steady: Steady::new(SystemTime::now()),
            stock: Stock::new(MAX_ATTEMPTS),
        }
    }

    /// An attempt at this endpoint.
    pub(crate) fn attempt(&self, endpoint: &Endpoint) -> Attempt {
        let target = &endpoint.target;
        let timeout = target.registration.timeout;
        Attempt {
            guard: self.guard,
            tls: Tls::system(),
            url: target.url.clone(),
            fields: target.fields.clone(),
            secrets: endpoint.secrets(self.steady.now()),
            deadline: timeout.map_or(self.config.attempt_timeout, Duration::from_secs),
        }
    }
}

/// What the loop has begun, once it is done.
#[expect(clippy::large_enum_variant, reason = "most are attempts")]
enum Done {
    /// An attempt has ended.
    Attempt {
        seq: u64,
        message: Payload,
        /// The connection that it kept.
        lane: Option<Lane>,
        outcome: Outcome,
    },
    /// The transaction is written.
    Record(Arc<Record>),
}

/// A message for the operator: its type and data.
type Event = (&'static str, Value);

/// The state of one loop.
pub(crate) struct Push {
    outbound: Arc<Outbound>,
    endpoint: Arc<Endpoint>,
    ledger: Ledger,
    /// Wanted messages of the last page that are not claimed yet.
    unclaimed: VecDeque<Arc<Message>>,
    /// The end of that page.
    read: u64,
    places: Places,
    /// Connections that no attempt uses. The most recently used one is last and is taken first, so that spare
    /// ones time out.
    lanes: Vec<Lane>,
    /// The attempts in flight, and at most one record that is being written.
    work: FuturesUnordered<Pin<Box<dyn Future<Output = Done> + Send>>>,
    /// Messages for the operator that are not published yet.
    events: Vec<Event>,
}

impl Push {
    /// Continues where the endpoint's loop was when it was `saved`.
    pub(crate) fn new(
        outbound: Arc<Outbound>,
        endpoint: Arc<Endpoint>,
        saved: &Saved,
        mut waiting: Vec<Waiting>,
    ) -> Self {
        // A wrong clock may have written these times. No retry waits longer than the longest possible delay.
        let latest =
            outbound.steady.now() + outbound.config.schedule.longest().max(MAX_RETRY_AFTER);
        for waiting in &mut waiting {
            waiting.due = waiting.due.min(latest);
        }
        let registration = &endpoint.target.registration;
        let rules = Rules {
            schedule: outbound.config.schedule.clone(),
            give_up: outbound.config.give_up,
            concurrency: registration.concurrency.unwrap_or(CONCURRENCY),
            ordered: registration.ordered,
        };
        let push = Self {
            places: Places::of(&outbound.stock),
            outbound,
            endpoint,
            ledger: Ledger::new(rules, saved.state.clone(), waiting),
            unclaimed: VecDeque::new(),
            read: 0,
            lanes: Vec::new(),
            work: FuturesUnordered::new(),
            events: Vec::new(),
        };
        push.report();
        push
    }

    /// Delivers until it must stop or the endpoint is disabled. Then it claims nothing more and finishes the
    /// attempts in flight. A stop limits the time for that. What then remains undelivered is [`Push::owed`].
    pub(crate) async fn run(mut self, mut stopping: watch::Receiver<Option<Duration>>) -> Self {
        let mut quiet = interval(PASS_BY);
        quiet.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.begin();
            self.record(false);
            self.report();
            if self.ledger.health().is_disabled() {
                break;
            }
            let now = self.outbound.steady.now();
            let reads = self.unclaimed.is_empty() && self.ledger.room(now) > 0;
            let next_time = self.ledger.next_time(now);
            let wait = next_time.map(|time| time.duration_since(now).unwrap_or_default());
            let after = self.after().into();
            tokio::select! {
                biased;
                _ = stop(&mut stopping) => break,
                Some(done) = self.work.next() => self.all_done(done),
                page = self.outbound.feed.next(&self.endpoint.target.topics, &after, PAGE), if reads => self.take(page),
                () = sleep(wait.unwrap_or_default()), if wait.is_some() => self.wake().await,
                _ = quiet.tick() => self.pass_by().await,
            }
        }
        tokio::select! {
            () = self.finish() => {}
            () = stop(&mut stopping).then(sleep) => self.work.clear(),
        }
        self.report();
        self
    }

    /// Finishes and records the attempts in flight.
    async fn finish(&mut self) {
        self.record(true);
        while let Some(done) = self.work.next().await {
            self.all_done(done);
            self.record(true);
        }
    }

    /// The feed is read after this position.
    fn after(&self) -> Cursor {
        let after = self.endpoint.status().after;
        Cursor {
            seq: self.ledger.after(),
            ..after
        }
    }

    /// Begins the attempts for which there is a slot: the new messages that are read, then a retry that is due.
    fn begin(&mut self) {
        let now = self.outbound.steady.now();
        let room = self.ledger.room(now).min(self.unclaimed.len());
        let new: Vec<Arc<Message>> = self.unclaimed.drain(..room).collect();
        if let Some(last) = new.last() {
            let next = match self.unclaimed.is_empty() {
                true => self.read,
                false => last.id.seq,
            };
            let sizes = new.iter().map(|one| (one.id.seq, one.json.len()));
            self.ledger.claim(next, sizes);
        }
        for message in new {
            self.attempt(message.id.seq, Some(payload(&message)));
        }
        if self.ledger.room(now) == 0 {
            self.retry(); // The timer may never fire while attempts end all the time.
        }
    }

    /// Takes what was read from the feed.
    fn take(&mut self, page: Result<Page, FeedError>) {
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                error!(%error, endpoint = %self.endpoint.id, "the feed failed an endpoint");
                self.ledger.pause(self.outbound.steady.now() + PAUSE);
                return;
            }
        };
        if let Some(gap) = page.gap {
            let gap = gap.to_json();
            warn!(
                endpoint = self.endpoint.id,
                gap, "an endpoint misses messages"
            );
            self.ledger.miss(gap);
        }
        self.unclaimed = page.messages.into();
        self.unclaimed.retain(|message| {
            self.endpoint.target.wants(message) && self.ledger.is_new(message.id.seq)
        });
        self.read = page.next.seq;
        if self.unclaimed.is_empty() {
            self.ledger.claim(self.read, []);
            self.retry(); // No new message needs the slot.
        }
    }

    /// Called when a pause has ended or a retry is due. If a new message goes first, it is read from the feed now:
    /// otherwise the retry would always get the only slot.
    async fn wake(&mut self) {
        if !self.ledger.is_new_first(self.outbound.steady.now()) {
            self.retry();
        } else if self.unclaimed.is_empty() {
            let (feed, topics) = (&self.outbound.feed, &self.endpoint.target.topics);
            let page = feed.read(topics, &self.after().into(), PAGE).await;
            self.take(page);
        }
    }

    /// Begins the retry that is due. There may be none, because the timer also fires at the end of a pause.
    fn retry(&mut self) {
        if let Some(retry) = self.ledger.retry(self.outbound.steady.now()) {
            self.attempt(retry.seq, None);
        }
    }

    /// Drops the connections that were idle for too long. Without news, also moves the position to the head:
    /// otherwise messages that the feed drops in other topics would look like a gap here.
    async fn pass_by(&mut self) {
        self.lanes.retain(Lane::is_usable);
        let after = self.after().into();
        let (feed, topics) = (&self.outbound.feed, &self.endpoint.target.topics);
        if let Ok(page) = feed.read(topics, &after, PageLimit::default()).await
            && !page.is_news()
        {
            self.ledger.claim(page.next.seq, []);
        }
        self.record(true);
    }

    /// Begins an attempt. `first` is the message of a first attempt. For a retry it is `None`: the message is
    /// read from the store.
    fn attempt(&mut self, seq: u64, first: Option<Payload>) {
        let (outbound, places) = (self.outbound.clone(), self.places.clone());
        let attempt = outbound.attempt(&self.endpoint);
        let mut lane = self.lanes.pop();
        self.work.push(Box::pin(async move {
            let (message, _place) = match first {
                Some(message) => (message, places.first().await),
                None => (read(&outbound.store, seq).await, places.retry().await),
            };
            let at = (outbound.clock)();
            let attempt = AssertUnwindSafe(attempt.run(&mut lane, &message, at));
            let outcome = attempt.catch_unwind().await;
            Done::Attempt {
                seq,
                outcome: outcome.unwrap_or_else(|_| panicked(at)),
                message,
                lane,
            }
        }));
    }

    /// Takes what is done, and what else is done too: recording attempts together costs little more than
    /// recording one.
    fn all_done(&mut self, done: Done) {
        let mut next = Some(done);
        while let Some(done) = next {
            match done {
                Done::Attempt {
                    seq,
                    message,
                    lane,
                    outcome,
                } => self.end(seq, message, lane, outcome),
                Done::Record(record) => self.written(&record),
            }
            next = self.work.next().now_or_never().flatten();
        }
    }

    fn end(&mut self, seq: u64, message: Payload, lane: Option<Lane>, outcome: Outcome) {
        self.lanes.extend(lane);
        let was_failing = self.ledger.is_failing();
        let was_disabled = self.ledger.health().is_disabled();
        let failure = outcome.result.as_ref().err();
        let verdict = failure.map_or(Ok(()), |failure| Err(failure.verdict()));
        let now = self.outbound.steady.now();
        let ended = self.ledger.end(seq, verdict, now, rand::random());
        trace!(count.attempts = failure.map_or("delivered", Failure::class));
        self.endpoint.remember(view(ended, &message.id, &outcome));
        let Some(failure) = failure else { return };
        let failed = Failed {
            message,
            at: outcome.at,
            reason: failure.to_string().chars().take(MAX_REASON).collect(),
        };
        ended.failed = Some(failed.clone());
        let (fate, attempts) = (ended.fate, ended.delivery.failed);
        info!(
            endpoint = self.endpoint.id,
            id = failed.message.id,
            reason = failed.reason,
            "an attempt has failed"
        );
        self.note_health(was_failing, was_disabled, &failed.reason);
        if fate == Fate::Dead {
            self.note_dead(&failed, attempts);
        }
    }

    /// Tells the operator if the endpoint has begun to fail, or is disabled.
    fn note_health(&mut self, was_failing: bool, was_disabled: bool, error: &str) {
        let id = &self.endpoint.id;
        // Path and query may hold a token.
        let at = &self.endpoint.target.url[..Position::BeforePath];
        if self.ledger.is_failing() && !was_failing {
            warn!(endpoint = id, error, "different messages fail");
            let data = json!({"endpoint": id, "at": at, "error": error});
            self.events.push(("endpoint.failing", data));
        }
        if !was_disabled && let Health::Disabled { reason, .. } = self.ledger.health() {
            warn!(endpoint = id, reason, "disabled");
            let data = json!({"endpoint": id, "at": at, "reason": reason, "error": error});
            self.events.push(("endpoint.disabled", data));
        }
    }

    /// Tells the operator of a dead delivery, unless its message was one for the operator: each such message
    /// would cause the next.
    fn note_dead(&mut self, failed: &Failed, attempts: u16) {
        let (endpoint, id, reason) = (&self.endpoint.id, &failed.message.id, &failed.reason);
        warn!(endpoint, id, reason, "a delivery is dead");
        let own = format!(r#"{{"id":"{id}","topic":"{OPERATOR}","#);
        if !failed.message.json.starts_with(own.as_bytes()) {
            let data =
                json!({"endpoint": endpoint, "id": id, "attempts": attempts, "reason": reason});
            self.events.push(("delivery.dead", data));
        }
    }

    /// Begins to record what has ended, see [`Ledger::record`].
    fn record(&mut self, all: bool) {
        if let Some(record) = self.ledger.record(all) {
            let (outbound, endpoint) = (self.outbound.clone(), self.endpoint.number);
            let events = mem::take(&mut self.events);
            let written = write(outbound, endpoint, record, events);
            self.work.push(Box::pin(written));
        }
    }

    /// Called when the transaction is written: slots become free, and failed messages wait.
    fn written(&mut self, written: &Record) {
        self.ledger.recorded();
        let mut status = self.endpoint.status();
        status.delivered += written.count(Fate::Delivered);
        status.dead += written.count(Fate::Dead);
        if let Some(error) = written.last_error() {
            status.last_error = Some(error.to_owned());
        }
    }

    fn report(&self) {
        let after = self.after();
        let mut status = self.endpoint.status();
        status.after = after;
        status.settled = self.ledger.settled();
        status.disabled = Disabled::of(self.ledger.health());
        status.in_flight = self.ledger.held();
        status.waiting = self.ledger.waiting();
        status.oldest_due = self.ledger.oldest_due();
    }

    /// How many messages the endpoint has not received, in the ledger and in the feed. With a feed in memory
    /// they are lost.
    pub(crate) async fn owed(self) -> usize {
        if let Health::Disabled { expired, .. } = self.ledger.health()
            && expired.is_some()
        {
            return 0; // its backlog is given up
        }
        let mut owed = self.ledger.owed();
        let mut after = self.after().into();
        let (feed, target) = (&self.outbound.feed, &self.endpoint.target);
        while let Ok(page) = feed
            .read(&target.topics, &after, PageLimit::default())
            .await
        {
            let is_owed = |message: &&Arc<Message>| {
                target.wants(message) && self.ledger.is_new(message.id.seq)
            };
            owed += page.messages.iter().filter(is_owed).count();
            if !page.more {
                break;
            }
            after = page.next.into();
        }
        owed
    }
}

/// Writes a record, and then publishes the events. Retries while the disk is full. After a disk failure it
/// never returns: the loop then halts with all its slots taken, and the next start continues from the store.
async fn write(
    outbound: Arc<Outbound>,
    endpoint: i64,
    record: Arc<Record>,
    events: Vec<Event>,
) -> Done {
    let shared = record.clone();
    let write = move |database: &Connection| store::write(database, endpoint, &shared);
    if outbound.store.note(write).await.is_err() {
        pending::<()>().await;
    }
    for (kind, data) in events {
        tell(&outbound.feed, kind, &data).await;
    }
    Done::Record(record)
}

/// Tells the operator. An error is only logged, because the same facts are in the store.
async fn tell(feed: &Feed, kind: &str, data: &Value) {
    let topic = OPERATOR.parse().expect("the constant is a topic");
    let draft = Draft {
        kind: kind.parse().unwrap_or_default(),
        data: Data::json(data.to_string().as_bytes()).expect("a value is JSON"),
    };
    if let Err(error) = feed.publish(topic, draft).await {
        warn!(%error, kind, "the operator was not told");
    }
}

/// Reads the message of a row. After a disk failure it never returns, because that is not the endpoint's
/// failure: see [`write()`]. Without a row it never returns either: the endpoint was removed, and its loop is
/// about to be aborted.
async fn read(store: &Store, seq: u64) -> Payload {
    match store.note(move |database| store::body(database, seq)).await {
        Ok(Some(body)) => body,
        Ok(None) | Err(_) => pending().await,
    }
}

/// Resolves when the loop must stop, to the time for its attempts in flight.
async fn stop(stopping: &mut watch::Receiver<Option<Duration>>) -> Duration {
    let stop = stopping.wait_for(Option::is_some).await;
    // An error means that the channel's other end was dropped. That is also a reason to stop.
    stop.map_or(Duration::ZERO, |time| time.unwrap_or_default())
}

fn payload(message: &Message) -> Payload {
    Payload {
        id: message.id.to_string(),
        json: message.json.clone(),
    }
}

fn view(ended: &Ended, id: &str, outcome: &Outcome) -> AttemptView {
    let Ended { delivery, fate, .. } = ended;
    let before = u32::from(delivery.failed) + u32::from(delivery.throttled);
    let attempt = before + u32::from(*fate == Fate::Delivered);
    AttemptView::new(id, attempt, outcome, fate.due())
}

fn panicked(at: SystemTime) -> Outcome {
    error!("an attempt panicked");
    Outcome {
        at,
        duration: Duration::ZERO,
        remote: None,
        answer: String::new(),
        result: Err(Failure::Panicked),
    }
}
