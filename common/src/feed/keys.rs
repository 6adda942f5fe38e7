//! `Idempotency-Key`: a publisher that lost the answer publishes again, and nothing is appended twice.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{
    cursor::Cursor,
    error::FeedError,
    message::{Draft, IdempotencyKey, Published, Topic},
};

/// How long a key is remembered.
pub const KEY_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// How many keys are remembered. Beyond that the feed forgets the oldest key.
pub const MAX_KEYS: usize = 100_000;

/// What a publisher asks for.
#[derive(Debug, Clone)]
pub struct Publish {
    /// Where to.
    pub topic: Topic,
    /// The message.
    pub draft: Draft,
    /// `None` without a key.
    pub once: Option<Once>,
}

/// What makes a publish happen at most once.
#[derive(Debug, Clone)]
pub struct Once {
    /// The publisher's name for this publish.
    pub key: IdempotencyKey,
    /// Tells whether the same key came with the same message.
    pub fingerprint: Fingerprint,
}

impl Once {
    /// The answer to a key that was used before, for message `id` with this fingerprint.
    pub fn answer_repeat(&self, used: &Fingerprint, id: Cursor) -> Result<Published, FeedError> {
        if *used == self.fingerprint {
            Ok(Published::duplicate(id))
        } else {
            Err(FeedError::KeyReused(self.key.clone()))
        }
    }
}

/// Identifies a message after it was dropped, because a key is kept longer than its message.
pub type Fingerprint = [u8; 32];

/// SHA-256 over type, NUL and data. A type contains no NUL, so two messages never hash the same bytes.
pub fn fingerprint(draft: &Draft) -> Fingerprint {
    let hash = Sha256::new()
        .chain_update(draft.kind.as_str())
        .chain_update([0])
        .chain_update(draft.data.as_str());
    hash.finalize().into()
}

/// The keys of the last 24 hours. All live equally long, so they expire in the order of their use.
#[derive(Debug, Default)]
pub(super) struct Keys {
    used: HashMap<(Topic, IdempotencyKey), (Fingerprint, Cursor)>,
    by_age: VecDeque<(Instant, (Topic, IdempotencyKey))>,
}

impl Keys {
    /// The answer for a key that was used before.
    pub(super) fn find(
        &mut self,
        topic: &Topic,
        once: &Once,
        now: Instant,
    ) -> Result<Option<Published>, FeedError> {
        self.forget(now, MAX_KEYS);
        match self.used.get(&(topic.clone(), once.key.clone())) {
            None => Ok(None),
            Some((used, id)) => once.answer_repeat(used, *id).map(Some),
        }
    }

    pub(super) fn insert(&mut self, topic: Topic, once: Once, id: Cursor, now: Instant) {
        self.forget(now, MAX_KEYS - 1);
        let scoped = (topic, once.key);
        self.by_age.push_back((now, scoped.clone()));
        self.used.insert(scoped, (once.fingerprint, id));
    }

    /// Forgets expired keys, and the oldest ones beyond `keep`.
    fn forget(&mut self, now: Instant, keep: usize) {
        while let Some((used, _)) = self.by_age.front()
            && (self.by_age.len() > keep || now - *used >= KEY_LIFE)
        {
            let oldest = self.by_age.pop_front();
            oldest.and_then(|(_, scoped)| self.used.remove(&scoped));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Data;
    use super::*;

    fn cursor(seq: u64) -> Cursor {
        Cursor {
            epoch: "e".parse().unwrap(),
            seq,
        }
    }

    fn used(keys: &mut Keys, key: &str, now: Instant) -> Option<Cursor> {
        keys.find(&"t".parse().unwrap(), &once(key), now)
            .unwrap()
            .map(|published| published.id)
    }

    fn insert(keys: &mut Keys, key: &str, seq: u64, now: Instant) {
        keys.insert("t".parse().unwrap(), once(key), cursor(seq), now);
    }

    fn once(key: &str) -> Once {
        Once {
            key: key.parse().unwrap(),
            fingerprint: fingerprint(&Draft::new(Data::text("a"))),
        }
    }

    #[test]
    fn a_key_is_forgotten_after_its_life_and_not_before() {
        let (mut keys, start) = (Keys::default(), Instant::now());
        insert(&mut keys, "k", 1, start);
        assert_eq!(
            used(&mut keys, "k", start + KEY_LIFE - Duration::from_nanos(1)),
            Some(cursor(1))
        );
        assert_eq!(used(&mut keys, "k", start + KEY_LIFE), None);
        assert!(keys.used.is_empty());
    }

    #[test]
    fn one_key_too_many_forgets_the_oldest() {
        let (mut keys, now) = (Keys::default(), Instant::now());
        for seq in 0..=MAX_KEYS as u64 {
            insert(&mut keys, &seq.to_string(), seq, now);
        }
        assert_eq!(used(&mut keys, "0", now), None);
        assert_eq!(used(&mut keys, "1", now), Some(cursor(1)));
        assert_eq!(keys.used.len(), MAX_KEYS);
    }

    #[test]
    fn another_type_is_another_message() {
        let draft = Draft::new(Data::text("a"));
        let other = Draft {
            kind: "other".parse().unwrap(),
            ..draft.clone()
        };
        assert_ne!(fingerprint(&draft), fingerprint(&other));
    }
}
