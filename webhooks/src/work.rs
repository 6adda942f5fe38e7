//! What is done with the events that the inbox has stored.
//!
//! - Effects **inside** the inbox's own transaction happen exactly once: they are committed together
//!   with the record that the event is handled.
//! - **Other** effects, a mail, a call, a message, happen at least once: a crash may come after the
//!   effect and before the record. They carry the event's id as their key, so that whoever is at the
//!   other end can tell a repeat.
//!
//! An attempt that fails is made again, later each time, and after the last the event is dead: kept,
//! listed with its error, and not touched again. Order is not promised: a retry comes after what is newer.

use std::{
    collections::HashSet,
    convert::Infallible,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{interval, sleep, timeout},
};
use tracing::{error, warn};

use crate::{
    inbox::{Event, Inbox, Inside, Settled, due, millis},
    schedule::Schedule,
};

/// Attempts that are under way at the same time.
const CONCURRENCY: usize = 64;
/// How often what is too old is looked for.
const TRIM: Duration = Duration::from_secs(3_600);
/// How long to leave an inbox alone that could not take a result or did not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// `SystemTime::now`, but for tests.
pub(crate) type Clock = fn() -> SystemTime;

/// What is done with each event.
pub trait Effects: Send + Sync + 'static {
    /// Does what is to be done elsewhere, with the event's source and id as its key: it may be done
    /// again. Returns what is to be done [inside](Inside).
    ///
    /// # Errors
    /// Why it could not be done now, for the list.
    fn apply(&self, event: &Event) -> impl Future<Output = Result<Inside, String>> + Send;
}

/// How events are attempted.
#[derive(Debug, Clone)]
pub struct Attempts {
    /// When to try again.
    pub schedule: Schedule,
    /// How long one may take outside.
    pub timeout: Duration,
}

impl Default for Attempts {
    /// Eight attempts in 31 hours, a minute each.
    fn default() -> Self {
        let delays = [1, 10, 60, 600, 3_600, 21_600, 86_400];
        Self {
            schedule: Schedule::new(delays.map(Duration::from_secs)),
            timeout: Duration::from_secs(60),
        }
    }
}

/// Handles events until `stop`, and then finishes those that it has begun. `clock` tells the time.
pub(crate) async fn work<E: Effects>(
    inbox: Inbox,
    effects: Arc<E>,
    attempts: Attempts,
    clock: Clock,
    mut stop: watch::Receiver<bool>,
) {
    let mut running = JoinSet::new();
    let mut claimed = HashSet::new();
    let mut trimming = pin!(trim_hourly(&inbox, clock));
    loop {
        let free = CONCURRENCY - claimed.len();
        let (events, next) = claim(&inbox, clock(), &claimed, free).await;
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
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(ended) = running.join_next() => {
                release(&mut claimed, ended.ok());
                while let Some(ended) = running.try_join_next() { release(&mut claimed, ended.ok()) }
            }
            () = inbox.news(), if claimed.len() < CONCURRENCY => {}
            () = sleep(next), if claimed.len() < CONCURRENCY => {}
            never = &mut trimming => match never {},
        }
    }
    while running.join_next().await.is_some() {}
}

async fn trim_hourly(inbox: &Inbox, clock: Clock) -> Infallible {
    let mut hours = interval(TRIM);
    loop {
        hours.tick().await;
        if let Err(error) = inbox.trim(clock()).await {
            warn!(%error, "old events are left for later");
        }
    }
}

fn release(claimed: &mut HashSet<i64>, seq: Option<i64>) {
    claimed.remove(&seq.expect("an attempt's task catches the panics of its effects"));
}

