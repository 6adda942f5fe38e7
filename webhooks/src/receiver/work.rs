//! The work on stored events: effects, retries, and the record of both.
//!
//! - Effects **inside** the inbox's own transaction happen exactly once, because they are committed together
//!   with the record that the event is handled.
//! - **Other** effects (a mail, a call, a message) happen at least once, because a crash may come between the
//!   effect and the record. Send the event's key with them, so that the other end can recognize a repeat.
//!
//! A failed attempt is retried by the schedule. After the last attempt the event is dead: it stays listed
//! with its error until an operator retries it. Order is not promised: a retry comes after newer events.

use std::{
    collections::HashSet,
    convert::Infallible,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};
use tracing::{error, warn};

use super::inbox::{InTransaction, Inbox, StoredEvent, due};
use crate::schedule::Schedule;

/// The most attempts at the same time.
const CONCURRENCY: usize = 64;
/// How often old events are deleted, and wrong due times are corrected.
const TRIM: Duration = Duration::from_secs(3_600);
/// How long to wait after the inbox could not be read or written.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest wait before looking for due events again, because the system's clock may be set meanwhile.
const LONGEST: Duration = Duration::from_secs(60);

/// The source of the time: `SystemTime::now`, except in tests.
pub type Clock = fn() -> SystemTime;

/// What to do with each event.
pub trait Effects: Send + Sync + 'static {
    /// Runs the effects outside the inbox and returns the effect [inside](InTransaction) it. It may be called
    /// again for the same event, so use its source and [key](StoredEvent::key) as an idempotency key.
    ///
    /// # Errors
    /// Why the attempt failed. The event is listed with this text.
    fn apply(
        &self,
        event: &StoredEvent,
    ) -> impl Future<Output = Result<InTransaction, String>> + Send;
}

/// How events are attempted.
#[derive(Debug, Clone)]
pub struct Attempts {
    /// When to try again.
    pub schedule: Schedule,
    /// The time limit of [`Effects::apply`].
    pub timeout: Duration,
}

impl Default for Attempts {
    /// Eight attempts in 31 hours, each at most a minute.
    fn default() -> Self {
        let delays = [1, 10, 60, 600, 3_600, 21_600, 86_400];
        Self {
            schedule: Schedule::new(delays.map(Duration::from_secs)),
            timeout: Duration::from_secs(60),
        }
    }
}

/// Handles events until `stop` is true. Then finishes the attempts that are running.
pub async fn work<E: Effects>(
    inbox: Inbox,
    effects: Arc<E>,
    attempts: Attempts,
    clock: Clock,
    mut stop: watch::Receiver<bool>,
) {
    let mut running = JoinSet::new();
    let mut claimed = HashSet::new();
    let longest = attempts.schedule.longest();
    let mut trimming = pin!(trim_hourly(&inbox, clock, longest));
    loop {
        let (events, next) = claim(&inbox, clock(), &claimed).await;
        for event in events {
            claimed.insert(event.seq);
            running.spawn(attempt(
                inbox.clone(),
                effects.clone(),
                attempts.clone(),
                clock,
                event,
            ));
        }
        // With every slot in use, a wake-up would read the database for nothing.
        let has_room = claimed.len() < CONCURRENCY;
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(ended) = running.join_next() => {
                release(&mut claimed, ended.ok());
                while let Some(ended) = running.try_join_next() { release(&mut claimed, ended.ok()) }
            }
            () = inbox.written(), if has_room => {}
            () = sleep(next), if has_room => {}
            never = &mut trimming => match never {}, // Polled here, it trims. It never ends.
        }
    }
    // Wait for them: an attempt that is aborted repeats its outside effects after the next start.
    while running.join_next().await.is_some() {}
}

/// The due events that no attempt has claimed yet, and how long until the next one is due.
async fn claim(
    inbox: &Inbox,
    now: SystemTime,
    claimed: &HashSet<i64>,
) -> (Vec<StoredEvent>, Duration) {
    let (skipped, room) = (claimed.clone(), CONCURRENCY - claimed.len());
    let found = inbox.read(move |database| due(database, now, &skipped, room));
    match found.await {
        Ok((events, wait)) => (events, wait.map_or(LONGEST, |wait| wait.min(LONGEST))),
        Err(error) => {
            error!(%error, "the inbox cannot be read");
            (Vec::new(), PAUSE)
        }
    }
}

/// Frees the slot of an attempt that has ended. If it has failed, a later `claim` finds the event again.
fn release(claimed: &mut HashSet<i64>, seq: Option<i64>) {
    claimed.remove(&seq.expect("an attempt's task catches the panics of its effects"));
}

async fn trim_hourly(inbox: &Inbox, clock: Clock, longest: Duration) -> Infallible {
    let (began, at) = (Instant::now(), clock());
    let mut hours = interval(TRIM);
    loop {
        hours.tick().await;
        if let Err(error) = inbox.correct(clock(), longest).await {
            warn!(%error, "due times were not corrected");
        }
        if let Some(now) = believed(clock(), at, began.elapsed())
            && let Err(error) = inbox.trim(now).await
        {
            warn!(%error, "old events were not deleted");
        }
    }
}

/// The time by which old events are deleted. `now` may be after a jump of the clock, and `at`, the start, may be
/// wrong too. So in the first hour there is no such time, and later it is the earlier of the two: if an event is
/// deleted too early, a repeat of it would be handled again.
fn believed(now: SystemTime, at: SystemTime, passed: Duration) -> Option<SystemTime> {
    (passed >= TRIM).then(|| now.min(at + passed))
}

