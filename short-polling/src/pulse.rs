//! What the hint is made from, felt once a second: when the feed grew, and how busy the server is.
//!
//! A cursor counts over all topics, so one short memory of where the head was at which moment tells
//! the age of any message, to the second.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{
        RwLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use common::Feed;
use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};

const BEAT: Duration = Duration::from_secs(1);

/// The server's own state, as of the last beat.
#[derive(Debug)]
pub(crate) struct Pulse {
    began: Instant,
    /// How old what the feed held already is taken to be.
    old: Duration,
    /// Ages beyond this are all the same.
    oldest: Duration,
    /// Where the head was when it was first seen there. Times count from `old` before `began`.
    heads: RwLock<VecDeque<(Duration, u64)>>,
    /// The share of the last beat for which the runtime's workers were busy, in percent.
    load: AtomicU32,
}

impl Pulse {
    /// The first beat, of a feed whose head is `head`. Messages up to there count as `old`, and
    /// none is remembered for longer than `oldest`.
    pub(crate) fn new(head: u64, old: Duration, oldest: Duration) -> Self {
        Self {
            began: Instant::now(),
            old,
            oldest,
            heads: RwLock::new([(Duration::ZERO, head)].into()),
            load: AtomicU32::new(0),
        }
    }

    /// How long ago the message `seq` was published.
    pub(crate) fn silence(&self, seq: u64) -> Duration {
        let heads = self.heads.read().expect(UNPOISONED);
        let seen = heads.partition_point(|(_, head)| *head < seq);
        // Not seen yet: younger than a beat.
        heads
            .get(seen)
            .map_or(Duration::ZERO, |(at, _)| self.now() - *at)
    }

    /// For what share of its time the server is busy, from 0 to 1.
    pub(crate) fn load(&self) -> f64 {
        f64::from(self.load.load(Ordering::Relaxed)) / 100.0
    }

    /// Feels the pulse of `feed` and of this runtime until dropped.
    pub(crate) async fn beat(&self, feed: &Feed) -> Infallible {
        let mut before = (Instant::now(), busy_time());
        loop {
            sleep(BEAT).await;
            self.see(feed.head().seq);
            let now = (Instant::now(), busy_time());
            let share = (now.1 - before.1).div_duration_f64(now.0 - before.0);
            let percent = (share.min(1.0) * 100.0) as u32;
            self.load.store(percent, Ordering::Relaxed);
            before = now;
        }
    }

    fn see(&self, head: u64) {
        let (mut heads, now) = (self.heads.write().expect(UNPOISONED), self.now());
        if heads.back().is_none_or(|(_, last)| *last < head) {
            heads.push_back((now, head));
        }
        // The first of those that are too old stays, for all that is older.
        while heads.get(1).is_some_and(|(at, _)| now - *at >= self.oldest) {
            heads.pop_front();
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed() + self.old
    }
}

/// For how long the runtime's workers were busy, on average.
fn busy_time() -> Duration {
    let metrics = Handle::current().metrics();
    let workers = metrics.num_workers();
    let busy: Duration = (0..workers)
        .map(|worker| metrics.worker_total_busy_duration(worker))
        .sum();
    busy / workers as u32
}

const UNPOISONED: &str = "nothing panics under this lock";

#[cfg(test)]
mod tests {
    use common::{Data, Draft, Retention};
    use harness::PATIENCE;
    use tokio::time::{advance, timeout};

    use super::*;

    const OLD: Duration = Duration::from_secs(20);
    const OLDEST: Duration = Duration::from_secs(80);

    #[tokio::test(start_paused = true)]
    async fn a_silence_counts_from_the_topics_last_message() {
        let pulse = Pulse::new(7, OLD, OLDEST);
        assert_eq!(pulse.silence(7), OLD, "what was there already");
        assert_eq!(pulse.silence(8), Duration::ZERO, "not seen yet");
        for (seconds, head) in [(1, 8), (2, 8), (3, 12)] {
            advance(BEAT).await;
            pulse.see(head);
            assert_eq!(pulse.silence(8).as_secs(), seconds - 1);
        }
        assert_eq!([9, 12].map(|seq| pulse.silence(seq).as_secs()), [0, 0]);
        advance(BEAT * 10).await;
        let ages = [7, 8, 9, 12, 13].map(|seq| pulse.silence(seq).as_secs());
        assert_eq!(ages, [33, 12, 10, 10, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_old_is_forgotten_and_still_old() {
        let pulse = Pulse::new(0, OLD, OLDEST);
        for head in 1..=500 {
            advance(BEAT).await;
            pulse.see(head);
        }
        assert_eq!(pulse.heads.read().unwrap().len(), 81);
        assert!(pulse.silence(1) >= OLDEST);
        assert_eq!(pulse.silence(500), Duration::ZERO);
        assert_eq!(pulse.silence(450).as_secs(), 50);
    }

    #[tokio::test(start_paused = true)]
    async fn the_feed_is_looked_at_once_a_second() {
        let feed = Feed::new(Retention::default());
        let pulse = Pulse::new(0, OLD, OLDEST);
        let draft = Draft::new(Data::text("x"));
        feed.publish("a".parse().unwrap(), draft).await.unwrap();
        let look = async {
            sleep(BEAT * 9 / 10).await;
            assert_eq!(pulse.heads.read().unwrap().len(), 1);
            sleep(BEAT * 2 / 10).await;
            assert_eq!(pulse.heads.read().unwrap()[1].1, 1);
        };
        tokio::select! {
            never = pulse.beat(&feed) => match never {},
            () = look => {}
        }
    }

    #[tokio::test]
    async fn a_server_that_only_works_is_loaded_and_one_that_waits_is_not() {
        let feed = Feed::new(Retention::default());
        let pulse = Pulse::new(0, OLD, OLDEST);
        // Spawned, as connections are: the runtime's own future is not counted.
        let work = tokio::spawn(async {
            loop {
                let started = std::time::Instant::now();
                while started.elapsed() < BEAT / 100 {
                    std::hint::spin_loop();
                }
                tokio::task::yield_now().await;
            }
        });
        let follows = async {
            while pulse.load() < 0.5 {
                sleep(BEAT / 10).await;
            }
            work.abort();
            while pulse.load() > 0.5 {
                sleep(BEAT / 10).await;
            }
        };
        tokio::select! {
            never = pulse.beat(&feed) => match never {},
            done = timeout(PATIENCE, follows) => done.expect("the load follows"),
        }
    }
}
