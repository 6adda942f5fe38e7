//! Standard Webhooks, symmetric (`v1`): HMAC-SHA256 over `id.timestamp.body`. Both halves are here:
//! [`verify`] for a receiver, [`sign`] for a sender.
//!
//! Source: <https://github.com/standard-webhooks/standard-webhooks>, `spec/standard-webhooks.md`.
//!
//! The specification's own example, verified and signed:
//!
//! ```
//! use webhooks::verify::{Tolerance, Unverified, standard::{self, Secret, sign, verify}};
//!
//! let secrets: [Secret; 1] = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse()?];
//! let body = br#"{"test": 2432232314}"#;
//! let headers = [
//!     (standard::ID, "msg_p5jXN8AQM9LWM0D4loKWxJek"),
//!     (standard::SIGNATURE, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
//!     (standard::TIMESTAMP, "1614265330"),
//! ];
//! let fields = headers.map(|(name, value)| (name, value.as_bytes()));
//! let now = 1_614_265_335; // `unix_seconds(SystemTime::now())`
//! let event = verify(Unverified::new(body), fields, &secrets, now, Tolerance::default())?;
//! assert_eq!(event.id, "msg_p5jXN8AQM9LWM0D4loKWxJek");
//!
//! let signed = sign(&secrets, &event.id, event.timestamp, body);
//! assert_eq!(signed, headers.map(|(name, value)| (name, value.to_owned())));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    Authentic, BadSecret, Key, MAX_SIGNATURES, Refusal, Tag, Tolerance, Unverified, Verified,
    authenticate, base64_tag, check_time, timestamp,
};

/// The event's id: the same at every attempt. A receiver uses it to recognize a repeat.
pub const ID: &str = "webhook-id";
/// The attempt's time in seconds since 1970.
pub const TIMESTAMP: &str = "webhook-timestamp";
/// `v1,BASE64`, several separated by spaces.
pub const SIGNATURE: &str = "webhook-signature";

/// Svix's name for [`SIGNATURE`]. Its scheme became the standard, so its own names for the fields are accepted too.
pub const SVIX_SIGNATURE: &str = "svix-signature";
/// Svix's names for the three fields.
const SVIX: [&str; 3] = ["svix-id", "svix-timestamp", SVIX_SIGNATURE];

/// The longest id in bytes.
const MAX_ID: usize = 255;

/// A signed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<B> {
    /// `webhook-id`. It is signed, so it reliably identifies a repeat. A dot in an id
    /// makes the signed text ambiguous; only the sender can avoid that.
    pub id: String,
    /// `webhook-timestamp`.
    pub timestamp: u64,
    /// The body, byte for byte.
    pub body: B,
    /// Index of the secret that matched. It shows when an old secret is no longer used.
    pub secret: usize,
}

/// Verifies one request as of `now`, in seconds since 1970. Any secret may match any of the signatures.
/// As the specification asks, it skips signatures of other versions and invalid tokens.
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
    let [id, time, signature] = fields(headers)?;
    let event_id = checked_id(id)?;
    let seconds = timestamp(time).ok_or(Refusal::Malformed(
        "webhook-timestamp is not a whole number of seconds",
    ))?;
    let claimed = v1_signatures(signature)?;
    check_time(seconds, now, tolerance)?;
    let keys = secrets.iter().map(|secret| &secret.0);
    let signed = authenticate(body, &[id, b".", time, b"."], &claimed, keys)?;
    let Authentic { body, secret } = signed.into_inner();
    Ok(Verified(Event {
        id: event_id.to_owned(),
        timestamp: seconds,
        body,
        secret,
    }))
}

/// The header fields of one attempt at `timestamp`, in seconds since 1970. The id is the same at all
/// attempts, but the time is not. So each attempt is signed again. During a rotation pass several
/// secrets, newest first: a receiver needs to know only one of them.
///
/// The id must not contain a dot, because the dot separates the signed parts: parts could be moved from
/// the id to the body, and the signature would still match.
pub fn sign(
    secrets: &[Secret],
    id: &str,
    timestamp: u64,
    body: &[u8],
) -> [(&'static str, String); 3] {
    debug_assert!(!id.contains('.'), "an id without dots");
    let time = timestamp.to_string();
    let signatures: Vec<String> = secrets
        .iter()
        .map(|Secret(key)| {
            let tag = key.mac(&[id.as_bytes(), b".", time.as_bytes(), b".", body]);
            format!("v1,{}", STANDARD.encode(tag.into_bytes()))
        })
        .collect();
    [
        (ID, id.to_owned()),
        (SIGNATURE, signatures.join(" ")),
        (TIMESTAMP, time),
    ]
}

/// The three header fields, each exactly once. Svix's names are used only if the request has none of the
/// standard names, so the two sets are never mixed.
fn fields<'h>(
    headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
) -> Result<[&'h [u8]; 3], Refusal> {
    let names = [ID, TIMESTAMP, SIGNATURE, SVIX[0], SVIX[1], SVIX[2]];
    let values = super::fields(headers, names)?;
    let is_svix = values[..3] == [None; 3] && values[3..] != [None; 3];
    let first = if is_svix { 3 } else { 0 };
    let value = |at: usize| values[first + at].ok_or(Refusal::Absent(names[first + at]));
    Ok([value(0)?, value(1)?, value(2)?])
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
fn v1_signatures(field: &[u8]) -> Result<Vec<Tag>, Refusal> {
    let tokens = field.split(|byte| *byte == b' ');
    let mut signatures = Vec::new();
    for (at, token) in tokens.filter(|token| !token.is_empty()).enumerate() {
        if at == MAX_SIGNATURES {
            return Err(Refusal::Malformed("more than 16 signatures"));
        }
        // Any other token is skipped: it may be of a later version.
        signatures.extend(token.strip_prefix(b"v1,").and_then(base64_tag));
    }
    if signatures.is_empty() {
        return Err(Refusal::NoSignature);
    }
    Ok(signatures)
}

/// A key in the form that both sides store: `whsec_` and the base64 of its bytes. Stripe's secrets look
/// the same, but there the whole text is the key.
#[derive(Clone)]
pub struct Secret(Key);

/// What a secret's text begins with.
const PREFIX: &str = "whsec_";

impl Secret {
    /// The fewest bytes that a sender should accept from its users.
    pub const MIN_NEW: usize = 24;
    /// The fewest bytes of any key. The specification asks for 24, but an official example has 18.
    const MIN: usize = 16;
    const MAX: usize = 64;

    /// A secret of these key bytes, for example 32 random ones. The length is not checked.
    pub fn from_key(key: impl Into<Vec<u8>>) -> Self {
        Self(Key::new(key))
    }

    /// The key's bytes. Never log them.
    pub fn key(&self) -> &[u8] {
        &self.0.bytes
    }

    /// The text to hand to the other side, once.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(self.key()))
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
        Ok(Self::from_key(key))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("whsec_…")
    }
}
