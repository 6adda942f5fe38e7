//! The bookkeeping of one endpoint: what to attempt, what to record, and how healthy the endpoint is.
//!
//! Pure: times and random numbers come in as parameters, and nothing here reads a clock, a socket or the
//! store. `push.rs` drives it.
//!
//! A message is *claimed* from the feed, and its first attempt is *in flight*. When the attempt has *ended*,
//! its outcome is *recorded* in the store. A failed message then waits for its retry, and is in flight again.
//!
//! The store keeps a [`State`] with a [`Position`]: everything up to `claimed` is settled, except the few
//! messages in `open`. Settled means delivered, dead, or waiting with a row in the store. So a slow attempt stays open and delays
//! nothing else. After a crash the open messages and everything after `claimed` are attempted again. An ended
//! attempt keeps its slot until it is recorded, so a crash repeats at most the slots of one endpoint.
//!
//! One message that fails says nothing about the endpoint. The endpoint counts as failing only when several
//! different messages have failed without a success in between. It then gets one attempt at a time. That is
//! a new message if possible, because the failed messages may be the cause.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    mem,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::deliver::{Payload, Verdict};
use crate::schedule::Schedule;

/// The most concurrent attempts of one endpoint.
pub(crate) const CONCURRENCY: usize = 8;
/// How many messages of one endpoint may wait for their next attempt. At the limit, newer messages stay
/// in the feed, where they are pinned.
const MAX_WAITING: usize = 1_000;
/// The limit on the bytes of an endpoint's messages that are in flight or waiting. Waiting messages are copies
/// in the store, because the feed may drop its own. The last claim may exceed the limit.
const MAX_WAITING_BYTES: usize = 8 << 20;
/// An endpoint is failing when this many different messages have failed without a success in between.
const SAMPLES: usize = 3;
/// An endpoint without a success is disabled only after at least this many failures.
const MIN_FAILURES: u32 = 5;
/// The first pause of an overloaded endpoint that sent no `Retry-After`. Each next pause is twice as long.
const PAUSE: Duration = Duration::from_secs(5);
/// The longest such pause.
const MAX_PAUSE: Duration = Duration::from_secs(300);
/// After this many throttled attempts the message itself may be the cause: each further one counts as failed.
const MAX_THROTTLED: u8 = 100;
/// The reason that is shown for an endpoint that answered 410.
const GONE: &str = "answered 410 Gone";

/// The policy for one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) schedule: Schedule,
    /// An endpoint that has only failed for this long is disabled.
    pub(crate) give_up: Duration,
    /// The most attempts at the same time, at most [`CONCURRENCY`].
    pub(crate) concurrency: usize,
    /// One message at a time: the next one waits until this one is delivered or dead.
    pub(crate) ordered: bool,
}

/// What the store keeps of a ledger, as JSON. Each failed message has its own row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    pub(crate) position: Position,
    pub(crate) health: Health,
    pub(crate) failures: Failures,
}

impl State {
    /// The endpoint is well, as if it had not failed.
    pub(crate) fn enable(&mut self) {
        (self.health, self.failures) = (Health::Well, Failures::default());
    }
}

/// Where an endpoint is in the feed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Everything up to this number is settled, except the open messages.
    pub(crate) claimed: u64,
    /// Messages up to `claimed` that are not settled: their first attempt is in flight, or it was cut and they
    /// are not claimed again yet.
    pub(crate) open: Vec<u64>,
}

impl Position {
    /// Everything up to this number is settled.
    pub(crate) fn settled(&self) -> u64 {
        let oldest = self.open.iter().min();
        oldest.map_or(self.claimed, |oldest| oldest - 1)
    }

    /// The position for a replay of everything after `to`. `None` if `to` is ahead of this position.
    pub(crate) fn moved_back(&self, to: u64) -> Option<Self> {
        let open = self.open.iter().copied().filter(|seq| *seq <= to);
        (to <= self.claimed).then(|| Self {
            claimed: to,
            open: open.collect(),
        })
    }
}

/// How healthy an endpoint is. This limits its attempts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Health {
    /// It gets attempts in parallel.
    #[default]
    Well,
    /// Different messages failed, or the endpoint requested a pause. No attempt before this time. Then one at a
    /// time, until one succeeds.
    Paused {
        until: SystemTime,
        /// A success in the meantime does not end it: the endpoint requested it, or the feed failed.
        asked: bool,
    },
    /// It must not be called any more.
    Disabled {
        since: SystemTime,
        reason: String,
        /// Since when its backlog is not kept any more.
        expired: Option<SystemTime>,
    },
}

impl Health {
    pub(crate) fn is_disabled(&self) -> bool {
        matches!(self, Self::Disabled { .. })
    }
}

