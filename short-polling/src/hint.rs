//! `X-Poll-Interval`, GitHub's name: the number of seconds after which the client should poll again.
//!
//! The hint is a quarter of the *silence*, the time since the topics' last message. So a client polls
//! often while a topic is busy, and rarely while it is quiet. A message is late by at most a quarter of
//! the silence before it. The hint has a lower and an upper bound.
//!
//! ```
//! use std::time::Duration;
//! use short_polling::hint::Hint;
//!
//! let hint = Hint { interval: Duration::from_secs(5), idle: Duration::from_secs(75) };
//! let seconds = |silence| hint.seconds(Duration::from_secs(silence), 0.5);
//! assert_eq!([0, 20, 3_600].map(seconds), [2, 5, 20]);
//! ```

use std::time::Duration;

use hyper::header::HeaderName;

/// The field's name.
pub const POLL_INTERVAL: HeaderName = HeaderName::from_static("x-poll-interval");

/// The hint is the silence divided by this. So after a silence of four intervals it is the interval.
const DIVISOR: u32 = 4;
/// A busy topic is polled at most this many times as often.
const FASTER: u32 = 5;
/// The pause for a quiet topic is at most this many times longer.
const SLOWER: u32 = 4;
/// Each hint varies by up to this share, so that clients that came together spread out.
const JITTER: f64 = 0.2;

/// Computes the hints of one server.
#[derive(Debug, Clone, Copy)]
pub struct Hint {
    /// The hint after a silence of four intervals.
    pub interval: Duration,
    /// How long an idle connection is kept. A hint is at most half of it, so a client that obeys finds
    /// its connection open.
    pub idle: Duration,
}

impl Hint {
    /// The hint after this silence, in whole seconds, at least one. `random` is from 0 to below 1.
    pub fn seconds(&self, silence: Duration, random: f64) -> u64 {
        let wanted = (silence / DIVISOR).clamp(self.interval / FASTER, self.interval * SLOWER);
        let longest = self.longest();
        // The middle is low enough that the jitter cannot exceed the longest hint.
        let middle = wanted.as_secs_f64().min(longest as f64 / (1.0 + JITTER));
        let from = (middle * (1.0 - JITTER)).round().max(1.0);
        // At least two values, even if a fifth is less than a second: otherwise clients would not spread.
        let to = (middle * (1.0 + JITTER)).round().max(from + 1.0);
        let picked = from + (random * (to - from + 1.0)).floor();
        (picked as u64).min(longest)
    }

    /// The silence after which the hint is the interval itself. Used when the silence is unknown.
    pub fn ordinary_silence(&self) -> Duration {
        self.interval * DIVISOR
    }

    /// The longest hint in seconds.
    pub fn longest(&self) -> u64 {
        (self.idle.as_secs() / 2).max(1)
    }

    /// The shortest `idle` for this interval: twice the interval, and twice the shortest hint.
    pub fn least_idle(&self) -> Duration {
        (2 * self.interval).max(Duration::from_secs(2))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HINT: Hint = Hint {
        interval: Duration::from_secs(5),
        idle: Duration::from_secs(75),
    };
    const MINUTE: u64 = 60;

    /// The shortest and the longest hint after this silence, in seconds.
    fn hints(silence: u64) -> (u64, u64) {
        let silence = Duration::from_secs(silence);
        let hint = |random| HINT.seconds(silence, random);
        (hint(0.0), hint(0.999))
    }

    #[test]
    fn a_busy_topic_is_polled_oftener_and_a_quiet_one_seldom() {
        for (silence, least, most) in [
            (0, 1, 2),
            (4, 1, 2),
            (8, 2, 3),
            (20, 4, 6),
            (40, 8, 12),
            (80, 16, 24),
            (60 * MINUTE, 16, 24),
        ] {
            assert_eq!(hints(silence), (least, most), "after {silence} s");
        }
    }

    #[test]
    fn each_second_of_the_range_is_as_likely_as_the_others() {
        let silence = HINT.ordinary_silence();
        let hint = |n| HINT.seconds(silence, f64::from(n) / 9.0);
        let picked: Vec<u64> = (0..9).map(hint).collect();
        assert_eq!(picked, [4, 4, 4, 5, 5, 5, 6, 6, 6]);
    }

    proptest! {
        #[test]
        fn a_hint_is_at_least_a_second_and_at_most_half_of_the_idle_timer(
            interval in 0u64..100_000, idle in 2_000u64..1_000_000, silence in 0u64..100_000,
            random in 0.0..1.0,
        ) {
            let [interval, silence] = [interval, silence].map(Duration::from_secs);
            let idle = Duration::from_millis(idle);
            let hint = Hint { interval, idle }.seconds(silence, random);
            prop_assert!(hint >= 1 && 2 * hint <= idle.as_secs());
        }

        #[test]
        fn more_silence_never_shortens_a_hint(
            interval in 1u64..100, silence in 0u64..1_000, random in 0.0..1.0,
            longer in 0u64..1_000,
        ) {
            let hint = |silence| {
                let interval = Duration::from_secs(interval);
                Hint { interval, ..HINT }.seconds(Duration::from_secs(silence), random)
            };
            prop_assert!(hint(silence + longer) >= hint(silence));
        }
    }
}
