//! What the verification of Standard Webhooks decides where the specification leaves a choice.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use proptest::prelude::*;
use webhooks::verify::{
    Refusal, Tolerance, Unverified,
    standard::{ID, SIGNATURE, Secret, TIMESTAMP, sign, verify},
};

const NOW: u64 = 1_700_000_000;
const BODY: &[u8] = b"{}";

fn secret() -> Secret {
    Secret::from_key([7; 32])
}

/// The fields of a genuine request.
fn genuine() -> Vec<(&'static str, String)> {
    sign(&[secret()], "msg_1", NOW, BODY).into()
}

fn judge(fields: &[(&'static str, String)], now: u64) -> Result<(), Refusal> {
    judge_bytes(
        fields.iter().map(|(name, value)| (*name, value.as_bytes())),
        BODY,
        now,
    )
}

fn judge_bytes<'h>(
    fields: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    body: &[u8],
    now: u64,
) -> Result<(), Refusal> {
    let tolerance = Tolerance::default();
    verify(Unverified::new(body), fields, &[secret()], now, tolerance).map(drop)
}

/// A genuine request with one field's value changed.
fn with(name: &str, value: impl Into<String>) -> Result<(), Refusal> {
    let mut fields = genuine();
    fields.iter_mut().find(|field| field.0 == name).unwrap().1 = value.into();
    judge(&fields, NOW)
}

#[test]
fn an_absent_field_fails_closed() {
    assert_eq!(judge(&genuine(), NOW), Ok(()));
    for name in [ID, TIMESTAMP, SIGNATURE] {
        let mut fields = genuine();
        fields.retain(|field| field.0 != name);
        assert_eq!(judge(&fields, NOW), Err(Refusal::Absent(name)));
    }
}

#[test]
fn a_repeated_field_is_malformed_even_if_both_say_the_same() {
    for at in 0..3 {
        let mut fields = genuine();
        fields.push(fields[at].clone());
        assert!(
            matches!(judge(&fields, NOW), Err(Refusal::Repeated(name)) if name == fields[at].0)
        );
    }
}

#[test]
fn an_id_is_1_to_255_visible_bytes() {
    let malformed = Err(Refusal::Malformed(
        "webhook-id is not 1 to 255 visible ASCII bytes",
    ));
    for bad in ["", "a b", "a\tb", "é", &"i".repeat(256)] {
        assert_eq!(with(ID, bad), malformed, "{bad:?}");
    }
    assert_eq!(with(ID, "i".repeat(255)), Err(Refusal::Mismatch));
}

#[test]
fn a_timestamp_is_canonical_digits() {
    let malformed = Err(Refusal::Malformed(
        "webhook-timestamp is not a whole number of seconds",
    ));
    for bad in [
        "",
        " 1",
        "1 ",
        "-1",
        "+1",
        "01",
        "00",
        "1.0",
        "1e9",
        "0x1",
        "١",
        "1234567890123",
    ] {
        assert_eq!(with(TIMESTAMP, bad), malformed, "{bad:?}");
    }
    assert_eq!(with(TIMESTAMP, "0"), Err(Refusal::TooOld(NOW)));
    assert_eq!(
        with(TIMESTAMP, "999999999999"),
        Err(Refusal::TooNew(999_999_999_999 - NOW))
    );
}

#[test]
fn the_tolerance_ends_after_300_seconds_either_way() {
    assert_eq!(judge(&genuine(), NOW + 300), Ok(()));
    assert_eq!(judge(&genuine(), NOW + 301), Err(Refusal::TooOld(301)));
    assert_eq!(judge(&genuine(), NOW - 300), Ok(()));
    assert_eq!(judge(&genuine(), NOW - 301), Err(Refusal::TooNew(301)));
    assert_eq!(
        judge(&genuine(), u64::MAX),
        Err(Refusal::TooOld(u64::MAX - NOW))
    );
}

#[test]
fn what_is_no_v1_signature_is_skipped() {
    let good = genuine()[1].1.clone();
    for header in [
        format!(" {good} "),
        format!("v2,AAAA {good}"),
        format!("v1, v1 , ,v1 {good}"),
        format!("v1,AAAA {good}"),
        format!("v1,{} {good}", "A".repeat(43) + "="),
        format!("{good} {}", ["v1,AAAA"; 15].join(" ")),
    ] {
        assert_eq!(with(SIGNATURE, &*header), Ok(()), "{header}");
    }
    let encoded = good.strip_prefix("v1,").unwrap();
    for header in [
        String::new(),
        "v1,".into(),
        "v1".into(),
        encoded.into(),
        format!("V1,{encoded}"),
        format!("v1a,{encoded}"),
        format!("v1,{encoded}\tx"),
        format!("v1,{encoded},"),
        format!("v1,{}", encoded.trim_end_matches('=')),
        format!("v1,{}", &encoded[..40]),
        format!("v1,{encoded}{encoded}"),
    ] {
        assert_eq!(
            with(SIGNATURE, &*header),
            Err(Refusal::NoSignature),
            "{header}"
        );
    }
    let many = format!("{good} {}", ["v1,AAAA"; 16].join(" "));
    assert_eq!(
        with(SIGNATURE, many),
        Err(Refusal::Malformed("more than 16 signatures"))
    );
}

#[test]
fn a_secret_is_whsec_and_16_to_64_bytes_of_base64() {
    for (text, reason) in [
        ("", "does not begin with whsec_"),
        (
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "does not begin with whsec_",
        ),
        ("whsec_", "not of 16 to 64 bytes"),
        ("whsec_AAAA", "not of 16 to 64 bytes"),
        ("whsec_AAAAAAAAAAAAAAAAAAAAAA", "is not base64"),
        ("whsec_AAAAAAAAAAAAAAAAAAAAAA==\n", "white space"),
        (" whsec_AAAAAAAAAAAAAAAAAAAAAA==", "white space"),
    ] {
        let error = text.parse::<Secret>().unwrap_err().to_string();
        assert!(error.ends_with(reason), "{text:?}: {error}");
        let repeated = text.len() > 8 && error.contains(text.trim());
        assert!(!repeated, "a secret is for no log: {error}");
    }
    let shortest = "whsec_AAAAAAAAAAAAAAAAAAAAAA==";
    assert_eq!(shortest.parse::<Secret>().unwrap().reveal(), shortest);
    assert_eq!(format!("{:?}", secret()), "whsec_…");
}

#[test]
fn the_fields_are_the_ones_of_the_official_example() {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
    let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    let fields = sign(&[secret], id, 1_614_265_330, b"{\"test\": 2432232314}");
    let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    assert_eq!(fields[0], ("webhook-id", id.into()));
    assert_eq!(fields[1], ("webhook-signature", signature.into()));
    assert_eq!(fields[2], ("webhook-timestamp", "1614265330".into()));
}

#[test]
fn during_a_rotation_every_secret_signs_in_the_order_given() {
    let secrets = [[1; 32], [2; 32]].map(Secret::from_key);
    let signature = |secrets: &[Secret]| sign(secrets, "a-1", 7, b"{}")[1].1.clone();
    let (new, old) = (signature(&secrets[..1]), signature(&secrets[1..]));
    assert_eq!(signature(&secrets), format!("{new} {old}"));
}

/// The reason is for the log. The answer tells an attacker nothing.
#[test]
fn a_refusal_displays_no_reason() {
    for refusal in [Refusal::Mismatch, Refusal::TooOld(301), Refusal::Absent(ID)] {
        assert_eq!(refusal.to_string(), "not genuine");
        assert_ne!(refusal.reason(), "not genuine");
    }
}

proptest! {
    #[test]
    fn what_we_sign_we_verify(key: [u8; 32], id in "[!-~&&[^.]]{1,255}", now in 0u64..=999_999_999_999, body: Vec<u8>) {
        let secrets = [Secret::from_key(key)];
        let fields = sign(&secrets, &id, now, &body);
        let fields = fields.iter().map(|(name, value)| (*name, value.as_bytes()));
        let event = verify(Unverified::new(&body), fields, &secrets, now, Tolerance::default()).unwrap();
        prop_assert_eq!((&event.id, event.timestamp, event.body), (&id, now, &body));
    }

    #[test]
    fn a_changed_bit_is_noticed(body in prop::collection::vec(any::<u8>(), 1..64), at: prop::sample::Index, bit in 0u8..8) {
        let fields = sign(&[secret()], "msg_1", NOW, &body);
        let fields = fields.iter().map(|(name, value)| (*name, value.as_bytes()));
        let mut changed = body.clone();
        changed[at.index(body.len())] ^= 1 << bit;
        prop_assert_eq!(judge_bytes(fields, &changed, NOW), Err(Refusal::Mismatch));
    }

    #[test]
    fn no_header_makes_it_panic(id: Vec<u8>, timestamp: Vec<u8>, signature: Vec<u8>, now: u64) {
        let fields = [(ID, &*id), (TIMESTAMP, &*timestamp), (SIGNATURE, &*signature)];
        prop_assert!(judge_bytes(fields, BODY, now).is_err());
    }
}