/// The failures since the last success.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failures {
    /// When the first one ended.
    pub(crate) since: Option<SystemTime>,
    /// When the last one ended.
    last: Option<SystemTime>,
    count: u32,
    /// The different messages that failed: the first [`SAMPLES`] of them.
    messages: Vec<u64>,
    /// Pauses that the endpoint did not request.
    pauses: u32,
}

impl Failures {
    /// Failures of an earlier process count as if the last one had ended when this one `began`: nothing failed
    /// while no sender ran. The system's clock may also have jumped since.
    pub(crate) fn resume(&mut self, began: SystemTime, now: SystemTime) {
        let Some((since, last)) = self.since.zip(self.last) else {
            return;
        };
        if (began..=now).contains(&last) {
            return;
        }
        let lasted = last.duration_since(since).unwrap_or_default();
        // A time before 1970 could not be stored.
        let since = (began - lasted).max(SystemTime::UNIX_EPOCH);
        (self.since, self.last) = (Some(since), Some(began));
    }
}

/// A message that is being delivered. Kept small, because there may be a million.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Delivery {
    pub(crate) seq: u64,
    /// The size of the message, in bytes.
    pub(crate) size: u32,
    /// Attempts that failed.
    pub(crate) failed: u16,
    /// Attempts that were throttled.
    pub(crate) throttled: u8,
    /// It has a row in the store, and the message is read from there.
    pub(crate) row: bool,
}

/// A delivery that waits for its next attempt. Ordered by `due`, so the least is the next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Waiting {
    pub(crate) due: SystemTime,
    pub(crate) delivery: Delivery,
}

/// What becomes of a delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Delivered,
    Waits(SystemTime),
    Dead,
}

impl Fate {
    /// When the next attempt is due, if there is one.
    pub(crate) fn due(self) -> Option<SystemTime> {
        match self {
            Self::Waits(due) => Some(due),
            Self::Delivered | Self::Dead => None,
        }
    }
}

/// A delivery whose attempt has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) delivery: Delivery,
    pub(crate) fate: Fate,
    /// The attempt, if it failed.
    pub(crate) failed: Option<Failed>,
}

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) message: Payload,
    /// When it began.
    pub(crate) at: SystemTime,
    pub(crate) reason: String,
}

/// What to record in one transaction. To record it twice changes only the counter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) state: State,
    pub(crate) ended: Vec<Ended>,
    /// See [`Ledger::miss`].
    pub(crate) gaps: Vec<String>,
}

impl Record {
    /// How many deliveries have this fate.
    pub(crate) fn count(&self, fate: Fate) -> u64 {
        self.ended.iter().filter(|ended| ended.fate == fate).count() as u64
    }

    /// The reason of the last failure.
    pub(crate) fn last_error(&self) -> Option<&str> {
        let mut failed = self.ended.iter().filter_map(|ended| ended.failed.as_ref());
        failed.next_back().map(|failed| failed.reason.as_str())
    }
}

/// The state of one endpoint's deliveries.
#[derive(Debug)]
pub(crate) struct Ledger {
    rules: Rules,
    /// The feed is read after this number.
    after: u64,
    /// An earlier loop of this endpoint has read the feed up to this number. Up to here only the messages in
    /// `again` are claimed.
    until: u64,
    /// Messages up to `until` whose first attempt was cut.
    again: Vec<u64>,
    /// Rows of messages after `until`, left there when a replay moved the position back. Each waits for its
    /// attempt once the feed is read past its message.
    ahead: BTreeMap<u64, Waiting>,
    in_flight: Vec<Delivery>,
    ended: Vec<Ended>,
    gaps: Vec<String>,
    /// The transaction that is being written.
    recording: Option<Arc<Record>>,
    /// The position in the store.
    recorded: Position,
    waiting: BinaryHeap<Reverse<Waiting>>,
    /// Bytes of all messages that are in flight, ended or waiting.
    bytes: usize,
    health: Health,
    failures: Failures,
    /// Attempts at the same time while the endpoint is well. Throttling halves it.
    parallel: usize,
    /// Successes since `parallel` changed.
    successes: usize,
    /// The last attempt that began was a retry.
    retried: bool,
}

impl Ledger {
    /// Continues from what the store has.
    pub(crate) fn new(rules: Rules, state: State, waiting: Vec<Waiting>) -> Self {
        let position = state.position;
        let ahead = waiting.into_iter().map(|one| (one.delivery.seq, one));
        let mut ledger = Self {
            after: position.settled(),
            until: position.claimed,
            again: position.open.clone(),
            ahead: ahead.collect(),
            in_flight: Vec::new(),
            ended: Vec::new(),
            gaps: Vec::new(),
            recording: None,
            recorded: position,
            bytes: 0,
            waiting: BinaryHeap::new(),
            health: state.health,
            failures: state.failures,
            parallel: rules.concurrency,
            successes: 0,
            retried: false,
            rules,
        };
        ledger.pass(ledger.until);
        ledger
    }

