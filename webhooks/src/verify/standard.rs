//! Standard Webhooks, symmetric (`v1`): HMAC-SHA256 over `id.timestamp.body`.
//!
//! Source: <https://github.com/standard-webhooks/standard-webhooks>, `spec/standard-webhooks.md`.
//! Where its libraries disagree about a malformed header, this file takes the strict side.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::Hmac;
use sha2::Sha256;

use super::{
    BadSecret, MAX_SIGNATURES, Refusal, Tag, Tolerance, Unverified, Verified, check_time, keyed,
};

/// The event's id: the same at every attempt, and what a receiver deduplicates by.
pub const ID: &str = "webhook-id";
/// The attempt's time in seconds since 1970.
pub const TIMESTAMP: &str = "webhook-timestamp";
/// `v1,BASE64`, several separated by spaces.
pub const SIGNATURE: &str = "webhook-signature";

/// What Svix, whose scheme became the standard, calls the same fields. They count where none of the
/// standard's names is used: the two sets are never mixed.
const SVIX: [&str; 3] = ["svix-id", "svix-timestamp", "svix-signature"];

/// The longest id in bytes.
const MAX_ID: usize = 255;

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
    let [id, timestamp, signature] = fields(headers)?;
    let event_id = checked_id(id)?;
    let time = super::timestamp(timestamp).ok_or(Refusal::Malformed(
        "webhook-timestamp is not a whole number of seconds",
    ))?;
    let signatures = signatures(signature)?;
    check_time(time, now, tolerance)?;
    let fits = |secret: &Secret| {
        let tag = mac(secret, id, timestamp, body.as_ref());
        signatures.contains(&tag)
    };
    let secret = secrets.iter().position(fits).ok_or(Refusal::Mismatch)?;
    Ok(Verified(Event {
        id: event_id.to_owned(),
        timestamp: time,
        body,
        secret,
    }))
}

/// The scheme's MAC. The timestamp goes in as the text that is in the header: a number that was
/// parsed and printed again might be another text.
pub(crate) fn mac(secret: &Secret, id: &[u8], timestamp: &[u8], body: &[u8]) -> Tag {
    super::mac(&secret.keyed, &[id, b".", timestamp, b".", body])
}

/// The three header fields, each there exactly once.
fn fields<'h>(
    headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
) -> Result<[&'h [u8]; 3], Refusal> {
    let [a, b, c] = [ID, TIMESTAMP, SIGNATURE];
    let [d, e, f] = SVIX;
    let [a, b, c, d, e, f] = super::fields(headers, [a, b, c, d, e, f])?;
    let (names, found) = match ([a, b, c], [d, e, f]) {
        ([None, None, None], svix) if svix != [None; 3] => (SVIX, svix),
        (standard, _) => ([ID, TIMESTAMP, SIGNATURE], standard),
    };
    let at = |at: usize| found[at].ok_or(Refusal::Absent(names[at]));
    Ok([at(0)?, at(1)?, at(2)?])
}

fn checked_id(field: &[u8]) -> Result<&str, Refusal> {
    let visible = field.iter().all(u8::is_ascii_graphic);
    str::from_utf8(field)
        .ok()
        .filter(|id| visible && (1..=MAX_ID).contains(&id.len()))
        .ok_or(Refusal::Malformed(
            "webhook-id is not 1 to 255 visible ASCII bytes",
        ))
}

/// The `v1` signatures among the tokens.
fn signatures(field: &[u8]) -> Result<Vec<Tag>, Refusal> {
    let tokens = field.split(|byte| *byte == b' ');
    let tokens = tokens.filter(|token| !token.is_empty());
    let mut signatures = Vec::new();
    for (at, token) in tokens.enumerate() {
        if at == MAX_SIGNATURES {
            return Err(Refusal::Malformed("more than 16 signatures"));
        }
        signatures.extend(signature(token));
    }
    if signatures.is_empty() {
        return Err(Refusal::NoSignature);
    }
    Ok(signatures)
}

/// `v1,` and the canonical base64 of 32 bytes, or else none.
fn signature(token: &[u8]) -> Option<Tag> {
    let encoded = token.strip_prefix(b"v1,")?;
    let mut bytes = [0; 33]; // what 44 characters could hold
    let length = STANDARD.decode_slice(encoded, &mut bytes).ok()?;
    let bytes: [u8; 32] = bytes[..length].try_into().ok()?;
    Some(Tag::new(bytes.into()))
}

/// A key as both sides keep it: `whsec_` and the base64 of its bytes. Stripe's secrets look the same
/// and are not: there the whole text is the key.
#[derive(Clone)]
pub struct Secret {
    key: Vec<u8>,
    keyed: Hmac<Sha256>,
}

/// What a secret's text begins with.
const PREFIX: &str = "whsec_";

impl Secret {
    /// The fewest bytes that a sender should accept of its users.
    pub const MIN_NEW: usize = 24;
    /// The fewest bytes of any: the specification asks for 24, an official example has 18.
    const MIN: usize = 16;
    const MAX: usize = 64;

    pub(crate) fn new(key: Vec<u8>) -> Self {
        let keyed = keyed(&key);
        Self { key, keyed }
    }

    /// A new secret of these random bytes.
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self::new(bytes.into())
    }

    /// The key's bytes, for whoever looks for what went wrong. They are for no log.
    #[cfg(feature = "programs")]
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// How many bytes the key has.
    pub fn size(&self) -> usize {
        self.key.len()
    }

    /// The text to hand to the other side, once.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.key))
    }
}

impl FromStr for Secret {
    type Err = BadSecret;

    fn from_str(text: &str) -> Result<Self, BadSecret> {
        if text.contains(|c: char| c.is_whitespace()) {
            return Err(BadSecret("a secret is whsec_BASE64: it has white space"));
        }
        let encoded = text.strip_prefix(PREFIX).ok_or(BadSecret(
            "a secret is whsec_BASE64: it does not begin with whsec_",
        ))?;
        let key = STANDARD.decode(encoded).map_err(|_| {
            BadSecret("a secret is whsec_BASE64: what follows whsec_ is not base64")
        })?;
        if !(Self::MIN..=Self::MAX).contains(&key.len()) {
            return Err(BadSecret(
                "a secret is whsec_BASE64: its key is not of 16 to 64 bytes",
            ));
        }
        Ok(Self::new(key))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("whsec_…")
    }
}
