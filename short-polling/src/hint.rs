//! `X-Poll-Interval`, GitHub's name: after how many whole seconds to ask again.
//!
//! Nobody knows when the next message comes, but whoever asks again after a quarter of the
//! *silence* so far, the time since the last message, hears of it late by no more than that: often
//! while a topic is busy, seldom while it sleeps. Both ends are bounded, and a server that is busy
//! itself asks for more time than that.

use std::time::Duration;

use hyper::header::HeaderName;

/// The field's name.
pub const POLL_INTERVAL: HeaderName = HeaderName::from_static("x-poll-interval");

/// A silence of so many intervals is an ordinary one, after which the interval stands as it is.
pub const ORDINARY: u32 = 4;
/// A busy topic is polled at most so many times as often.
pub const OFTENER: u32 = 5;
/// A quiet one is polled at least one time in so many, and so by a server that is all busy.
pub const SELDOMER: u32 = 4;
/// The share by which the answers differ, so that clients that came together do not stay together.
const JITTER: f64 = 0.2;

/// Whole seconds, at least one, picked by `random` (from 0 to below 1) around what `base` becomes
/// after a `silence`, at a server that is busy for the share `load` of its time. Never more than
/// half of `idle`, the time for which an idle connection is kept: whoever obeys finds its
/// connection open. `Config::check` sees to it that a second is no more than that.
pub fn poll_interval(
    base: Duration,
    idle: Duration,
    silence: Duration,
    load: f64,
    random: f64,
) -> u64 {
    let by_silence = (silence / ORDINARY).clamp(base / OFTENER, base * SELDOMER);
    let by_load = (load * f64::from(SELDOMER)).max(1.0);
    let longest = longest(idle);
    let middle = (by_silence.as_secs_f64() * by_load).min(longest as f64 / (1.0 + JITTER));
    let from = (middle * (1.0 - JITTER)).round().max(1.0);
    // There are two to pick from even where a fifth is less than a second.
    let to = (middle * (1.0 + JITTER)).round().max(from + 1.0);
    let picked = from + (random * (to - from + 1.0)).floor();
    (picked as u64).min(longest)
}

/// The longest hint, for connections that are kept for `idle`.
pub fn longest(idle: Duration) -> u64 {
    (idle.as_secs() / 2).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BASE: Duration = Duration::from_secs(5);
    const IDLE: Duration = Duration::from_secs(75);
    const MINUTE: u64 = 60;

    /// The least and the most that is picked.
    fn hints(silence: u64, load: f64) -> (u64, u64) {
        let silence = Duration::from_secs(silence);
        let hint = |random| poll_interval(BASE, IDLE, silence, load, random);
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
            assert_eq!(hints(silence, 0.0), (least, most), "after {silence} s");
        }
    }

    #[test]
    fn a_busy_server_is_polled_seldom() {
        for (load, least, most) in [
            (0.0, 4, 6),
            (0.25, 4, 6),
            (0.5, 8, 12),
            (0.75, 12, 18),
            (1.0, 16, 24),
        ] {
            assert_eq!(hints(20, load), (least, most), "at {load}");
        }
        assert_eq!(hints(0, 1.0), (3, 5), "a busy topic");
        assert_eq!(
            hints(80, 1.0),
            (25, 37),
            "a quiet one, up to half of the idle timer"
        );
    }

    #[test]
    fn each_second_of_the_range_is_as_likely_as_the_others() {
        let silence = BASE * ORDINARY;
        let hint = |n| poll_interval(BASE, IDLE, silence, 0.0, f64::from(n) / 9.0);
        let picked: Vec<u64> = (0..9).map(hint).collect();
        assert_eq!(picked, [4, 4, 4, 5, 5, 5, 6, 6, 6]);
    }

    proptest! {
        #[test]
        fn a_hint_is_at_least_a_second_and_at_most_half_of_the_idle_timer(
            base in 0u64..100_000, idle in 2_000u64..1_000_000, silence in 0u64..100_000,
            load in 0.0..=1.0, random in 0.0..1.0,
        ) {
            let [base, silence] = [base, silence].map(Duration::from_secs);
            let idle = Duration::from_millis(idle);
            let hint = poll_interval(base, idle, silence, load, random);
            prop_assert!(hint >= 1 && 2 * hint <= idle.as_secs());
        }

        #[test]
        fn more_silence_or_more_load_never_shortens_a_hint(
            base in 1u64..100, silence in 0u64..1_000, load in 0.0..=1.0, random in 0.0..1.0,
            longer in 0u64..1_000, heavier in 0.0..=1.0,
        ) {
            let hint = |silence, load| {
                let [base, silence] = [base, silence].map(Duration::from_secs);
                poll_interval(base, IDLE, silence, load, random)
            };
            let before = hint(silence, load);
            prop_assert!(hint(silence + longer, load) >= before);
            prop_assert!(hint(silence, f64::max(load, heavier)) >= before);
        }
    }
}
