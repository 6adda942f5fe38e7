//! Stripe (`v1`): HMAC-SHA256 over `t.body`. One header field holds the time and the signatures.
//!
//! Source: <https://docs.stripe.com/webhooks/signature>. Stripe's own libraries disagree on two points:
//! - A second `t`: Node uses it, Python ignores it. Here it is refused.
//! - A time in the future: Node, Python, Ruby and Go accept any, PHP and .NET apply the tolerance. Here
//!   [`TOLERANCE`] accepts any. A clock that is ahead does not mean a forgery, and a replay is found by
//!   the event's id anyway.
//!
//! ```
//! use webhooks::verify::{Unverified, stripe};
//!
//! let secrets: [stripe::Secret; 1] = ["whsec_5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH".parse()?];
//! let body = r#"{"id":"evt_1","object":"event"}"#;
//! let signature = "t=1700000000,v1=\
//!     d150bcbb1b150e35eb3439897cb7f183abb2a5a83a3bdcabab7d562f7f8f700c";
//! let headers = [(stripe::SIGNATURE, signature.as_bytes())];
//! let now = 1_700_000_005; // `unix_seconds(SystemTime::now())`
//! let event = stripe::verify(Unverified::new(body), headers, &secrets, now, stripe::TOLERANCE)?;
//! assert_eq!((event.body, event.timestamp), (body, 1_700_000_000));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::{str::FromStr, time::Duration};

use super::{
    Authentic, BadSecret, Key, MAX_SIGNATURES, Refusal, Tag, Tolerance, Unverified, Verified,
    authenticate, check_time, fields, hex_tag, timestamp,
};

/// `t=SECONDS,v1=HEX`, with another `v1` during a rotation. `v0` is for Stripe's test events.
pub const SIGNATURE: &str = "stripe-signature";

/// What most of Stripe's own libraries accept: up to five minutes old, and any time ahead.
pub const TOLERANCE: Tolerance = Tolerance {
    past: Duration::from_secs(300),
    future: Duration::MAX,
};

/// A signed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<B> {
    /// `t`: the attempt's time, in seconds since 1970.
    pub timestamp: u64,
    /// The body, byte for byte. Its field `id` is the event's id, which identifies a repeat.
    pub body: B,
    /// Index of the secret that matched.
    pub secret: usize,
}

/// Verifies one request as of `now`, in seconds since 1970.
///
/// # Errors
/// See [`Refusal`].
pub fn verify<'h, B: AsRef<[u8]>>(
    body: Unverified<B>,
    headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    secrets: &[Secret],
    now: u64,
    tolerance: Tolerance,
) -> Result<Verified<Event<B>>, Refusal> {
    let [field] = fields(headers, [SIGNATURE])?;
    let (time, signatures) = parse(field.ok_or(Refusal::Absent(SIGNATURE))?)?;
    let seconds = timestamp(time).ok_or(Refusal::Malformed(
        "t of Stripe-Signature is not a whole number of seconds",
    ))?;
    check_time(seconds, now, tolerance)?;
    let keys = secrets.iter().map(|secret| &secret.0);
    let signed = authenticate(body, &[time, b"."], &signatures, keys)?;
    let Authentic { body, secret } = signed.into_inner();
    Ok(Verified(Event {
        timestamp: seconds,
        body,
        secret,
    }))
}

/// The single `t` and the `v1` signatures. Other items belong to other versions and are skipped.
fn parse(field: &[u8]) -> Result<(&[u8], Vec<Tag>), Refusal> {
    let (mut time, mut signatures) = (None, Vec::new());
    for (at, item) in field.split(|byte| *byte == b',').enumerate() {
        if at == MAX_SIGNATURES {
            return Err(Refusal::Malformed("more than 16 parts of Stripe-Signature"));
        }
        if let Some(digits) = item.strip_prefix(b"v1=") {
            signatures.extend(hex_tag(digits));
        } else if let Some(t) = item.strip_prefix(b"t=")
            && time.replace(t).is_some()
        {
            return Err(Refusal::Repeated("t of Stripe-Signature"));
        }
    }
    match time {
        None => Err(Refusal::Malformed("Stripe-Signature has no t")),
        Some(_) if signatures.is_empty() => Err(Refusal::NoSignature),
        Some(time) => Ok((time, signatures)),
    }
}

/// A key in the form that both sides store: the whole text, `whsec_` included. The secrets of Standard
/// Webhooks look the same, but there the key is the base64 after `whsec_`.
#[derive(Debug, Clone)]
pub struct Secret(Key);

impl Secret {
    /// A secret of these key bytes, which need not be text.
    pub fn from_key(key: impl Into<Vec<u8>>) -> Self {
        Self(Key::new(key))
    }

    /// The key's bytes: the secret's text. Never log them.
    pub fn key(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl FromStr for Secret {
    type Err = BadSecret;

    fn from_str(text: &str) -> Result<Self, BadSecret> {
        if text.is_empty() {
            return Err(BadSecret("Stripe's secret is empty"));
        }
        if text.contains(char::is_whitespace) {
            return Err(BadSecret("Stripe's secret must not contain white space"));
        }
        Ok(Self::from_key(text))
    }
}
