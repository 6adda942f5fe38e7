//! Finds, for the log, why a request failed verification although it is probably genuine.
//!
//! People who set up a receiver make a few typical mistakes. Each leaves a trace: a header field at the wrong
//! path, or a signature that matches with another kind of secret or at another time. Anybody can cause this
//! work. So it is limited to a few MACs of a small body, runs outside the runtime's threads, and is done only
//! for requests that are [logged](common::Quota).
//!
//! A body that was parsed and serialized again leaves no trace that could be found: there are too many ways to
//! write it. The refusal names that cause among others.

use bytes::Bytes;
use hyper::header::HeaderMap;

use super::source::{Rejection, Secrets, Source};
use crate::verify::{Refusal, standard, stripe};

/// A larger body is not verified a second time.
const MAX_BODY: usize = 64 << 10;

/// The refusal and its likely cause, in words. The text has no secret and no signature.
pub(crate) fn likely_cause(
    secrets: &Secrets,
    source: Source,
    headers: &HeaderMap,
    body: &Bytes,
    now: u64,
    refusal: Refusal,
) -> String {
    let fits = |secrets: &Secrets, now| {
        let verified = secrets.verify(source, headers, body.clone(), now);
        !matches!(verified, Err(Rejection::NotGenuine(_)))
    };
    let found = match refusal {
        Refusal::Absent(_) => another_source(source, headers)
            .map(|other| format!("{}: {other}", refusal.reason())),
        _ if body.len() > MAX_BODY => None,
        // With the signed time as `now` the age passes. If the signature matches too, only the age was wrong.
        Refusal::TooOld(age) if fits(secrets, now - age) => Some(format!(
            "signed {age} s ago, and the signature fits: a replay, a proxy that held it, or this machine's clock \
             is ahead"
        )),
        Refusal::TooNew(ahead) if fits(secrets, now + ahead) => Some(format!(
            "signed {ahead} s from now, and the signature fits: this machine's clock is behind, or the sender's \
             ahead"
        )),
        Refusal::Mismatch if fits(&confused(secrets), now) => Some(
            "no signature fits: the wrong kind of secret: Stripe's is the whole text, whsec_ included, and Standard \
             Webhooks' the base64 after it; it fits as the other"
                .to_owned(),
        ),
        _ => None,
    };
    found.unwrap_or_else(|| refusal.reason())
}

/// A request that has the field of another source came to the wrong path.
fn another_source(source: Source, headers: &HeaderMap) -> Option<String> {
    let mut others = Source::ALL.into_iter().filter(|other| *other != source);
    others.find_map(|other| {
        let field = other.proof_in(headers)?;
        Some(format!("it has {field}, which belongs to {}", other.path()))
    })
}

/// Every secret read both ways: for Stripe the key is the whole text `whsec_TEXT`, for Standard Webhooks it is
/// the bytes that TEXT encodes. GitHub and Telegram have no second kind of secret, so theirs are not in it.
fn confused(secrets: &Secrets) -> Secrets {
    let mut keys: Vec<Vec<u8>> = Vec::new();
    for secret in &secrets.standard {
        keys.extend([secret.key().into(), secret.reveal().into()]);
    }
    for secret in &secrets.stripe {
        keys.push(secret.key().into());
        let text = str::from_utf8(secret.key()).unwrap_or_default();
        let decoded = text.parse::<standard::Secret>();
        keys.extend(decoded.map(|secret| secret.key().into()));
    }
    let standard = keys.iter().cloned().map(standard::Secret::from_key);
    Secrets {
        standard: standard.collect(),
        stripe: keys.into_iter().map(stripe::Secret::from_key).collect(),
        past: secrets.past,
        ..Secrets::default()
    }
}
