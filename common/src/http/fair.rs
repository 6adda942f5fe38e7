//! Time limits that are fair after the process was stopped.
//!
//! A limit that is noticed late is not believed at once: what the peer sent meanwhile may be unread. The runtime may
//! run the timers before it learns of it.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::{Sleep, Timer};
use tokio::time::{Instant, sleep_until};

use super::stall::LATE;

/// Resolves at `deadline`, or a little later if the process was stopped meanwhile.
async fn fair_sleep_until(deadline: Instant) {
    let mut sleep = pin!(sleep_until(deadline));
    sleep.as_mut().await;
    if deadline.elapsed() >= LATE {
        sleep.as_mut().reset(Instant::now() + LATE);
        sleep.await;
    }
}

/// hyper's timer, for its limit on slow heads and idle connections.
#[derive(Debug, Clone, Copy)]
pub struct FairTimer;

struct FairSleep(Pin<Box<dyn Future<Output = ()> + Send + Sync>>);

impl Timer for FairTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(FairSleep(Box::pin(fair_sleep_until(deadline.into()))))
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into()
    }
}

impl Future for FairSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(task)
    }
}

impl Sleep for FairSleep {}

#[cfg(test)]
mod tests {
    use tokio::{
        spawn,
        task::yield_now,
        time::{advance, sleep},
    };

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
    async fn a_limit_that_is_noticed_in_time_is_believed_at_once() {
        let started = Instant::now();
        let waits = spawn(FairTimer.sleep(LIMIT));
        sleep(LIMIT + LATE / 2).await;
        waits.await.unwrap();
        assert_eq!(started.elapsed(), LIMIT + LATE / 2);
    }
}
