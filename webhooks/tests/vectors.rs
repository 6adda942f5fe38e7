//! The published vectors of Standard Webhooks, true and false ones.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use bytes::Bytes;
use serde_json::Value;
use webhooks::{
    sign::sign,
    verify::{
        Refusal, Tolerance, Unverified, Verified,
        standard::{Event, Secret, verify},
    },
};

fn vectors() -> Value {
    let all: Value = serde_json::from_str(include_str!("vectors.json")).unwrap();
    all["standard_webhooks_v1"].clone()
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
    let other = Secret::from_random([9; 32]);
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
