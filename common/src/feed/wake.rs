//! Registration and wake-up, apart from everything else.
//!
//! A waiter reads, finds nothing, registers, and *reads again* before it parks. Whoever publishes
//! appends first and wakes afterwards. Whichever way the two interleave, either the second read
//! sees the message or the waker is found: `tests/wake_model.rs` checks every interleaving.
//!
//! A key's waiters are a slab of wakers. Waking takes the whole slab out under the lock and wakes
//! after the lock is released, so ten thousand waiters hold up nobody else. A waiter knows that its
//! place was taken by the slab's generation.

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
    /// Keys that somebody waits for.
    waiting: HashMap<K, Waiting>,
    /// Counts up with every new [`Waiting`], so that a [`Place`] in a slab that was taken is known.
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

    /// One who will wait for any of `keys`. It is not registered yet.
    pub(super) fn waiter<'a>(&'a self, keys: &'a [K]) -> Waiter<'a, K> {
        Waiter {
            wakers: self,
            keys,
            places: SmallVec::new(),
        }
    }

    /// Wakes those who wait for `key`, and nobody else.
    pub(super) fn wake(&self, key: &K) {
        let taken = self.state.lock().expect(UNPOISONED).waiting.remove(key);
        taken.into_iter().for_each(Waiting::wake);
    }

    /// Wakes everybody.
    pub(super) fn wake_all(&self) {
        let taken = std::mem::take(&mut self.state.lock().expect(UNPOISONED).waiting);
        taken.into_values().for_each(Waiting::wake);
    }

    /// How many wait.
    pub(super) fn waiters(&self) -> usize {
        self.state.lock().expect(UNPOISONED).waiters
    }
}

impl Waiting {
    fn enter(&mut self, waker: &Waker) -> Place {
        Place {
            generation: self.generation,
            index: self.wakers.insert(waker.clone()),
        }
    }

    fn wake(self) {
        self.wakers.into_iter().for_each(|(_, waker)| waker.wake());
    }
}

/// One who waits. Dropping it frees its places.
pub(super) struct Waiter<'a, K: Hash + Eq + Clone> {
    wakers: &'a Wakers<K>,
    keys: &'a [K],
    /// Empty until registered, then one for each key. Most wait for one.
    places: SmallVec<[Place; 1]>,
}

/// Where a waiter's waker is in its key's slab, if the slab is still of that generation.
#[derive(Clone, Copy)]
struct Place {
    generation: u64,
    index: usize,
}

impl<K: Hash + Eq + Clone> Waiter<'_, K> {
    /// From here on a wake-up of any of the keys wakes `waker`. To be called at every poll, since
    /// wake-ups take the places and a task may come with another waker. Read once more after it.
    pub(super) fn register(&mut self, waker: &Waker) {
        let mut state = self.wakers.state.lock().expect(UNPOISONED);
        if self.places.is_empty() {
            state.waiters += 1;
            self.places = self
                .keys
                .iter()
                .map(|key| state.enter(key, waker))
                .collect();
            return;
        }
        for (key, place) in self.keys.iter().zip(&mut self.places) {
            match state.waker_at(key, *place) {
                Some(registered) => registered.clone_from(waker),
                None => *place = state.enter(key, waker),
            }
        }
    }
}

impl<K: Hash + Eq + Clone> State<K> {
    fn enter(&mut self, key: &K, waker: &Waker) -> Place {
        if let Some(waiting) = self.waiting.get_mut(key) {
            return waiting.enter(waker);
        }
        self.generation += 1;
        let mut waiting = Waiting {
            generation: self.generation,
            wakers: Slab::new(),
        };
        let place = waiting.enter(waker);
        self.waiting.insert(key.clone(), waiting);
        place
    }

    fn waker_at(&mut self, key: &K, place: Place) -> Option<&mut Waker> {
        let waiting = self.waiting.get_mut(key)?;
        (waiting.generation == place.generation).then(|| &mut waiting.wakers[place.index])
    }

    fn leave(&mut self, key: &K, place: Place) -> Option<Waker> {
        let waiting = self.waiting.get_mut(key)?;
        if waiting.generation != place.generation {
            return None;
        }
        let waker = waiting.wakers.remove(place.index);
        if waiting.wakers.is_empty() {
            self.waiting.remove(key);
        }
        Some(waker)
    }
}

impl<K: Hash + Eq + Clone> Drop for Waiter<'_, K> {
    fn drop(&mut self) {
        if self.places.is_empty() {
            return;
        }
        let mut state = self.wakers.state.lock().expect(UNPOISONED);
        state.waiters -= 1;
        let places = self.keys.iter().zip(&self.places);
        let left: Vec<Waker> = places
            .filter_map(|(key, place)| state.leave(key, *place))
            .collect();
        // Dropping a waker may run its task's code, which must find the lock free.
        drop(state);
        drop(left);
    }
}

const UNPOISONED: &str = "nothing panics under this lock";