    /// The feed is read after this number.
    pub(crate) fn after(&self) -> u64 {
        self.after
    }

    /// How many new messages may be claimed now. New messages go before retries, with one exception: a retry
    /// that is due gets one of several slots, or every second turn of a single slot.
    pub(crate) fn room(&self, now: SystemTime) -> usize {
        let count = self.waiting.len() + self.held();
        let full = count >= MAX_WAITING || self.bytes >= MAX_WAITING_BYTES;
        if full || self.rules.ordered && count > 0 {
            return 0;
        }
        let (slots, free) = (self.slots(now), self.free_slots(now));
        let is_due = self.waiting.peek().is_some_and(|next| next.0.due <= now);
        let is_kept = match slots {
            // An endpoint that is not well gets a new message, because the failed ones may be the cause.
            1 => self.health == Health::Well && !self.retried,
            _ => !self.in_flight.iter().any(|delivery| delivery.row),
        };
        free.saturating_sub(usize::from(is_due && is_kept))
    }

    /// Whether the only slot is for a new message, if there is one.
    pub(crate) fn is_new_first(&self, now: SystemTime) -> bool {
        self.slots(now) == 1 && self.room(now) > 0
    }

    /// Takes what was read from the feed up to `next`: the number and size of each new message.
    pub(crate) fn claim(&mut self, next: u64, new: impl IntoIterator<Item = (u64, usize)>) {
        for (seq, size) in new {
            self.bytes += size;
            self.in_flight.push(Delivery {
                seq,
                size: u32::try_from(size).unwrap_or(u32::MAX),
                failed: 0,
                throttled: 0,
                row: false,
            });
            self.retried = false;
        }
        self.after = next;
        self.again.retain(|seq| *seq > next);
        self.pass(next);
    }

    /// Takes a gap, as JSON (see [`common::Gap`]): messages that the feed dropped before they were claimed.
    pub(crate) fn miss(&mut self, gap: String) {
        self.gaps.push(gap);
    }

    /// Moves the rows up to this number from `ahead` to `waiting`.
    fn pass(&mut self, next: u64) {
        let ahead = self.ahead.split_off(&(next + 1));
        let passed = mem::replace(&mut self.ahead, ahead).into_values();
        for waiting in passed {
            self.bytes += waiting.delivery.size as usize;
            self.waiting.push(Reverse(waiting));
        }
    }

    /// When to act if nothing else happens before: at the end of a pause, or when a retry is due.
    pub(crate) fn next_time(&self, now: SystemTime) -> Option<SystemTime> {
        match self.health {
            Health::Paused { until, .. } if until > now => Some(until),
            _ if self.free_slots(now) == 0 => None,
            _ => self.oldest_due(),
        }
    }

    /// Begins the retry that is due, if there is a slot.
    pub(crate) fn retry(&mut self, now: SystemTime) -> Option<Delivery> {
        if self.free_slots(now) == 0 || self.oldest_due()? > now {
            return None;
        }
        let Reverse(Waiting { delivery, .. }) = self.waiting.pop()?;
        self.in_flight.push(delivery.clone());
        self.retried = true;
        Some(delivery)
    }

    /// Takes the result of an attempt, and decides what becomes of the delivery. The slot stays taken, and a
    /// retry does not wait yet, until the decision is recorded. `random` is between 0 and 1. The caller adds what
    /// failed to the result.
    pub(crate) fn end(
        &mut self,
        seq: u64,
        result: Result<(), Verdict>,
        now: SystemTime,
        random: f64,
    ) -> &mut Ended {
        let at = self.in_flight.iter().position(|one| one.seq == seq);
        let mut delivery = self
            .in_flight
            .swap_remove(at.expect("its attempt was begun"));
        let fate = match result {
            Ok(()) => {
                self.succeed(now);
                Fate::Delivered
            }
            Err(verdict) => {
                self.fail(seq, verdict, now);
                self.postpone(&mut delivery, verdict, now, random)
            }
        };
        self.ended.push(Ended {
            delivery,
            fate,
            failed: None,
        });
        self.ended.last_mut().expect("it was pushed")
    }

    /// Begins to record what has ended, unless a transaction is being written. With `all` it also records a
    /// position that moved although no attempt ended: past messages that this endpoint does not get.
    pub(crate) fn record(&mut self, all: bool) -> Option<Arc<Record>> {
        if self.recording.is_some() {
            return None;
        }
        let position = self.position();
        let has_moved = all && position != self.recorded;
        if self.ended.is_empty() && self.gaps.is_empty() && !has_moved {
            return None;
        }
        let record = Arc::new(Record {
            state: State {
                position,
                health: self.health.clone(),
                failures: self.failures.clone(),
            },
            ended: mem::take(&mut self.ended),
            gaps: mem::take(&mut self.gaps),
        });
        self.recording = Some(record.clone());
        Some(record)
    }

