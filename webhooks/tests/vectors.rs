//! The vectors of the four schemes, valid and invalid ones.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use webhooks::verify::{
    Refusal, Tolerance, Unverified, Verified, github,
    standard::{Event, Secret, sign, verify},
    stripe, telegram,
};

fn all() -> Value {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

fn vectors() -> Value {
    all()["standard_webhooks_v1"].clone()
}

/// The vectors in a list of a scheme. The list must not be empty.
fn list(scheme: &str, name: &str) -> Vec<Value> {
    let list = all()[scheme][name].as_array().unwrap().clone();
    assert!(!list.is_empty());
    list
}

fn text<'v>(vector: &'v Value, field: &str) -> &'v str {
    vector[field].as_str().unwrap()
}

fn secret(text: &str) -> Secret {
    text.parse().unwrap()
}

/// Verifies a request with these signature fields.
fn judge(
    secrets: &[Secret],
    (id, timestamp, body): (&str, &str, &str),
    signatures: &[&str],
    now: u64,
) -> Result<Verified<Event<Bytes>>, Refusal> {
    let fields = [("Webhook-Id", id), ("webhook-timestamp", timestamp)];
    let signatures = signatures.iter().map(|value| ("WEBHOOK-SIGNATURE", *value));
    let headers = fields.into_iter().chain(signatures);
    verify(
        Unverified::new(Bytes::copy_from_slice(body.as_bytes())),
        headers.map(|(name, value)| (name, value.as_bytes())),
        secrets,
        now,
        Tolerance::default(),
    )
}

#[test]
fn we_sign_what_the_vectors_sign_and_verify_it() {
    for vector in vectors()["vectors"].as_array().unwrap() {
        let (id, body) = (text(vector, "id"), text(vector, "payload"));
        let timestamp = vector["ts"].as_u64().unwrap();
        let secrets = [secret(text(vector, "secret"))];
        let signature = sign(&secrets, id, timestamp, body.as_bytes())[1].1.clone();
        assert_eq!(signature, text(vector, "signature"), "{id}");
        let request = (id, timestamp.to_string(), body);
        let request = (request.0, request.1.as_str(), request.2);
        let event = judge(&secrets, request, &[&signature], timestamp).unwrap();
        assert_eq!((event.id.as_str(), event.timestamp), (id, timestamp));
        assert_eq!(event.into_inner().body, body);
    }
}

#[test]
fn every_case_is_judged_as_the_vectors_say() {
    for case in vectors()["cases"].as_array().unwrap() {
        let request = (
            text(case, "id"),
            text(case, "ts_header"),
            text(case, "payload"),
        );
        let signatures: Vec<&str> = match &case["header"] {
            Value::Array(values) => values.iter().map(|value| value.as_str().unwrap()).collect(),
            value => vec![value.as_str().unwrap()],
        };
        let now = case["now"].as_u64().unwrap();
        let judged = judge(&[secret(text(case, "secret"))], request, &signatures, now);
        let accepts = text(case, "expect").starts_with("accept");
        assert_eq!(judged.is_ok(), accepts, "{}: {judged:?}", case["name"]);
    }
}

#[test]
fn during_a_rotation_either_secret_fits_and_is_told() {
    let rotation = &vectors()["rotation"];
    let timestamp = rotation["ts"].to_string();
    let request = (
        text(rotation, "id"),
        timestamp.as_str(),
        text(rotation, "payload"),
    );
    let now = rotation["ts"].as_u64().unwrap();
    let verifies_with = rotation["verifies_with"].as_array().unwrap();
    let header = text(rotation, "header");
    // The third is a public key of a version that is skipped.
    let [new, old] = [0, 1].map(|at| secret(verifies_with[at].as_str().unwrap()));
    let other = Secret::from_key([9; 32]);
    for (secrets, fits) in [
        (vec![new.clone()], Ok(0)),
        (vec![old.clone()], Ok(0)),
        (vec![other.clone(), old.clone()], Ok(1)),
        (vec![other], Err(Refusal::Mismatch)),
        (vec![], Err(Refusal::Mismatch)),
    ] {
        let judged = judge(&secrets, request, &[header], now);
        assert_eq!(judged.map(|event| event.secret), fits);
    }
}

