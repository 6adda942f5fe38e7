//! When to try again. Pure: the time and the randomness come in.

use std::time::{Duration, SystemTime};

/// The delays of the Standard Webhooks text: with the first attempt ten in all, over 75 hours.
const STANDARD: [u64; 9] = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];
/// How much later than the delay an attempt may be, so that what failed together does not come
/// back together. Never earlier: a receiver may rely on the delay.
const JITTER: f64 = 0.2;
/// The longest that a receiver may put us off.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3_600);

/// The delays between the attempts of one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule(Vec<Duration>);

impl Schedule {
    /// One retry after each of these delays; none at all gives every delivery a single attempt.
    pub fn new(delays: impl Into<Vec<Duration>>) -> Self {
        Self(delays.into())
    }

    /// How long to wait after `failed` failed attempts, at least 1; `None` at the schedule's end.
    /// `random` is from 0 to 1.
    pub fn delay(&self, failed: usize, random: f64) -> Option<Duration> {
        let delay = self.0.get(failed.checked_sub(1)?)?;
        Some(delay.mul_f64(1.0 + JITTER * random))
    }
}

impl Default for Schedule {
    fn default() -> Self {
        Self(STANDARD.map(Duration::from_secs).into())
    }
}

/// How long a receiver asks to be left alone by `Retry-After` (RFC 9110 §10.2.3): seconds, or a
/// date. At most 24 hours. What is neither is as good as absent: it must not cost a delivery.
pub fn retry_after(value: &[u8], now: SystemTime) -> Option<Duration> {
    let text = str::from_utf8(value).ok()?.trim_ascii();
    let asked = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a u64 has is a number all the same, and over the cap.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let date = httpdate::parse_http_date(text).ok()?;
        date.duration_since(now).unwrap_or_default()
    };
    Some(asked.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_default_is_the_standard_webhooks_text() {
        let hours = |schedule: &Schedule| {
            let delays = (1..).map_while(|failed| schedule.delay(failed, 0.0));
            delays.collect::<Vec<_>>()
        };
        let delays = hours(&Schedule::default());
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

    #[test]
    fn retry_after_has_two_forms_and_anything_else_is_ignored() {
        // 1994-11-06 08:49:37 UTC, the example of RFC 9110 §5.6.7.
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let before = then - Duration::from_secs(90);
        for (value, asked) in [
            ("120", Some(120)),
            (" 120 ", Some(120)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(90)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(90)),
            ("Sun Nov  6 08:49:37 1994", Some(90)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Fri, 06 Nov 2099 08:49:37 GMT", Some(86_400)),
            ("86401", Some(86_400)),
            ("99999999999999999999999", Some(86_400)),
            ("1e99", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("", None),
            ("soon", None),
        ] {
            let got = retry_after(value.as_bytes(), before).map(|delay| delay.as_secs());
            assert_eq!(got, asked, "{value:?}");
        }
        assert_eq!(retry_after(b"\xff", before), None);
    }

    proptest! {
        #[test]
        fn an_attempt_is_never_early_and_at_most_a_fifth_late(failed in 1usize..10, random in 0.0..=1.0) {
            let schedule = Schedule::default();
            let (base, delay) = (schedule.delay(failed, 0.0).unwrap(), schedule.delay(failed, random).unwrap());
            prop_assert!(delay >= base && delay <= base.mul_f64(1.2));
        }

        #[test]
        fn any_retry_after_is_capped(value: Vec<u8>) {
            prop_assert!(retry_after(&value, SystemTime::UNIX_EPOCH).is_none_or(|delay| delay <= MAX_RETRY_AFTER));
        }
    }
}
