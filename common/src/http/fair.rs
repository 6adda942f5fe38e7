//! Time limits that are fair after the process was stopped.
//!
//! A limit that is noticed late is not believed at once: the process was stopped or starved. When it continues, the
//! runtime may run the timers before it learns what the peer did meanwhile. So the peer gets a moment more, once.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt;
use tokio::time::{Instant, Sleep, sleep};

/// A limit that is noticed this late is extended by the same time.
pub(super) const LATE: Duration = Duration::from_millis(100);

/// Resolves when its time is up. If that is noticed late, [`LATE`] after it is noticed.
#[derive(Debug)]
pub(super) struct FairSleep {
    sleep: Pin<Box<Sleep>>,
    is_extended: bool,
}

impl FairSleep {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            sleep: Box::pin(sleep(limit)),
            is_extended: false,
        }
    }
}

impl Future for FairSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        ready!(self.sleep.as_mut().poll(task));
        if self.is_extended || self.sleep.deadline().elapsed() < LATE {
            return Poll::Ready(());
        }
        self.is_extended = true;
        self.sleep.as_mut().reset(Instant::now() + LATE);
        self.sleep.as_mut().poll(task)
    }
}

/// The work was not done in time.
#[derive(Debug)]
pub struct TooSlow;

/// Like [`tokio::time::timeout`], but what came while the process was stopped is in time.
///
/// # Errors
/// If the work is not done in time.
pub async fn fair_timeout<F: Future>(limit: Duration, work: F) -> Result<F::Output, TooSlow> {
    let work = pin!(work);
    tokio::select! {
        biased; // The work first: it may be done when the time is up.
        done = work => Ok(done),
        () = FairSleep::new(limit) => Err(TooSlow),
    }
}

/// hyper's timer, for its limit on slow heads and idle connections.
#[derive(Debug, Clone, Copy)]
pub struct FairTimer;

impl rt::Timer for FairTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(FairSleep::new(duration))
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep(deadline - self.now())
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into()
    }
}

impl rt::Sleep for FairSleep {}

#[cfg(test)]
mod tests {
    use hyper::rt::Timer;
    use tokio::{spawn, task::yield_now, time::advance};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_is_noticed_late_is_believed_a_moment_later() {
        let waits = spawn(FairTimer.sleep(LIMIT));
        yield_now().await;
        advance(LIMIT * 100).await; // As after a stop of the process.
        for _ in 0..9 {
            yield_now().await;
        }
        assert!(!waits.is_finished());
        let stopped = Instant::now();
        waits.await.unwrap();
        assert_eq!(stopped.elapsed(), LATE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_extended_only_once() {
        let waits = spawn(FairTimer.sleep(LIMIT));
        for stopped in [Duration::ZERO, LIMIT * 100, LIMIT * 100] {
            assert!(!waits.is_finished());
            advance(stopped).await;
            for _ in 0..9 {
                yield_now().await;
            }
        }
        assert!(waits.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_is_noticed_in_time_is_believed_at_once() {
        let started = Instant::now();
        let waits = spawn(FairTimer.sleep(LIMIT));
        sleep(LIMIT + LATE / 2).await;
        waits.await.unwrap();
        assert_eq!(started.elapsed(), LIMIT + LATE / 2);
    }
}
