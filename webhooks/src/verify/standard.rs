//! Standard Webhooks, symmetric (`v1`): HMAC-SHA256 over `id.timestamp.body`.
//!
//! Source: <https://github.com/standard-webhooks/standard-webhooks>, `spec/standard-webhooks.md`.
//! Where its libraries disagree about a malformed header, this file takes the strict side.

use std::{fmt, str::FromStr, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{Refusal, Tolerance, Unverified, Verified};

/// The event's id: the same at every attempt, and what a receiver deduplicates by.
pub const ID: &str = "webhook-id";
/// The attempt's time in seconds since 1970.
pub const TIMESTAMP: &str = "webhook-timestamp";
/// `v1,BASE64`, several separated by spaces.
pub const SIGNATURE: &str = "webhook-signature";

/// The longest id in bytes.
const MAX_ID: usize = 255;
/// The most digits of a timestamp: enough for the next 29,000 years.
const MAX_DIGITS: usize = 12;
/// The most signatures on one request: each costs a comparison with each secret.
const MAX_SIGNATURES: usize = 16;

/// One request that was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<B> {
    /// `webhook-id`. It is signed, so it can be relied upon to tell a repeat. It may contain a dot,
    /// which only the sender can make unambiguous, by never minting such an id.
    pub id: String,
    /// `webhook-timestamp`.
    pub timestamp: u64,
    /// The body, byte for byte.
    pub body: B,
    /// Which of the secrets fits, counted from 0: tells when an old one is no longer used.
    pub secret: usize,
}

/// Verifies one request as of `now`, in seconds since 1970. Several secrets are for the time of a
/// rotation; any of them may fit any of the signatures. Signatures of other versions and tokens
/// that are none are skipped, as the specification asks.
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
    let fields = Fields::of(headers)?;
    let id = id(fields.id)?;
    let timestamp = timestamp(fields.timestamp)?;
    let signatures = signatures(fields.signature)?;
    check_time(timestamp, now, tolerance)?;
    let fits = |secret: &Secret| {
        let mac = mac(secret, fields.id, fields.timestamp, body.as_ref());
        // The crate compares in constant time, and a length other than 32 never fits.
        let fits = |signature: &[u8; 32]| mac.clone().verify_slice(signature).is_ok();
        signatures.iter().any(fits)
    };
    let secret = secrets.iter().position(fits).ok_or(Refusal::Mismatch)?;
    Ok(Verified(Event {
        id: id.to_owned(),
        timestamp,
        body,
        secret,
    }))
}

/// The scheme's MAC. The timestamp goes in as the text that is in the header: a number that was
/// parsed and printed again might be another text.
pub(crate) fn mac(secret: &Secret, id: &[u8], timestamp: &[u8], body: &[u8]) -> Hmac<Sha256> {
    let mac = Hmac::<Sha256>::new_from_slice(&secret.0).expect("HMAC takes keys of any length");
    [id, b".", timestamp, b".", body]
        .iter()
        .fold(mac, |mac, part| mac.chain_update(part))
}

/// The three header fields, each there exactly once.
struct Fields<'h> {
    id: &'h [u8],
    timestamp: &'h [u8],
    signature: &'h [u8],
}

impl<'h> Fields<'h> {
    fn of(headers: impl IntoIterator<Item = (&'h str, &'h [u8])>) -> Result<Self, Refusal> {
        let (mut id, mut timestamp, mut signature) = (None, None, None);
        for (name, value) in headers {
            let (field, repeated) = if name.eq_ignore_ascii_case(ID) {
                (&mut id, "webhook-id is repeated")
            } else if name.eq_ignore_ascii_case(TIMESTAMP) {
                (&mut timestamp, "webhook-timestamp is repeated")
            } else if name.eq_ignore_ascii_case(SIGNATURE) {
                (&mut signature, "webhook-signature is repeated")
            } else {
                continue;
            };
            if field.replace(value).is_some() {
                return Err(Refusal::Malformed(repeated));
            }
        }
        Ok(Self {
            id: id.ok_or(Refusal::Absent(ID))?,
            timestamp: timestamp.ok_or(Refusal::Absent(TIMESTAMP))?,
            signature: signature.ok_or(Refusal::Absent(SIGNATURE))?,
        })
    }
}