/// What is due and free, and how long until more is.
async fn claim(
    inbox: &Inbox,
    now: SystemTime,
    claimed: &HashSet<i64>,
    free: usize,
) -> (Vec<Event>, Duration) {
    let (now, claimed) = (millis(now), claimed.iter().copied().collect());
    let claimed: Vec<i64> = claimed;
    let found = inbox.read(move |database| due(database, now, &claimed, free));
    match found.await {
        Ok((events, next)) => {
            let until = next.map_or(u64::MAX, |next| next.abs_diff(now));
            (events, Duration::from_millis(until).min(LONGEST))
        }
        Err(error) => {
            error!(%error, "the inbox cannot be read");
            (Vec::new(), PAUSE)
        }
    }
}

/// The clock may be set meanwhile: what is due is looked for from time to time.
const LONGEST: Duration = Duration::from_secs(60);

/// One attempt from the effects to their record. Returns the event's number.
async fn attempt<E: Effects>(
    inbox: Inbox,
    effects: Arc<E>,
    attempts: Attempts,
    clock: Clock,
    event: Event,
) -> i64 {
    let (seq, id, failed) = (event.seq, event.id.clone(), event.attempts + 1);
    let limit = attempts.timeout;
    let outcome = match timeout(limit, unpanicked(effects.apply(&event))).await {
        Ok(outcome) => outcome.unwrap_or_else(|| Err("it panicked".to_owned())),
        Err(_) => Err(format!("it took longer than {} s", limit.as_secs_f64())),
    };
    let delay = attempts.schedule.delay(failed, rand::random());
    if let Err(error) = &outcome {
        warn!(
            id,
            failed,
            error,
            dead = delay.is_none(),
            "an event is not handled"
        );
    }
    let settled = Settled {
        seq,
        outcome,
        retry: delay.map(|delay| clock() + delay),
    };
    if let Err(error) = inbox.settle(settled).await {
        // The event is still due, and its effects outside will be repeated.
        warn!(id, %error, "an attempt is not recorded");
        sleep(PAUSE).await;
    }
    seq
}

/// What `future` gives, unless it panics: that is an attempt that failed, and no more.
async fn unpanicked<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        polled.map_or(Poll::Ready(None), |polled| polled.map(Some))
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::{cell::OnceCell, env, fs, process, sync::Mutex};

    use tokio::{sync::Notify, time::Instant};

    use super::*;
    use crate::{
        source::{Secrets, Source},
        verify::unix_seconds,
    };

    /// The time of the runtime, which is a test's own.
    fn driven() -> SystemTime {
        thread_local!(static START: OnceCell<(SystemTime, Instant)> = const { OnceCell::new() });
        START.with(|start| {
            let (time, instant) = start.get_or_init(|| (SystemTime::now(), Instant::now()));
            *time + instant.elapsed()
        })
    }

    /// Fails always, and notes when, and when it was due.
    struct Away {
        inbox: Inbox,
        at: Mutex<Vec<(i64, i64)>>,
        last: Notify,
    }

    impl Effects for Away {
        async fn apply(&self, _: &Event) -> Result<Inside, String> {
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
            standard: Vec::new(),
            stripe: Vec::new(),
            github: Vec::new(),
            telegram: vec!["token".parse().unwrap()],
            past: Duration::ZERO,
        };
        let mut headers = hyper::HeaderMap::new();
        headers.insert("x-telegram-bot-api-secret-token", "token".parse().unwrap());
        let body = "{\"update_id\":1}".into();
        let now = unix_seconds(driven());
        let Ok(arrival) = secrets.judge(Source::Telegram, &headers, body, now) else {
            panic!("it is genuine");
        };
        assert!(inbox.store(arrival, driven()).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_fails_is_tried_eight_times_in_31_hours_and_never_early() {
        let folder = env::temp_dir().join(format!("webhooks-work-{}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        // The thread of the inbox is none of the runtime's: while it is waited for, the clock may go on.
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

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_an_attempt_that_failed() {
        assert_eq!(unpanicked(async { 1 }).await, Some(1));
        let panics = async {
            tokio::task::yield_now().await;
            panic!("a panic outside")
        };
        assert_eq!(unpanicked::<()>(panics).await, None);
    }
}
