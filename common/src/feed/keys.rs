//! `Idempotency-Key`: a publisher that did not hear the answer asks again, and nothing is appended
//! twice.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{Cursor, Draft, FeedError, Topic};

/// How long a key is remembered.
pub(crate) const KEY_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// How many keys are remembered; one more forgets the oldest.
pub(crate) const MAX_KEYS: usize = 100_000;
/// The longest key in bytes.
const MAX_KEY: usize = 255;

/// The value of `Idempotency-Key`: 1 to 255 visible ASCII bytes. Its scope is the topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Arc<str>);

#[cfg(any(feature = "file", feature = "nats"))]
impl IdempotencyKey {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IdempotencyKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        if visible && (1..=MAX_KEY).contains(&text.len()) {
            Ok(Self(text.into()))
        } else {
            Err(BadKey)
        }
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text cannot be an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an Idempotency-Key is 1 to {MAX_KEY} visible ASCII bytes")]
pub struct BadKey;

/// The keys that were used lately. All of one life, so the order of use is the order of expiry.
#[derive(Default)]
pub(crate) struct Keys {
    used: HashMap<(Topic, IdempotencyKey), Used>,
    by_age: VecDeque<(Instant, (Topic, IdempotencyKey))>,
}

struct Used {
    fingerprint: Fingerprint,
    id: Cursor,
}

impl Keys {
    /// The message that this key was used for, if it was this same message.
    pub(crate) fn find(
        &mut self,
        topic: &Topic,
        key: &IdempotencyKey,
        fingerprint: &Fingerprint,
        now: Instant,
    ) -> Result<Option<Cursor>, FeedError> {
        self.forget(now, MAX_KEYS);
        match self.used.get(&(topic.clone(), key.clone())) {
            None => Ok(None),
            Some(used) if used.fingerprint == *fingerprint => Ok(Some(used.id)),
            Some(_) => Err(FeedError::KeyReused(key.clone())),
        }
    }

    pub(crate) fn insert(
        &mut self,
        topic: Topic,
        key: IdempotencyKey,
        fingerprint: Fingerprint,
        id: Cursor,
        now: Instant,
    ) {
        self.forget(now, MAX_KEYS - 1);
        self.by_age.push_back((now, (topic.clone(), key.clone())));
        self.used.insert((topic, key), Used { fingerprint, id });
    }

    fn forget(&mut self, now: Instant, keep: usize) {
        while self
            .by_age
            .front()
            .is_some_and(|(used, _)| self.by_age.len() > keep || now - *used >= KEY_LIFE)
        {
            let oldest = self.by_age.pop_front().map(|(_, key)| key);
            oldest.and_then(|key| self.used.remove(&key));
        }
    }
}

/// Tells one message from another without keeping it.
pub(crate) type Fingerprint = [u8; 32];

/// SHA-256 over type and data; a type holds no NUL.
pub(crate) fn fingerprint(draft: &Draft) -> Fingerprint {
    let hash = Sha256::new()
        .chain_update(draft.kind.as_str())
        .chain_update([0])
        .chain_update(draft.data.as_str());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::Data;

    fn cursor(seq: u64) -> Cursor {
        Cursor {
            epoch: "e".parse().unwrap(),
            seq,
        }
    }

    fn used(keys: &mut Keys, key: &str, now: Instant) -> Option<Cursor> {
        keys.find(
            &"t".parse().unwrap(),
            &key.parse().unwrap(),
            &fingerprint(&Draft::new(Data::text("a"))),
            now,
        )
        .unwrap()
    }

    fn insert(keys: &mut Keys, key: &str, seq: u64, now: Instant) {
        let draft = Draft::new(Data::text("a"));
        keys.insert(
            "t".parse().unwrap(),
            key.parse().unwrap(),
            fingerprint(&draft),
            cursor(seq),
            now,
        );
    }

    #[test]
    fn keys_are_visible_and_short() {
        assert!("!~".parse::<IdempotencyKey>().is_ok());
        assert!("k".repeat(255).parse::<IdempotencyKey>().is_ok());
        for bad in ["", "a b", "a\u{7f}", "é", &"k".repeat(256)] {
            assert_eq!(bad.parse::<IdempotencyKey>(), Err(BadKey));
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
