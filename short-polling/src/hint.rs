//! `X-Poll-Interval`, GitHub's name: after how many whole seconds to ask again.

use std::time::Duration;

use hyper::header::HeaderName;

/// The field's name.
pub const POLL_INTERVAL: HeaderName = HeaderName::from_static("x-poll-interval");

/// Up to a fifth more or less than `base`, by `random` from 0 to 1, so that clients that came
/// together do not stay together. At most half of `idle`, the time for which an idle connection is
/// kept: whoever obeys finds its connection open. At least a second, which is too long only for an
/// `idle` of a second or less.
pub fn poll_interval(base: Duration, idle: Duration, random: f64) -> u64 {
    let jittered = base.mul_f64(0.8 + 0.4 * random);
    let seconds = jittered.as_secs_f64().round() as u64;
    seconds.min(idle.as_secs() / 2).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIVE: Duration = Duration::from_secs(5);
    const IDLE: Duration = Duration::from_secs(75);

    #[test]
    fn five_seconds_are_four_to_six() {
        let hints = [0.0, 0.2, 0.3, 0.5, 0.7, 0.8, 1.0].map(|r| poll_interval(FIVE, IDLE, r));
        assert_eq!(hints, [4, 4, 5, 5, 5, 6, 6]);
    }

    #[test]
    fn no_hint_is_zero() {
        assert_eq!(poll_interval(Duration::ZERO, IDLE, 0.0), 1);
        assert_eq!(poll_interval(FIVE, Duration::ZERO, 0.0), 1);
    }

    proptest! {
        #[test]
        fn a_hint_is_below_any_idle_timer_of_more_than_a_second(base in 0u64..1_000, idle in 1_001u64..1_000_000, random in 0.0..=1.0) {
            let (base, idle) = (Duration::from_secs(base), Duration::from_millis(idle));
            prop_assert!(Duration::from_secs(poll_interval(base, idle, random)) < idle);
        }
    }
}
