//! How a waiter is woken. No wake-up is lost.
//!
//! A waiter reads, finds nothing, registers, and *reads again* before it parks. A publisher appends
//! first and wakes afterwards. Whichever way the two interleave, either the second read sees the
//! message, or the publisher finds the waker. `tests/wake_model.rs` checks every interleaving.
//!
//! Each key (a topic) has a slab of wakers. To wake, the whole slab is removed under the lock, and the
//! wakers are called after it is released, so ten thousand waiters block no publisher. Each slab has a
//! generation number, which tells a waiter whether its waker is still in the slab.

use std::{collections::HashMap, hash::Hash, task::Waker};

use slab::Slab;
use smallvec::SmallVec;

use super::sync::Mutex;

/// The waiters of every key.
#[derive(Debug)]
pub(super) struct Wakers<K> {
    state: Mutex<State<K>>,
}

#[derive(Debug)]
struct State<K> {
    /// The keys with waiters.
    waiting: HashMap<K, Waiting>,
    /// Counts the slabs, so that a [`Slot`] of a removed slab is recognized.
    generation: u64,
    /// [`Waiter`]s that have registered and are not dropped.
    waiters: usize,
}

#[derive(Debug)]
struct Waiting {
    generation: u64,
    wakers: Slab<Waker>,
}

impl<K: Hash + Eq + Clone> Wakers<K> {
    pub(super) fn new() -> Self {
        let state = State {
            waiting: HashMap::new(),
            generation: 0,
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
            slots: SmallVec::new(),
        }
    }

    /// Wakes the waiters of `key`, and no others.
    pub(super) fn wake(&self, key: &K) {
        let taken = self.state.lock().expect(UNPOISONED).waiting.remove(key);
        taken.into_iter().for_each(Waiting::wake);
    }

    /// Wakes all waiters.
    pub(super) fn wake_all(&self) {
        let taken = std::mem::take(&mut self.state.lock().expect(UNPOISONED).waiting);
        taken.into_values().for_each(Waiting::wake);
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

impl Waiting {
    fn enter(&mut self, waker: &Waker) -> Slot {
        Slot {
            generation: self.generation,
            index: self.wakers.insert(waker.clone()),
        }
    }

    /// Call it without the lock: a woken task may run at once and register again.
    fn wake(self) {
        self.wakers.into_iter().for_each(|(_, waker)| waker.wake());
    }
}

/// A waiter. Dropping it frees its slots.
pub(super) struct Waiter<'a, K: Hash + Eq + Clone> {
    wakers: &'a Wakers<K>,
    keys: &'a [K],
    /// Empty until registered, then one for each key. One fits inline, since most wait for one key.
    slots: SmallVec<[Slot; 1]>,
}

/// Where a waiter's waker is. Valid while the key's slab has the same generation.
#[derive(Clone, Copy)]
struct Slot {
    generation: u64,
    index: usize,
}

impl<K: Hash + Eq + Clone> Waiter<'_, K> {
    /// Registers `waker` for all keys. Call it at every poll, because a wake-up removes the slots and a
    /// task may bring another waker. Read the log once more after it.
    pub(super) fn register(&mut self, waker: &Waker) {
        let mut state = self.wakers.state.lock().expect(UNPOISONED);
        if self.slots.is_empty() {
            state.waiters += 1;
            self.slots = self
                .keys
                .iter()
                .map(|key| state.enter(key, waker))
                .collect();
            return;
        }
        for (key, slot) in self.keys.iter().zip(&mut self.slots) {
            match state.waker_at(key, *slot) {
                Some(registered) => registered.clone_from(waker),
                None => *slot = state.enter(key, waker),
            }
        }
    }
}

impl<K: Hash + Eq + Clone> State<K> {
    fn enter(&mut self, key: &K, waker: &Waker) -> Slot {
        if let Some(waiting) = self.waiting.get_mut(key) {
            return waiting.enter(waker);
        }
        self.generation += 1;
        let mut waiting = Waiting {
            generation: self.generation,
            wakers: Slab::with_capacity(1),
        };
        let slot = waiting.enter(waker);
        self.waiting.insert(key.clone(), waiting);
        slot
    }

    fn waker_at(&mut self, key: &K, slot: Slot) -> Option<&mut Waker> {
        let waiting = self.waiting.get_mut(key)?;
        (waiting.generation == slot.generation).then(|| &mut waiting.wakers[slot.index])
    }

    /// Removes an empty slab with its key, or keys without waiters would pile up.
    fn leave(&mut self, key: &K, slot: Slot) -> Option<Waker> {
        let waiting = self.waiting.get_mut(key)?;
        if waiting.generation != slot.generation {
            return None;
        }
        let waker = waiting.wakers.remove(slot.index);
        if waiting.wakers.is_empty() {
            self.waiting.remove(key);
        }
        Some(waker)
    }
}

impl<K: Hash + Eq + Clone> Drop for Waiter<'_, K> {
    fn drop(&mut self) {
        if self.slots.is_empty() {
            return;
        }
        let mut state = self.wakers.state.lock().expect(UNPOISONED);
        state.waiters -= 1;
        let slots = self.keys.iter().zip(&self.slots);
        let left: Vec<Waker> = slots
            .filter_map(|(key, slot)| state.leave(key, *slot))
            .collect();
        // Dropping a waker may drop its task, and with it another waiter that takes this lock.
        drop(state);
        drop(left);
    }
}

const UNPOISONED: &str = "nothing panics under this lock";
