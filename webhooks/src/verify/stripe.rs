//! Stripe (`v1`): HMAC-SHA256 over `t.body`, in one header field with its time.
//!
//! Source: <https://docs.stripe.com/webhooks/signature>. Its libraries disagree: a second `t` is the
//! one that counts in Node and counts for nothing in Python; a time in the future is no matter in
//! Node, Python, Ruby and Go, and has to be within the tolerance in PHP and .NET. Here a second `t` is
//! refused, and the future has a tolerance of its own, which is [without a bound](TOLERANCE) unless asked
//! for: a clock that is ahead there is no forgery, and a repeat is told by the event's id anyway.

use std::{fmt, str::FromStr, time::Duration};

use super::{
    BadSecret, MAX_SIGNATURES, Refusal, Tag, Tolerance, Unverified, Verified, check_time, fields,
    keyed, lower_hex, mac, timestamp,
};
use hmac::Hmac;
use sha2::Sha256;

/// `t=SECONDS,v1=HEX`, with another `v1` while a secret is being rolled. `v0` is for tests.
pub const SIGNATURE: &str = "stripe-signature";

/// What most of Stripe's own libraries tolerate: five minutes ago, and any time ahead.
pub const TOLERANCE: Tolerance = Tolerance {
    past: Duration::from_secs(300),
    future: Duration::MAX,
};

/// One request that was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<B> {
    /// `t`: the attempt's time, in seconds since 1970.
    pub timestamp: u64,
    /// The body, byte for byte. The event's id, to tell a repeat by, is in it: its field `id`.
    pub body: B,
    /// Which of the secrets fits, counted from 0.
    pub secret: usize,
}

/// Verifies one request as of `now`, in seconds since 1970.
///
/// # Errors
/// See [`Refusal`]; nothing is believed in part.
pub fn verify<'h, B: AsRef<[u8]>>(
    body: Unverified<B>,
    headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    secrets: &[Secret],
    now: u64,
    tolerance: Tolerance,
) -> Result<Verified<Event<B>>, Refusal> {
    let Unverified(body) = body;
    let [field] = fields(headers, [SIGNATURE])?;
    let (t, signatures) = parse(field.ok_or(Refusal::Absent(SIGNATURE))?)?;
    let timestamp = timestamp(t).ok_or(Refusal::Malformed(
        "t of Stripe-Signature is not a whole number of seconds",
    ))?;
    check_time(timestamp, now, tolerance)?;
    let fits = |secret: &Secret| {
        let tag = mac(&secret.keyed, &[t, b".", body.as_ref()]);
        signatures.contains(&tag)
    };
    let secret = secrets.iter().position(fits).ok_or(Refusal::Mismatch)?;
    Ok(Verified(Event {
        timestamp,
        body,
        secret,
    }))
}

/// The one `t` and the `v1` signatures. What else is between the commas is for other versions.
fn parse(field: &[u8]) -> Result<(&[u8], Vec<Tag>), Refusal> {
    let (mut time, mut signatures) = (None, Vec::new());
    for (at, item) in field.split(|byte| *byte == b',').enumerate() {
        if at == MAX_SIGNATURES {
            return Err(Refusal::Malformed("more than 16 parts of Stripe-Signature"));
        }
        if let Some(digits) = item.strip_prefix(b"v1=") {
            signatures.extend(lower_hex(digits));
        } else if let Some(t) = item.strip_prefix(b"t=")
            && time.replace(t).is_some()
        {
            return Err(Refusal::Repeated("t of Stripe-Signature"));
        }
    }
    let time = time.ok_or(Refusal::Malformed("Stripe-Signature has no t"))?;
    if signatures.is_empty() {
        return Err(Refusal::NoSignature);
    }
    Ok((time, signatures))
}

/// A key as both sides keep it: the whole text, `whsec_` included. The secrets of Standard Webhooks
/// look the same and are not: there `whsec_` is followed by the base64 of the key.
#[derive(Clone)]
pub struct Secret {
    text: String,
    keyed: Hmac<Sha256>,
}

impl Secret {
    fn new(text: String, key: &[u8]) -> Self {
        let keyed = keyed(key);
        Self { text, keyed }
    }

    /// A key that no text is.
    #[cfg(feature = "programs")]
    pub(crate) fn from_key(key: &[u8]) -> Self {
        Self::new(String::new(), key)
    }

    /// The text as it was given. It is for no log.
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

impl FromStr for Secret {
    type Err = BadSecret;

    fn from_str(text: &str) -> Result<Self, BadSecret> {
        if text.is_empty() {
            return Err(BadSecret("Stripe's secret is empty"));
        }
        if text.contains(char::is_whitespace) {
            return Err(BadSecret(
                "Stripe's secret has no white space, and this has",
            ));
        }
        Ok(Self::new(text.to_owned(), text.as_bytes()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stripe::Secret")
    }
}