    /// The transaction is written: slots become free, and failed messages wait.
    pub(crate) fn recorded(&mut self) {
        let Some(record) = self.recording.take() else {
            return;
        };
        self.recorded = record.state.position.clone();
        for Ended { delivery, fate, .. } in &record.ended {
            match *fate {
                Fate::Waits(due) => {
                    let row = true;
                    let delivery = Delivery {
                        row,
                        ..delivery.clone()
                    };
                    self.waiting.push(Reverse(Waiting { due, delivery }));
                }
                Fate::Delivered | Fate::Dead => self.bytes -= delivery.size as usize,
            }
        }
    }

    /// Begins no attempt before this time.
    pub(crate) fn pause(&mut self, until: SystemTime) {
        self.health = Health::Paused { until, asked: true };
    }

    /// Everything up to this number is in the store: delivered, dead or with a row.
    pub(crate) fn settled(&self) -> u64 {
        self.recorded.settled()
    }

    /// Deliveries that are in flight or not recorded.
    pub(crate) fn held(&self) -> usize {
        let recording = self.recording.as_ref();
        let recording = recording.map_or(0, |record| record.ended.len());
        self.in_flight.len() + self.ended.len() + recording
    }

    /// Deliveries that wait for their next attempt.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len() + self.ahead.len()
    }

    /// When the next retry is due. This is in the past while the retry waits for a slot.
    pub(crate) fn oldest_due(&self) -> Option<SystemTime> {
        self.waiting.peek().map(|next| next.0.due)
    }

    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    /// Whether several different messages have failed since the last success.
    pub(crate) fn is_failing(&self) -> bool {
        self.failures.messages.len() >= SAMPLES
    }

    /// How many claimed messages are neither delivered nor dead.
    pub(crate) fn owed(&self) -> usize {
        let recording = self.recording.iter().flat_map(|record| &record.ended);
        let unrecorded = self.ended.iter().chain(recording);
        let waits = unrecorded.filter(|ended| matches!(ended.fate, Fate::Waits(_)));
        self.in_flight.len() + self.waiting() + waits.count()
    }

    /// Whether a message that is not read yet will be claimed when the feed is read that far.
    pub(crate) fn is_new(&self, seq: u64) -> bool {
        !self.ahead.contains_key(&seq) && (seq > self.until || self.again.contains(&seq))
    }

    /// The position to record. A message with a row is settled, also while its retry is in flight.
    fn position(&self) -> Position {
        let in_flight = self.in_flight.iter().filter(|delivery| !delivery.row);
        let in_flight = in_flight.map(|delivery| delivery.seq);
        Position {
            claimed: self.after.max(self.until),
            open: in_flight.chain(self.again.iter().copied()).collect(),
        }
    }

    /// The limit on deliveries that are in flight or not recorded.
    fn slots(&self, now: SystemTime) -> usize {
        match self.health {
            Health::Disabled { .. } => 0,
            Health::Paused { until, .. } if until > now => 0,
            Health::Paused { .. } => 1,
            Health::Well if self.rules.ordered => 1,
            Health::Well => self.parallel,
        }
    }

    fn free_slots(&self, now: SystemTime) -> usize {
        self.slots(now).saturating_sub(self.held())
    }

    /// One success clears the failures and any pause, except a requested pause that is not over. After
    /// throttling, the number of parallel attempts grows by one after that number of successes.
    fn succeed(&mut self, now: SystemTime) {
        self.failures = Failures::default();
        let asked = matches!(self.health, Health::Paused { until, asked: true } if until > now);
        if !asked && !self.health.is_disabled() {
            self.health = Health::Well;
        }
        self.successes += 1;
        if self.parallel < self.rules.concurrency && self.successes >= self.parallel {
            self.parallel += 1;
            self.successes = 0;
        }
    }

    /// Counts a failed attempt, and decides whether it changes the endpoint's health.
    fn fail(&mut self, seq: u64, verdict: Verdict, now: SystemTime) {
        let since = *self.failures.since.get_or_insert(now);
        self.failures.last = Some(now);
        let lasts = now.duration_since(since).unwrap_or_default();
        self.failures.count = self.failures.count.saturating_add(1);
        if !self.is_failing() && !self.failures.messages.contains(&seq) {
            self.failures.messages.push(seq);
        }
        if let Verdict::Throttled(_) = verdict {
            self.parallel = (self.parallel / 2).max(1);
            self.successes = 0;
        }
        let disabled = |reason| Health::Disabled {
            since: now,
            reason,
            expired: None,
        };
        let health = match verdict {
            _ if self.health.is_disabled() => return,
            Verdict::Gone => disabled(GONE.to_owned()),
            _ if lasts >= self.rules.give_up && self.failures.count >= MIN_FAILURES => {
                let lasts = humantime::format_duration(Duration::from_secs(lasts.as_secs()));
                disabled(format!("no success for {lasts}"))
            }
            Verdict::Throttled(Some(pause)) | Verdict::Pause(pause) => Health::Paused {
                until: self.paused_until(now).max(now + pause),
                asked: true,
            },
            Verdict::Throttled(None) | Verdict::Overloaded if self.is_failing() => {
                self.overloaded(now)
            }
            _ if self.is_failing() && self.health == Health::Well => Health::Paused {
                until: now,
                asked: false,
            },
            _ => return,
        };
        self.health = health;
    }

    /// The pause of an overloaded endpoint that requests none. Attempts that end during a pause do not
    /// extend it.
    fn overloaded(&mut self, now: SystemTime) -> Health {
        if self.paused_until(now) > now {
            return self.health.clone();
        }
        self.failures.pauses += 1;
        Health::Paused {
            until: now + doubled(self.failures.pauses),
            asked: false,
        }
    }

    fn paused_until(&self, now: SystemTime) -> SystemTime {
        match self.health {
            Health::Paused { until, .. } => until,
            _ => now,
        }
    }

    /// Decides when the next attempt is due, if there is one. A throttled attempt does not count as failed: the
    /// next one is due when the pause ends.
    fn postpone(
        &self,
        delivery: &mut Delivery,
        verdict: Verdict,
        now: SystemTime,
        random: f64,
    ) -> Fate {
        if let Verdict::Throttled(asked) = verdict
            && delivery.throttled < MAX_THROTTLED
        {
            delivery.throttled += 1;
            let pause = asked.unwrap_or_else(|| doubled(delivery.throttled.into()));
            return Fate::Waits(now + pause);
        }
        delivery.failed = delivery.failed.saturating_add(1);
        let asked = match verdict {
            Verdict::Gone => return Fate::Dead,
            Verdict::Throttled(asked) => asked.unwrap_or_default(),
            Verdict::Pause(asked) => asked,
            Verdict::Overloaded | Verdict::Retry => Duration::ZERO,
        };
        let delay = self.rules.schedule.delay(delivery.failed.into(), random);
        delay.map_or(Fate::Dead, |delay| Fate::Waits(now + delay.max(asked)))
    }
}

