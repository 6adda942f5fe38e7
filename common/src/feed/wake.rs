//! How a waiter is woken. No wake-up is lost.
//!
//! A waiter reads, finds nothing, registers, and *reads again* before it parks. A publisher appends
//! first and wakes afterwards. Whichever way the two interleave, either the second read sees the
//! message, or the publisher finds the waker. `tests/wake_model.rs` checks every interleaving.
//!
//! Each key (a topic) has the wakers of its waiters. To wake, all of them are removed under the lock, and they
//! are called after it is released, so ten thousand waiters block no publisher.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    task::Waker,
};

use super::sync::Mutex;

/// The waiters of every key.
#[derive(Debug)]
pub(super) struct Wakers<K> {
    state: Mutex<State<K>>,
}

#[derive(Debug)]
struct State<K> {
    /// The wakers of each key that has some, by the number of their waiter. A tree, because a hash table would be
    /// rebuilt again and again while it grows.
    waiting: HashMap<K, BTreeMap<u64, Waker>>,
    /// The number of the last [`Waiter`] that has registered.
    last: u64,
    /// [`Waiter`]s that have registered and are not dropped.
    waiters: usize,
}

impl<K: Hash + Eq + Clone> Wakers<K> {
    pub(super) fn new() -> Self {
        let state = State {
            waiting: HashMap::new(),
            last: 0,
            waiters: 0,
        };
        Self {
            state: Mutex::new(state),
        }
    }

    /// A waiter for any of `keys`. It is not registered yet.
    pub(super) fn waiter<'a>(&'a self, keys: &'a [K]) -> Waiter<'a, K> {
        Waiter {
            wakers: self,
            keys,
            number: 0,
        }
    }

    /// Wakes the waiters of `key`, and no others.
    pub(super) fn wake(&self, key: &K) {
        let taken = self.state.lock().expect(UNPOISONED).waiting.remove(key);
        // Without the lock: a woken task may run at once and register again.
        taken.into_iter().for_each(wake);
    }

    /// Wakes all waiters.
    pub(super) fn wake_all(&self) {
        let taken = std::mem::take(&mut self.state.lock().expect(UNPOISONED).waiting);
        taken.into_values().for_each(wake);
    }

    /// Whether something has panicked under the lock.
    pub(super) fn is_poisoned(&self) -> bool {
        self.state.lock().is_err()
    }

    /// How many wait.
    pub(super) fn waiters(&self) -> usize {
        self.state.lock().expect(UNPOISONED).waiters
    }
}

fn wake(wakers: BTreeMap<u64, Waker>) {
    wakers.into_values().for_each(Waker::wake);
}

/// A waiter. Dropping it removes its wakers.
pub(super) struct Waiter<'a, K: Hash + Eq + Clone> {
    wakers: &'a Wakers<K>,
    keys: &'a [K],
    /// Counts from 1, and is 0 until the first registration. Not an `Option`, which would be twice as large.
    number: u64,
}

impl<K: Hash + Eq + Clone> Waiter<'_, K> {
    /// Registers `waker` for all keys. Call it at every poll, because a wake-up removes the waker and a
    /// task may bring another one. Read the log once more after it.
    pub(super) fn register(&mut self, waker: &Waker) {
        let mut state = self.wakers.state.lock().expect(UNPOISONED);
        if self.number == 0 {
            state.waiters += 1;
            state.last += 1;
            self.number = state.last;
        }
        for key in self.keys {
            state.register(key, self.number, waker);
        }
    }
}

impl<K: Hash + Eq + Clone> State<K> {
    fn register(&mut self, key: &K, number: u64, waker: &Waker) {
        // Not by `entry`, which would clone the key each time.
        let Some(wakers) = self.waiting.get_mut(key) else {
            let wakers = BTreeMap::from([(number, waker.clone())]);
            self.waiting.insert(key.clone(), wakers);
            return;
        };
        let registered = wakers.entry(number).or_insert_with(|| waker.clone());
        registered.clone_from(waker); // Does nothing if both wake the same task.
    }

    /// Removes the waker, and with the last waker the key, or keys without waiters would pile up.
    fn leave(&mut self, key: &K, number: u64) -> Option<Waker> {
        let wakers = self.waiting.get_mut(key)?;
        let waker = wakers.remove(&number);
        if wakers.is_empty() {
            self.waiting.remove(key);
        }
        waker
    }
}

impl<K: Hash + Eq + Clone> Drop for Waiter<'_, K> {
    fn drop(&mut self) {
        if self.number == 0 {
            return;
        }
        let mut state = self.wakers.state.lock().expect(UNPOISONED);
        state.waiters -= 1;
        let keys = self.keys.iter();
        let left: Vec<Waker> = keys
            .filter_map(|key| state.leave(key, self.number))
            .collect();
        // Dropping a waker may drop its task, and with it another waiter that takes this lock.
        drop(state);
        drop(left);
    }
}

const UNPOISONED: &str = "nothing panics under this lock";