fn body(vector: &Value) -> Unverified<Bytes> {
    Unverified::new(Bytes::from(text(vector, "payload").to_owned()))
}

/// The header field of a case: none, one, or several.
fn headers(name: &'static str, value: &Value) -> Vec<(&'static str, Vec<u8>)> {
    let values = match value {
        Value::Null => vec![],
        Value::Array(values) => values.clone(),
        value => vec![value.clone()],
    };
    let field = |value: Value| (name, value.as_str().unwrap().into());
    values.into_iter().map(field).collect()
}

fn stripe(vector: &Value, secret: &str, now: u64, tolerance: u64) -> Result<(), Refusal> {
    // A secret that cannot be configured verifies nothing.
    let secret: stripe::Secret = secret.parse().map_err(|_| Refusal::Mismatch)?;
    let window = Duration::from_secs(tolerance);
    let tolerance = Tolerance {
        past: window,
        future: window,
    };
    let fields = headers(stripe::SIGNATURE, &vector["header"]);
    let fields = fields.iter().map(|(name, value)| (*name, &value[..]));
    stripe::verify(body(vector), fields, &[secret], now, tolerance).map(drop)
}

#[test]
fn stripes_vectors_are_genuine() {
    for vector in list("stripe_v1", "vectors") {
        let now = vector["timestamp"].as_u64().unwrap();
        let judged = stripe(&vector, text(&vector, "secret"), now, 300);
        assert_eq!(judged, Ok(()), "{}", vector["name"]);
    }
    let rolled = &all()["stripe_v1"]["rolled"];
    let now = rolled["timestamp"].as_u64().unwrap();
    for secret in rolled["verifies_with"].as_array().unwrap() {
        let judged = stripe(rolled, secret.as_str().unwrap(), now, 300);
        assert_eq!(judged, Ok(()), "{secret}");
    }
    assert_eq!(stripe(rolled, "other", now, 300), Err(Refusal::Mismatch));
}

#[test]
fn stripes_cases_are_judged_as_the_vectors_say() {
    for case in list("stripe_v1", "cases") {
        let now = case["now"].as_u64().unwrap();
        let tolerance = case["tolerance"].as_u64().unwrap();
        let judged = stripe(&case, text(&case, "secret"), now, tolerance);
        let accepts = text(&case, "expect").starts_with("accept");
        assert_eq!(judged.is_ok(), accepts, "{}: {judged:?}", case["name"]);
    }
}

#[test]
fn githubs_vectors_and_cases_are_judged_as_they_say() {
    let cases = list("github_sha256", "cases");
    for case in list("github_sha256", "vectors").into_iter().chain(cases) {
        let secret: github::Secret = text(&case, "secret").parse().unwrap();
        let fields = headers("X-Hub-Signature-256", &case["header"]);
        let fields = fields.iter().map(|(name, value)| (*name, &value[..]));
        let judged = github::verify(body(&case), fields, &[secret]);
        let accepts = case["expect"].as_str().unwrap_or("accept");
        let accepts = accepts.starts_with("accept");
        assert_eq!(judged.is_ok(), accepts, "{}: {judged:?}", case["name"]);
    }
}

#[test]
fn telegrams_cases_are_judged_as_they_say() {
    for case in list("telegram", "cases") {
        let secret: Result<telegram::Secret, _> = text(&case, "configured").parse();
        let expected = text(&case, "expect");
        assert_eq!(secret.is_err(), expected.starts_with("config-error"));
        let Ok(secret) = secret else { continue };
        let fields = headers(telegram::TOKEN, &case["header"]);
        let fields = fields.iter().map(|(name, value)| (*name, &value[..]));
        let judged = telegram::verify(Unverified::new("{}"), fields, &[secret]);
        assert_eq!(judged.is_ok(), expected == "accept", "{}", case["name"]);
    }
}
