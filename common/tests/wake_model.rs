//! Every interleaving of a publisher and its waiters, tried by loom: no wake-up is lost between register,
//! read and park, and a waiter that is gone holds no slot. With two threads every schedule is tried. With
//! three, every schedule of at most [`PREEMPTIONS`] preemptions: the bound that loom's documentation
//! recommends, since bugs show within two or three.
//!
//! `wake.rs` imports only its mutex from the crate. So it is compiled here again with loom's mutex.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use loom::{
    future::block_on,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

mod sync {
    pub(crate) use loom::sync::Mutex;
}

#[allow(dead_code, reason = "the feed uses the rest")]
#[path = "../src/feed/wake.rs"]
mod wake;

use wake::Wakers;

const PREEMPTIONS: usize = 2;

fn three_threads(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(model);
}

/// What waiters see of a feed: a number that a publisher raises before it wakes them.
struct Log {
    published: loom::sync::Arc<AtomicUsize>,
    wakers: loom::sync::Arc<Wakers<&'static str>>,
}

impl Log {
    fn new() -> Self {
        Self {
            published: loom::sync::Arc::new(AtomicUsize::new(0)),
            wakers: loom::sync::Arc::new(Wakers::new()),
        }
    }

    fn share(&self) -> Self {
        Self {
            published: self.published.clone(),
            wakers: self.wakers.clone(),
        }
    }

    fn publish(&self, topic: &'static str) {
        self.published.fetch_add(1, Ordering::SeqCst);
        self.wakers.wake(&topic);
    }

    /// Waits as `Feed::next` does: look, register, look again, park.
    async fn wait_for(&self, topics: &[&'static str], wanted: usize) {
        let mut waiter = self.wakers.waiter(topics);
        std::future::poll_fn(|task| {
            let seen = || self.published.load(Ordering::SeqCst) >= wanted;
            if seen() {
                return Poll::Ready(());
            }
            waiter.register(task.waker());
            if seen() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

#[test]
fn a_publish_at_any_moment_wakes_the_waiter() {
    loom::model(|| {
        let log = Log::new();
        let publisher = log.share();
        let publishing = thread::spawn(move || publisher.publish("a"));
        block_on(log.wait_for(&["a"], 1));
        publishing.join().unwrap();
        assert_eq!(log.wakers.waiters(), 0);
    });
}

#[test]
fn a_waiter_of_two_topics_hears_of_both() {
    three_threads(|| {
        let log = Log::new();
        let (first, second) = (log.share(), log.share());
        let publishing = [
            thread::spawn(move || first.publish("a")),
            thread::spawn(move || second.publish("b")),
        ];
        block_on(log.wait_for(&["a", "b"], 2));
        publishing
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(log.wakers.waiters(), 0);
    });
}

#[test]
fn two_waiters_are_both_woken() {
    three_threads(|| {
        let log = Log::new();
        let other = log.share();
        let waiting = thread::spawn(move || block_on(other.wait_for(&["a"], 1)));
        let publisher = log.share();
        let publishing = thread::spawn(move || publisher.publish("a"));
        block_on(log.wait_for(&["a"], 1));
        waiting.join().unwrap();
        publishing.join().unwrap();
        assert_eq!(log.wakers.waiters(), 0);
    });
}

#[test]
fn closing_at_any_moment_wakes_everybody() {
    loom::model(|| {
        let log = Log::new();
        let closer = log.share();
        let closing = thread::spawn(move || {
            closer.published.fetch_add(1, Ordering::SeqCst);
            closer.wakers.wake_all();
        });
        block_on(log.wait_for(&["a", "b"], 1));
        closing.join().unwrap();
    });
}

#[test]
fn a_waiter_that_leaves_at_any_moment_keeps_no_place_and_takes_nobody_elses() {
    three_threads(|| {
        let log = Log::new();
        let leaver = log.share();
        let leaving = thread::spawn(move || {
            let mut waiting = pin!(leaver.wait_for(&["a"], 1));
            let _ = waiting
                .as_mut()
                .poll(&mut Context::from_waker(&Waker::from(Arc::new(Nobody))));
        });
        let publisher = log.share();
        let publishing = thread::spawn(move || publisher.publish("a"));
        block_on(log.wait_for(&["a"], 1));
        leaving.join().unwrap();
        publishing.join().unwrap();
        assert_eq!(log.wakers.waiters(), 0);
    });
}

/// A waker that does nothing.
struct Nobody;

impl Wake for Nobody {
    fn wake(self: Arc<Self>) {}
}
