//! The grammars of the four header fields, each as a property test.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use proptest::prelude::*;
use sha2::Sha256;
use webhooks::verify::{
    Refusal, Tolerance, Unverified, github,
    standard::{self, sign},
    stripe, telegram,
};

const KEY: &str = "whsec_5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH";
const NOW: u64 = 1_700_000_000;
const EMPTY: &[u8] = b"{}";

fn hex(parts: &[&[u8]]) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).unwrap();
    let mac = parts.iter().fold(mac, |mac, part| mac.chain_update(part));
    hex::encode(mac.finalize().into_bytes())
}

fn stripe_at(field: &[u8], body: &[u8], now: u64, tolerance: Tolerance) -> Result<u64, Refusal> {
    let secrets = [KEY.parse().unwrap()];
    let fields = [(stripe::SIGNATURE, field)];
    let event = stripe::verify(Unverified::new(body), fields, &secrets, now, tolerance)?;
    Ok(event.timestamp)
}

fn stripe_judges(field: &str, body: &[u8]) -> Result<u64, Refusal> {
    stripe_at(field.as_bytes(), body, NOW, stripe::TOLERANCE)
}

fn github_judges(field: &[u8], body: &[u8]) -> Result<(), Refusal> {
    let secrets = [KEY.parse().unwrap()];
    github::verify(
        Unverified::new(body),
        [(github::SIGNATURE, field)],
        &secrets,
    )
    .map(drop)
}

fn telegram_judges(token: &str, field: &[u8]) -> Result<(), Refusal> {
    let secrets = [token.parse().unwrap()];
    telegram::verify(Unverified::new("{}"), [(telegram::TOKEN, field)], &secrets).map(drop)
}

#[test]
fn of_stripe_the_past_has_a_bound_and_the_future_none_unless_asked() {
    let at = |now: u64, tolerance| {
        let field = format!(
            "t={NOW},v1={}",
            hex(&[NOW.to_string().as_bytes(), b".", EMPTY])
        );
        stripe_at(field.as_bytes(), EMPTY, now, tolerance)
    };
    assert_eq!(at(NOW + 300, stripe::TOLERANCE), Ok(NOW));
    assert_eq!(at(NOW + 301, stripe::TOLERANCE), Err(Refusal::TooOld(301)));
    assert_eq!(at(0, stripe::TOLERANCE), Ok(NOW));
    let strict = Tolerance {
        future: Duration::from_secs(300),
        ..stripe::TOLERANCE
    };
    assert_eq!(at(NOW - 300, strict), Ok(NOW));
    assert_eq!(at(NOW - 301, strict), Err(Refusal::TooNew(301)));
}

proptest! {
    /// Other members of the field, except a second `t`.
    #[test]
    fn of_stripe_one_t_and_one_v1_that_fits_are_enough(
        body: Vec<u8>, before in prop::collection::vec("(v0|v1|v2|x)=[0-9a-f]{0,64}", 0..7),
        after in prop::collection::vec("(v0|v1|v2|x)=[0-9a-z]{0,70}", 0..7),
    ) {
        let good = [format!("t={NOW}"), format!("v1={}", hex(&[NOW.to_string().as_bytes(), b".", &body]))];
        let items: Vec<String> = before.into_iter().chain(good).chain(after).collect();
        prop_assert_eq!(stripe_judges(&items.join(","), &body), Ok(NOW));
        let twice = format!("{},t={NOW}", items.join(","));
        prop_assert_eq!(stripe_judges(&twice, &body), Err(Refusal::Repeated("t of Stripe-Signature")));
    }

    #[test]
    fn of_stripe_another_time_is_another_signature(time in 0u64..=999_999_999_999) {
        prop_assume!(time != NOW);
        let field = format!("t={time},v1={}", hex(&[NOW.to_string().as_bytes(), b".", EMPTY]));
        prop_assert!(stripe_judges(&field, EMPTY).is_err());
    }

    #[test]
    fn of_github_any_body_has_one_field(body: Vec<u8>, at in 0usize..71, byte: u8) {
        let good = format!("sha256={}", hex(&[&body])).into_bytes();
        prop_assert_eq!(github_judges(&good, &body), Ok(()));
        let mut other = good.clone();
        other[at] = byte;
        prop_assert_eq!(github_judges(&other, &body).is_ok(), other == good);
        prop_assert!(github_judges(&good[..at], &body).is_err());
    }

    #[test]
    fn of_telegram_a_token_is_that_token(token in "[A-Za-z0-9_-]{1,256}", other in "[A-Za-z0-9_-]{1,256}") {
        prop_assert_eq!(telegram_judges(&token, token.as_bytes()), Ok(()));
        prop_assert_eq!(telegram_judges(&token, other.as_bytes()).is_ok(), token == other);
    }

    #[test]
    fn of_standard_webhooks_any_signature_among_sixteen_may_fit(
        body: Vec<u8>, at in 0usize..16, others in prop::collection::vec("(v1,|v1a,|v2,|)[A-Za-z0-9+/]{1,50}", 15),
    ) {
        let secret = standard::Secret::from_key([7; 32]);
        let [_, (_, good), _] = sign(std::slice::from_ref(&secret), "m", NOW, &body);
        let mut tokens = others;
        tokens.insert(at, good);
        let (signature, time) = (tokens.join(" "), NOW.to_string());
        let fields = [
            (standard::ID, &b"m"[..]),
            (standard::TIMESTAMP, time.as_bytes()),
            (standard::SIGNATURE, signature.as_bytes()),
        ];
        let judged = standard::verify(Unverified::new(&body), fields, &[secret], NOW, Tolerance::default());
        prop_assert!(judged.is_ok());
    }

    #[test]
    fn no_field_makes_any_of_them_panic(field: Vec<u8>, now: u64) {
        prop_assert!(stripe_at(&field, EMPTY, now, stripe::TOLERANCE).is_err());
        prop_assert!(github_judges(&field, EMPTY).is_err());
        prop_assert!(telegram_judges("x".repeat(256).as_str(), &field).is_err());
    }
}
