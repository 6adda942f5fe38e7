//! When to try again. Pure: the randomness comes in as a parameter.
//!
//! ```
//! use std::time::Duration;
//! use webhooks::schedule::Schedule;
//!
//! let twice = Schedule::new([5, 300].map(Duration::from_secs));
//! assert_eq!(twice.delay(1, 0.0), Some(Duration::from_secs(5)));
//! assert_eq!(twice.delay(3, 0.0), None); // the third failure is the last
//! ```

use std::time::Duration;

/// The delays that the Standard Webhooks specification gives, in seconds. With the first attempt that makes
/// ten attempts in 75 hours.
const STANDARD: [u64; 9] = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];
/// The largest random addition to a delay, as a part of it. It spreads deliveries that failed together. Never
/// a subtraction, because a receiver may rely on the delay.
const JITTER: f64 = 0.2;

/// The delays between the attempts of one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule(Vec<Duration>);

impl Schedule {
    /// One retry after each of these delays. Without delays every delivery has a single attempt.
    pub fn new(delays: impl Into<Vec<Duration>>) -> Self {
        Self(delays.into())
    }

    /// How long to wait after `failed` failed attempts (1 or more). `None` when no attempt is left. `random` is
    /// between 0 and 1.
    pub fn delay(&self, failed: usize, random: f64) -> Option<Duration> {
        let delay = self.0.get(failed.checked_sub(1)?)?;
        Some(delay.mul_f64(1.0 + JITTER * random))
    }

    /// The longest delay that it can give.
    pub fn longest(&self) -> Duration {
        self.0
            .iter()
            .max()
            .copied()
            .unwrap_or_default()
            .mul_f64(1.0 + JITTER)
    }
}

impl Default for Schedule {
    fn default() -> Self {
        Self(STANDARD.map(Duration::from_secs).into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_default_is_the_standard_webhooks_text() {
        let schedule = Schedule::default();
        let delays: Vec<_> = (1..)
            .map_while(|failed| schedule.delay(failed, 0.0))
            .collect();
        assert_eq!(delays.len() + 1, 10, "attempts");
        let span: Duration = delays.iter().sum();
        assert_eq!(span.as_secs(), 75 * 3_600 + 35 * 60 + 5);
        assert_eq!(delays[0].as_secs(), 5);
    }

    #[test]
    fn after_the_last_delay_there_is_none() {
        let schedule = Schedule::new([Duration::from_secs(1)]);
        assert!(schedule.delay(1, 0.5).is_some());
        assert_eq!(schedule.delay(2, 0.5), None);
        assert_eq!(Schedule::new([]).delay(1, 0.5), None);
        assert_eq!(schedule.delay(0, 0.5), None, "nothing has failed");
    }

    proptest! {
        #[test]
        fn an_attempt_is_never_early_and_at_most_a_fifth_late(failed in 1usize..10, random in 0.0..=1.0) {
            let schedule = Schedule::default();
            let (base, delay) = (schedule.delay(failed, 0.0).unwrap(), schedule.delay(failed, random).unwrap());
            prop_assert!(delay >= base && delay <= base.mul_f64(1.2));
        }
    }
}