/// The length of the pause with this number. The first one has the number 1.
fn doubled(pause: u32) -> Duration {
    let factor = 1 << (pause - 1).min(16);
    (PAUSE * factor).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const DAY: Duration = Duration::from_secs(24 * 3_600);
    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn rules() -> Rules {
        Rules {
            schedule: Schedule::new([5 * SECOND, 300 * SECOND]),
            give_up: 5 * DAY,
            concurrency: CONCURRENCY,
            ordered: false,
        }
    }

    /// An endpoint that has claimed these messages.
    fn claimed(rules: Rules, messages: std::ops::RangeInclusive<u64>) -> Ledger {
        let mut ledger = Ledger::new(rules, State::default(), Vec::new());
        ledger.claim(*messages.end(), messages.map(|seq| (seq, 10)));
        ledger
    }

    /// Ends an attempt and records it.
    fn end(ledger: &mut Ledger, seq: u64, result: Result<(), Verdict>, now: SystemTime) -> Fate {
        let fate = ledger.end(seq, result, now, 0.0).fate;
        ledger.record(true);
        ledger.recorded();
        fate
    }

    #[test]
    fn a_slow_attempt_stays_open_and_the_others_are_recorded() {
        let mut ledger = claimed(rules(), 1..=3);
        for seq in [2, 3] {
            ledger.end(seq, Ok(()), START, 0.0);
        }
        let record = ledger.record(false).expect("two have ended");
        let position = Position {
            claimed: 3,
            open: vec![1],
        };
        assert_eq!(record.state.position, position);
        assert_eq!(record.ended.len(), 2);
        assert_eq!(ledger.held(), 3, "a slot is held until it is recorded");
        ledger.recorded();
        assert_eq!((ledger.held(), ledger.settled()), (1, 0));
        assert_eq!(ledger.room(START), CONCURRENCY - 1);
    }

    #[test]
    fn what_other_attempts_in_flight_say_does_not_enable_a_disabled_endpoint() {
        for after in [
            Ok(()),
            Err(Verdict::Throttled(Some(SECOND))),
            Err(Verdict::Overloaded),
        ] {
            let mut ledger = claimed(rules(), 1..=2);
            end(&mut ledger, 1, Err(Verdict::Gone), START);
            let disabled = ledger.health().clone();
            assert!(ledger.health().is_disabled());
            end(&mut ledger, 2, after, START + SECOND);
            assert_eq!(*ledger.health(), disabled, "{after:?}");
        }
    }

    #[test]
    fn one_message_that_fails_says_nothing_about_the_endpoint() {
        for verdict in [
            Verdict::Retry,
            Verdict::Overloaded,
            Verdict::Throttled(None),
        ] {
            let mut ledger = claimed(rules(), 1..=1);
            for _ in 0..3 {
                end(&mut ledger, 1, Err(verdict), START);
                assert_eq!(ledger.health(), &Health::Well, "{verdict:?}");
                if let Some(due) = ledger.oldest_due() {
                    ledger.retry(due).expect("it is due");
                }
            }
        }
    }

    #[test]
    fn three_messages_that_fail_leave_one_attempt_at_a_time_until_one_succeeds() {
        let mut ledger = claimed(rules(), 1..=4);
        for seq in 1..=3 {
            assert!(!ledger.is_failing());
            end(&mut ledger, seq, Err(Verdict::Retry), START);
        }
        let failing = Health::Paused {
            until: START,
            asked: false,
        };
        assert_eq!(ledger.health(), &failing);
        assert_eq!(ledger.room(START), 0, "one is in flight");
        let later = START + DAY;
        end(&mut ledger, 4, Err(Verdict::Retry), START);
        assert_eq!(ledger.room(later), 1, "a new one goes before the retries");
        ledger.claim(5, [(5, 10)]);
        end(&mut ledger, 5, Ok(()), later);
        assert_eq!(
            ledger.room(later),
            CONCURRENCY - 1,
            "one slot is for retries"
        );
    }

    #[test]
    fn an_overload_of_different_messages_pauses_and_longer_each_time() {
        let mut ledger = claimed(rules(), 1..=8);
        for seq in 1..=8 {
            end(&mut ledger, seq, Err(Verdict::Overloaded), START);
        }
        let mut now = START;
        for (seq, pause) in [(9, 5), (10, 10), (11, 20), (12, 40)] {
            now += pause * SECOND;
            assert_eq!(ledger.room(now - SECOND), 0);
            assert_eq!(ledger.next_time(now - SECOND), Some(now));
            assert_eq!(ledger.room(now), 1, "after {pause} s");
            ledger.claim(seq, [(seq, 10)]);
            end(&mut ledger, seq, Err(Verdict::Overloaded), now);
        }
        assert_eq!(doubled(7), MAX_PAUSE);
        assert_eq!(doubled(u32::MAX), MAX_PAUSE);
    }

    #[test]
    fn a_success_ends_a_pause_that_was_not_requested_and_no_other() {
        for (verdict, is_paused) in [
            (Verdict::Overloaded, false),
            (Verdict::Throttled(Some(SECOND)), true),
        ] {
            let mut ledger = claimed(rules(), 1..=4);
            for seq in 1..=3 {
                end(&mut ledger, seq, Err(verdict), START);
            }
            assert_eq!(ledger.room(START), 0);
            end(&mut ledger, 4, Ok(()), START);
            assert_eq!(ledger.room(START) == 0, is_paused, "{verdict:?}");
        }
    }

    #[test]
    fn throttling_is_no_failure_and_halves_the_attempts_which_grow_again() {
        let mut ledger = claimed(rules(), 1..=1);
        let mut now = START;
        for throttled in 1..=u32::from(MAX_THROTTLED) {
            let verdict = Err(Verdict::Throttled(Some(SECOND)));
            now += SECOND;
            let fate = end(&mut ledger, 1, verdict, now - SECOND);
            assert_eq!(fate, Fate::Waits(now), "after {throttled}");
            let retry = ledger.retry(now).expect("the pause is over");
            assert_eq!(retry.failed, 0);
        }
        let verdict = Err(Verdict::Throttled(Some(SECOND)));
        assert_eq!(
            end(&mut ledger, 1, verdict, now),
            Fate::Waits(now + 5 * SECOND)
        );
        now += 5 * SECOND;
        assert_eq!(ledger.retry(now).map(|retry| retry.failed), Some(1));
        end(&mut ledger, 1, Ok(()), now);
        let mut parallel = vec![ledger.room(now)];
        for seq in 2..30 {
            ledger.claim(seq, [(seq, 10)]);
            end(&mut ledger, seq, Ok(()), now);
            parallel.push(ledger.room(now));
        }
        parallel.dedup();
        assert_eq!(parallel, [2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(parallel.len(), 7, "it begins at one, and one has succeeded");
    }

    #[test]
    fn several_failures_over_a_long_time_disable_and_one_does_not() {
        let mut ledger = claimed(rules(), 1..=1);
        end(&mut ledger, 1, Err(Verdict::Retry), START);
        for seq in 2..=5 {
            assert!(!matches!(ledger.health(), Health::Disabled { .. }), "{seq}");
            ledger.claim(seq, [(seq, 10)]);
            end(&mut ledger, seq, Err(Verdict::Retry), START + 5 * DAY);
        }
        assert!(matches!(ledger.health(), Health::Disabled { .. }));
        assert_eq!(ledger.room(START + 9 * DAY), 0);
    }

    #[test]
    fn in_order_the_next_message_waits_for_the_one_before() {
        let ordered = Rules {
            ordered: true,
            ..rules()
        };
        let mut ledger = Ledger::new(ordered, State::default(), Vec::new());
        assert_eq!(ledger.room(START), 1);
        ledger.claim(1, [(1, 10)]);
        assert_eq!(ledger.room(START), 0);
        end(&mut ledger, 1, Err(Verdict::Retry), START);
        assert_eq!(ledger.room(START), 0, "the retry is not due yet");
        assert_eq!(ledger.room(START + DAY), 0);
        ledger.retry(START + DAY).expect("it is due");
        end(&mut ledger, 1, Ok(()), START + DAY);
        assert_eq!(ledger.room(START + DAY), 1);
    }

    #[test]
    fn a_throttled_endpoint_gets_new_messages_and_retries_in_turns() {
        let mut ledger = claimed(rules(), 1..=2);
        for seq in 1..=2 {
            end(
                &mut ledger,
                seq,
                Err(Verdict::Throttled(Some(SECOND))),
                START,
            );
        }
        ledger.claim(3, [(3, 10)]);
        ledger.parallel = 1;
        let now = START + SECOND;
        ledger.end(3, Ok(()), now, 0.0);
        (ledger.parallel, ledger.successes) = (1, 0);
        ledger.record(true);
        ledger.recorded();
        assert_eq!(ledger.room(now), 0, "the next one is a retry");
        ledger.retry(now).expect("two are due");
        ledger.end(1, Ok(()), now, 0.0);
        (ledger.parallel, ledger.successes) = (1, 0);
        ledger.record(true);
        ledger.recorded();
        assert_eq!(ledger.room(now), 1, "the next one is new");
    }

    /// What the store would have: the position, and a row for each failed message.
    #[derive(Debug, Clone, Default)]
    struct Stored {
        position: Position,
        rows: BTreeMap<u64, (Fate, Delivery)>,
    }

    /// The feed, the store and the endpoint, with an independent count of what the endpoint accepted.
    #[derive(Debug)]
    struct World {
        now: SystemTime,
        published: Vec<u64>,
        stored: Stored,
        ledger: Ledger,
        /// What is being written.
        writing: Option<Arc<Record>>,
        in_flight: Vec<u64>,
        /// How often the endpoint accepted each message.
        accepted: BTreeMap<u64, u32>,
        /// How often it may have accepted a message again.
        repeats: u32,
    }

    impl World {
        fn new() -> Self {
            Self {
                now: START,
                published: Vec::new(),
                stored: Stored::default(),
                ledger: Ledger::new(rules(), State::default(), Vec::new()),
                writing: None,
                in_flight: Vec::new(),
                accepted: BTreeMap::new(),
                repeats: 0,
            }
        }

        fn step(&mut self, what: u8, how: u8) {
            match what {
                0 | 1 => {
                    let last = self.published.last().copied().unwrap_or(0);
                    self.published.push(last + 1 + u64::from(how % 3));
                }
                2 | 3 => self.claim(usize::from(how % 9)),
                4..=6 => self.end(how),
                7 => self.record(how.is_multiple_of(2)),
                8 => self.commit(),
                9 => self.retry(),
                10 => self.now += SECOND * u32::from(how) * u32::from(how),
                11 => self.crash(),
                _ => self.replay(how),
            }
            assert!(self.ledger.held() <= CONCURRENCY);
        }

        fn claim(&mut self, most: usize) {
            let room = self.ledger.room(self.now).min(most);
            let after = self.ledger.after();
            let new = self.published.iter().copied().filter(|seq| *seq > after);
            let page: Vec<u64> = new.clone().take(room).collect();
            let next = match new.count() > page.len() {
                true => page.last().copied(),
                false => self.published.last().copied(),
            };
            let Some(next) = next else { return };
            let is_new = |seq: &u64| self.ledger.is_new(*seq);
            let new: Vec<u64> = page.into_iter().filter(is_new).collect();
            self.ledger.claim(next, new.iter().map(|seq| (*seq, 10)));
            self.in_flight.extend(new);
        }

        fn end(&mut self, how: u8) {
            if self.in_flight.is_empty() {
                return;
            }
            let at = usize::from(how) % self.in_flight.len();
            let seq = self.in_flight.swap_remove(at);
            let result = match how % 16 {
                0..=7 => Ok(()),
                8 => Err(Verdict::Overloaded),
                9 => Err(Verdict::Throttled(None)),
                10 => Err(Verdict::Throttled(Some(9 * SECOND))),
                11 => Err(Verdict::Pause(99 * SECOND)),
                12 if how > 200 => Err(Verdict::Gone),
                _ => Err(Verdict::Retry),
            };
            if result.is_ok() {
                *self.accepted.entry(seq).or_default() += 1;
            }
            self.ledger.end(seq, result, self.now, 0.5);
            if let Health::Disabled { .. } = self.ledger.health() {
                self.restart(); // it is enabled again
            }
        }

        fn retry(&mut self) {
            let retry = self.ledger.retry(self.now);
            self.in_flight.extend(retry.map(|delivery| delivery.seq));
        }

        fn record(&mut self, all: bool) {
            if let Some(record) = self.ledger.record(all) {
                assert!(self.writing.replace(record).is_none());
            }
        }

        fn commit(&mut self) {
            if let Some(record) = self.writing.take() {
                self.stored.position = record.state.position.clone();
                for Ended { delivery, fate, .. } in &record.ended {
                    let row = (*fate, delivery.clone());
                    match fate {
                        Fate::Delivered => self.stored.rows.remove(&delivery.seq),
                        _ => self.stored.rows.insert(delivery.seq, row),
                    };
                }
                self.ledger.recorded();
            }
        }

        /// The attempts in flight are cut, and what has ended is recorded.
        fn restart(&mut self) {
            for _ in 0..2 {
                self.commit();
                self.record(true);
            }
            self.commit();
            self.crash();
        }

        /// Nothing but the store survives. A transaction that was being written is lost.
        fn crash(&mut self) {
            let unwritten = self
                .writing
                .take()
                .into_iter()
                .flat_map(|record| record.ended.clone());
            let unwritten = unwritten.chain(mem::take(&mut self.ledger.ended));
            let delivered = unwritten
                .filter(|ended| ended.fate == Fate::Delivered)
                .count();
            assert!(delivered <= CONCURRENCY);
            self.repeats += delivered as u32;
            self.in_flight.clear();
            let rows = self.stored.rows.iter();
            let waiting = rows.clone().filter_map(|(_, (fate, delivery))| match fate {
                Fate::Waits(due) => Some(Waiting {
                    due: *due,
                    delivery: Delivery {
                        row: true,
                        ..delivery.clone()
                    },
                }),
                _ => None,
            });
            let state = State {
                position: self.stored.position.clone(),
                ..State::default()
            };
            self.ledger = Ledger::new(rules(), state, waiting.collect());
            self.check_nothing_is_lost();
        }

        fn check_nothing_is_lost(&self) {
            let Position { claimed, open } = &self.stored.position;
            for seq in &self.published {
                let is_kept = seq > claimed || open.contains(seq);
                let is_kept = is_kept || self.stored.rows.contains_key(seq);
                assert!(is_kept || self.accepted.contains_key(seq), "{seq} is lost");
            }
        }

        fn replay(&mut self, how: u8) {
            self.restart();
            let to = u64::from(how);
            if let Some(position) = self.stored.position.moved_back(to) {
                self.stored.position = position;
                for (_, (fate, _)) in self.stored.rows.range_mut(to + 1..) {
                    *fate = Fate::Waits(self.now);
                }
                let again = self.accepted.range(to + 1..).count();
                self.repeats += again as u32;
                self.crash();
            }
        }

        /// From here on every attempt succeeds.
        fn settle(&mut self) {
            for _ in 0..10 * (self.published.len() + CONCURRENCY) {
                self.now += DAY;
                self.claim(CONCURRENCY);
                self.retry();
                while !self.in_flight.is_empty() {
                    self.end(0);
                }
                self.record(true);
                self.commit();
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn whatever_happens_nothing_is_lost_and_little_is_repeated(steps in vec((0u8..13, any::<u8>()), 0..200)) {
            let mut world = World::new();
            for (what, how) in steps {
                world.step(what, how);
            }
            world.settle();
            world.check_nothing_is_lost();
            for seq in &world.published {
                let is_dead = world.stored.rows.get(seq).is_some_and(|(fate, _)| *fate == Fate::Dead);
                prop_assert!(is_dead || world.accepted.contains_key(seq), "{seq} never came");
            }
            let accepted: u32 = world.accepted.values().sum();
            let again = accepted - world.accepted.len() as u32;
            prop_assert!(again <= world.repeats, "{again} repeats, {} allowed", world.repeats);
        }
    }
}