/// One attempt, from the effects to their record. Returns the event's number.
async fn attempt<E: Effects>(
    inbox: Inbox,
    effects: Arc<E>,
    attempts: Attempts,
    clock: Clock,
    event: StoredEvent,
) -> i64 {
    // A panic is a failed attempt: it must not end the server. The call itself may panic too, so it is inside.
    let apply = AssertUnwindSafe(async { effects.apply(&event).await }).catch_unwind();
    let limit = attempts.timeout;
    let outcome = match timeout(limit, apply).await {
        Ok(outcome) => outcome.unwrap_or_else(|_| Err("it panicked".to_owned())),
        Err(_) => Err(format!("it took longer than {} s", limit.as_secs_f64())),
    };
    let failed = event.attempts + 1;
    // Needed even after a success: the effect inside may still fail.
    let delay = attempts.schedule.delay(failed, rand::random());
    if let Err(error) = &outcome {
        let dead = delay.is_none();
        warn!(
            id = event.id,
            failed, error, dead, "an event is not handled"
        );
    }
    let retry = delay.map(|delay| clock() + delay);
    if let Err(error) = inbox.record(event.seq, outcome, retry).await {
        // The event is still due, so it is attempted again. The pause keeps a failing disk from a busy loop.
        warn!(id = event.id, %error, "an attempt is not recorded");
        sleep(PAUSE).await;
    }
    event.seq
}

#[cfg(test)]
mod tests {
    use std::{cell::OnceCell, env, fs, process, sync::Mutex};

    use tokio::sync::Notify;

    use super::{
        super::{
            inbox::{Stored, millis},
            source::{Secrets, Source},
        },
        *,
    };
    use crate::verify::unix_seconds;

    /// The runtime's paused clock as the system's time.
    fn driven() -> SystemTime {
        thread_local!(static START: OnceCell<(SystemTime, Instant)> = const { OnceCell::new() });
        START.with(|start| {
            let (time, instant) = start.get_or_init(|| (SystemTime::now(), Instant::now()));
            *time + instant.elapsed()
        })
    }

    /// Always fails. Notes when each attempt was due and when it came.
    struct Away {
        inbox: Inbox,
        at: Mutex<Vec<(i64, i64)>>,
        last: Notify,
    }

    impl Effects for Away {
        async fn apply(&self, _: &StoredEvent) -> Result<InTransaction, String> {
            let due = |database: &rusqlite::Connection| {
                database.query_row("SELECT due FROM work", [], |row| row.get(0))
            };
            let due = self.inbox.read(due).await.unwrap();
            let mut at = self.at.lock().unwrap();
            at.push((due, millis(driven())));
            if at.len() == 8 {
                self.last.notify_one();
            }
            Err("away".to_owned())
        }
    }

    async fn stored(inbox: &Inbox) {
        let secrets = Secrets {
            telegram: vec!["token".parse().unwrap()],
            ..Secrets::default()
        };
        let mut headers = hyper::HeaderMap::new();
        headers.insert("x-telegram-bot-api-secret-token", "token".parse().unwrap());
        headers.insert("content-type", "application/json".parse().unwrap());
        let body = "{\"update_id\":1}".into();
        let now = unix_seconds(driven());
        let Ok(arrival) = secrets.verify(Source::Telegram, &headers, body, now) else {
            panic!("it is genuine");
        };
        let stored = inbox.store(arrival, driven()).await.unwrap();
        assert_eq!(stored, Stored::New);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_fails_is_tried_eight_times_in_31_hours_and_never_early() {
        let folder = env::temp_dir().join(format!("webhooks-work-{}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        // The inbox's thread is outside the runtime: while the test waits for it, the clock may advance.
        let inbox = Inbox::open(&folder.join("inbox.sqlite"), Duration::MAX).unwrap();
        stored(&inbox).await;
        let away = Arc::new(Away {
            inbox: inbox.clone(),
            at: Mutex::default(),
            last: Notify::new(),
        });
        let (_stop, stopped) = watch::channel(false);
        let worker = work(inbox, away.clone(), Attempts::default(), driven, stopped);
        tokio::select! {
            () = worker => unreachable!("nobody stops it"),
            () = away.last.notified() => {}
        }
        let at = away.at.lock().unwrap().clone();
        let delays = [1, 10, 60, 600, 3_600, 21_600, 86_400];
        for (pair, delay) in at.windows(2).zip(delays) {
            let [(_, failed), (due, tried)] = [pair[0], pair[1]];
            let wait = (due - failed) as f64 / 1_000.0;
            assert!(
                (delay as f64..=delay as f64 * 1.2).contains(&wait),
                "{delay}: {wait}"
            );
            assert!(tried >= due, "{delay}: it is never early");
        }
        let _ = fs::remove_dir_all(&folder);
    }

    #[test]
    fn old_events_are_deleted_by_the_earlier_of_two_clocks() {
        let (right, month) = (driven(), TRIM * 24 * 31);
        let at_once = believed(right, right, Duration::ZERO);
        assert_eq!(at_once, None, "the clock may be corrected soon");
        let hour = right + TRIM;
        for (now, at) in [(hour, right), (hour + month, right), (hour, right + month)] {
            assert_eq!(believed(now, at, TRIM), Some(hour));
        }
    }
}