fn id(field: &[u8]) -> Result<&str, Refusal> {
    let visible = field.iter().all(u8::is_ascii_graphic);
    str::from_utf8(field)
        .ok()
        .filter(|id| visible && (1..=MAX_ID).contains(&id.len()))
        .ok_or(Refusal::Malformed(
            "webhook-id is not 1 to 255 visible ASCII bytes",
        ))
}

/// Canonical decimal digits: no sign, no leading zero, no space.
fn timestamp(field: &[u8]) -> Result<u64, Refusal> {
    let digits = field.iter().all(u8::is_ascii_digit);
    let canonical = field == b"0" || !field.starts_with(b"0");
    str::from_utf8(field)
        .ok()
        .filter(|_| digits && canonical && field.len() <= MAX_DIGITS)
        .and_then(|text| text.parse().ok())
        .ok_or(Refusal::Malformed(
            "webhook-timestamp is not a whole number of seconds",
        ))
}

/// The `v1` signatures among the tokens.
fn signatures(field: &[u8]) -> Result<Vec<[u8; 32]>, Refusal> {
    let tokens = field
        .split(|byte| *byte == b' ')
        .filter(|token| !token.is_empty());
    if tokens.clone().count() > MAX_SIGNATURES {
        return Err(Refusal::Malformed("more than 16 signatures"));
    }
    let signatures: Vec<_> = tokens.filter_map(signature).collect();
    if signatures.is_empty() {
        return Err(Refusal::NoSignature);
    }
    Ok(signatures)
}

/// `v1,` and the canonical base64 of 32 bytes, or else none.
fn signature(token: &[u8]) -> Option<[u8; 32]> {
    let encoded = token.strip_prefix(b"v1,")?;
    STANDARD.decode(encoded).ok()?.try_into().ok()
}

fn check_time(timestamp: u64, now: u64, tolerance: Tolerance) -> Result<(), Refusal> {
    let (age, ahead) = (now.saturating_sub(timestamp), timestamp.saturating_sub(now));
    if Duration::from_secs(age) > tolerance.past {
        Err(Refusal::TooOld(age))
    } else if Duration::from_secs(ahead) > tolerance.future {
        Err(Refusal::TooNew(ahead))
    } else {
        Ok(())
    }
}

/// A key as both sides keep it: `whsec_` and the base64 of its bytes. Stripe's secrets look the same
/// and are not: there the whole text is the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// What a secret's text begins with.
const PREFIX: &str = "whsec_";

impl Secret {
    /// The fewest bytes that a sender should accept of its users.
    pub const MIN_NEW: usize = 24;
    /// The fewest bytes of any: the specification asks for 24, an official example has 18.
    const MIN: usize = 16;
    const MAX: usize = 64;

    /// A new secret of these random bytes.
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self(bytes.into())
    }

    /// How many bytes the key has.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// The text to hand to the other side, once.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }
}

impl FromStr for Secret {
    type Err = BadSecret;

    fn from_str(text: &str) -> Result<Self, BadSecret> {
        if text.contains(|c: char| c.is_whitespace()) {
            return Err(BadSecret("it has white space"));
        }
        let encoded = text
            .strip_prefix(PREFIX)
            .ok_or(BadSecret("it does not begin with whsec_"))?;
        let key = STANDARD
            .decode(encoded)
            .map_err(|_| BadSecret("what follows whsec_ is not base64"))?;
        if !(Self::MIN..=Self::MAX).contains(&key.len()) {
            return Err(BadSecret("its key is not of 16 to 64 bytes"));
        }
        Ok(Self(key))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("whsec_…")
    }
}

/// The text is not a Standard Webhooks secret. It is not repeated here: it may be almost one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadSecret(&'static str);

impl fmt::Display for BadSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a secret is whsec_BASE64: {}", self.0)
    }
}

impl std::error::Error for BadSecret {}
