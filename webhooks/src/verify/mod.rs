//! Verifies webhooks: from bytes that anybody may have sent to an event that a known sender has signed.
//!
//! Each scheme is a pure function of the body's bytes, the header fields, the secrets and the time. It
//! takes [`Unverified`] and returns [`Verified`]. Only a scheme can make a `Verified`, so code that
//! asks for a `Verified<Event>` never handles unchecked bytes.
//!
//! Each function takes a list of secrets, because two are valid during a rotation. The event says which
//! one matched. Each scheme has its own secret type: the secrets of Stripe and of Standard Webhooks both
//! begin with `whsec_`, but the key bytes differ.
//!
//! A [`Refusal`] has a reason for the log and none for the sender.
//!
//! Where the vendors' own libraries disagree, these files are strict, and say so where they are not.
//!
//! To take the folder into another crate, copy it and add `pub mod verify;`. It needs edition 2024 and `base64 = "0.23"`,
//! `hex = "0.4"`, `hmac = "0.13"`, `sha2 = "0.11"`.
//!
//! Another scheme is a function of ten lines over [`fields`], [`check_time`] and [`authenticate`]. This is Slack's, with
//! the example of <https://docs.slack.dev/authentication/verifying-requests-from-slack>:
//!
//! ```
//! use webhooks::verify::{
//!     Authentic, Key, Refusal, Tolerance, Unverified, Verified, authenticate, check_time, fields, hex_tag, timestamp,
//! };
//!
//! const TIME: &str = "x-slack-request-timestamp";
//! const SIGNATURE: &str = "x-slack-signature";
//!
//! fn verify<'h, B: AsRef<[u8]>>(
//!     body: Unverified<B>,
//!     headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
//!     keys: &[Key],
//!     now: u64,
//! ) -> Result<Verified<Authentic<B>>, Refusal> {
//!     let [Some(time), Some(signature)] = fields(headers, [TIME, SIGNATURE])? else {
//!         return Err(Refusal::Absent(SIGNATURE));
//!     };
//!     let seconds = timestamp(time).ok_or(Refusal::Malformed("the time is not a number of seconds"))?;
//!     check_time(seconds, now, Tolerance::default())?;
//!     let tag = signature.strip_prefix(b"v0=").and_then(hex_tag).ok_or(Refusal::NoSignature)?;
//!     authenticate(body, &[b"v0:", time, b":"], &[tag], keys)
//! }
//!
//! let body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V\
//!     &channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=\
//!     &response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN\
//!     &trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
//! let headers = [
//!     (TIME, "1531420618"),
//!     (SIGNATURE, "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"),
//! ].map(|(name, value)| (name, value.as_bytes()));
//! let keys = [Key::new("8f742231b10e8888abcd99yyyzzz85a5")];
//! assert!(verify(Unverified::new(body), headers, &keys, 1_531_420_620).is_ok());
//! let other = verify(Unverified::new("token=other"), headers, &keys, 1_531_420_620);
//! assert_eq!(other.unwrap_err(), Refusal::Mismatch);
//! ```

use std::{
    error::Error,
    fmt,
    ops::Deref,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac, digest::CtOutput};
use sha2::Sha256;

pub mod github;
pub mod standard;
pub mod stripe;
pub mod telegram;

/// The most signatures on one request. Each is compared with each secret, and an attacker chooses how many
/// there are.
const MAX_SIGNATURES: usize = 16;
/// The most digits of a timestamp: enough for the next 29,000 years.
const MAX_DIGITS: usize = 12;

/// A body as it arrived, before anything was parsed. Only a scheme can read its bytes.
pub struct Unverified<B>(B);

impl<B> Unverified<B> {
    /// Wraps the whole body, byte for byte as it arrived. A body that was parsed and serialized again
    /// no longer matches its signature.
    pub fn new(body: B) -> Self {
        Self(body)
    }
}

impl<B> fmt::Debug for Unverified<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unverified")
    }
}

/// A value that a holder of one of the secrets has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// The signed value itself.
    pub fn into_inner(self) -> T {
        self.0
    }

    /// Derives a value from a signed one. The result is as genuine as its source.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn and_then<U, E>(self, f: impl FnOnce(T) -> Result<U, E>) -> Result<Verified<U>, E> {
        f(self.0).map(Verified)
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A body whose sender knows one of the secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authentic<B> {
    /// The body, byte for byte.
    pub body: B,
    /// Index of the secret that matched. It shows when an old secret is no longer used.
    pub secret: usize,
}

/// The time in the form that the schemes sign: seconds since 1970. An earlier time counts as 1970.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// How far the signed time may be from ours. An older request may be a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tolerance {
    /// How old a request may be. Default 300 s.
    pub past: Duration,
    /// How far the sender's clock may be ahead of ours. Default 300 s.
    pub future: Duration,
}

impl Default for Tolerance {
    fn default() -> Self {
        let past = Duration::from_secs(300);
        Self { past, future: past }
    }
}

/// Why a request failed verification. It displays as "not genuine", which is all that the sender may learn: an
/// attacker must not know which check failed. [`Refusal::reason`] is for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A required header field is missing.
    Absent(&'static str),
    /// A header field breaks the scheme's syntax. No correct sender writes it.
    Malformed(&'static str),
    /// No signature matches these bytes with any of the secrets.
    Mismatch,
    /// The request has no signature of a version that this scheme verifies.
    NoSignature,
    /// A header field occurs more than once. Picking one of them would be a guess.
    Repeated(&'static str),
    /// The signed time is this many seconds ahead of our clock.
    TooNew(u64),
    /// The signed time is this many seconds behind our clock.
    TooOld(u64),
}

impl Refusal {
    /// What failed, for the log. It has no secret, no signature and no text of the sender's.
    pub fn reason(self) -> String {
        match self {
            Self::Absent(field) => format!("{field} is absent: is the sender set up to sign?"),
            Self::Malformed(what) => what.to_owned(),
            Self::Mismatch => {
                "no signature fits: another endpoint's secret or another kind of secret, \
                 or the body was parsed and written anew on its way"
                    .to_owned()
            }
            Self::NoSignature => "no signature is of a version that is verified here".to_owned(),
            Self::Repeated(field) => format!("{field} is repeated"),
            Self::TooNew(seconds) => {
                format!("signed {seconds} s from now: a stale clock here, or a wrong one there")
            }
            Self::TooOld(seconds) => format!(
                "signed {seconds} s ago: a replay, a proxy that held it, or a stale clock there"
            ),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not genuine")
    }
}

impl Error for Refusal {}

/// The text is not a secret of the scheme. The message does not repeat it, because a mistyped secret is
/// close to the real one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadSecret(&'static str);

impl fmt::Display for BadSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for BadSecret {}

/// The values of these header fields, in the order of `names`.
///
/// # Errors
/// [`Refusal::Repeated`].
pub fn fields<'h, const N: usize>(
    headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    names: [&'static str; N],
) -> Result<[Option<&'h [u8]>; N], Refusal> {
    let mut values = [None; N];
    for (name, value) in headers {
        let known = names.iter().position(|it| it.eq_ignore_ascii_case(name));
        let Some(at) = known else { continue };
        if values[at].replace(value).is_some() {
            return Err(Refusal::Repeated(names[at]));
        }
    }
    Ok(values)
}

/// The body, if one of the `keys` made one of the `claimed` MACs over the parts `before` and the body.
///
/// # Errors
/// [`Refusal::Mismatch`] if none did.
pub fn authenticate<'k, B: AsRef<[u8]>>(
    body: Unverified<B>,
    before: &[&[u8]],
    claimed: &[Tag],
    keys: impl IntoIterator<Item = &'k Key>,
) -> Result<Verified<Authentic<B>>, Refusal> {
    let Unverified(body) = body;
    let parts = [before, &[body.as_ref()]].concat();
    let secret = keys
        .into_iter()
        .position(|key| claimed.contains(&key.mac(&parts)))
        .ok_or(Refusal::Mismatch)?;
    Ok(Verified(Authentic { body, secret }))
}

/// A MAC. `==` takes the same time wherever two MACs differ, so its duration tells an attacker nothing.
pub type Tag = CtOutput<Hmac<Sha256>>;

/// A prepared key. HMAC hashes its key first, and this is done once instead of at each request.
#[derive(Clone)]
pub struct Key {
    bytes: Vec<u8>,
    hmac: Hmac<Sha256>,
}

impl Key {
    /// Prepares these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let hmac = Hmac::new_from_slice(&bytes).expect("HMAC takes keys of any length");
        Self { bytes, hmac }
    }

    /// The MAC of the concatenated parts, without copying them together.
    fn mac(&self, parts: &[&[u8]]) -> Tag {
        let mut mac = self.hmac.clone();
        for part in parts {
            mac.update(part);
        }
        mac.finalize()
    }
}

/// A key never reaches a log.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Parses canonical decimal digits: no sign, no leading zero, no space. Other libraries may sign the number
/// as they print it, which is a different text for `007`.
pub fn timestamp(digits: &[u8]) -> Option<u64> {
    let canonical = digits == b"0" || !digits.starts_with(b"0");
    let plain = canonical && digits.len() <= MAX_DIGITS && digits.iter().all(u8::is_ascii_digit);
    str::from_utf8(digits).ok()?.parse().ok().filter(|_| plain)
}

/// Whether a signed time is close enough to `now`, both in seconds since 1970.
///
/// # Errors
/// [`Refusal::TooOld`], [`Refusal::TooNew`].
pub fn check_time(timestamp: u64, now: u64, tolerance: Tolerance) -> Result<(), Refusal> {
    let (age, ahead) = (now.saturating_sub(timestamp), timestamp.saturating_sub(now));
    if Duration::from_secs(age) > tolerance.past {
        Err(Refusal::TooOld(age))
    } else if Duration::from_secs(ahead) > tolerance.future {
        Err(Refusal::TooNew(ahead))
    } else {
        Ok(())
    }
}

/// A MAC as 64 lower-case hexadecimal digits. The vendors' libraries compare the text, so upper case is refused.
pub fn hex_tag(digits: &[u8]) -> Option<Tag> {
    let mut bytes = [0; 32];
    let lower = !digits.iter().any(u8::is_ascii_uppercase);
    hex::decode_to_slice(digits, &mut bytes).ok()?;
    lower.then(|| Tag::new(bytes.into()))
}

/// A MAC as the canonical base64 of 32 bytes.
pub fn base64_tag(encoded: &[u8]) -> Option<Tag> {
    let mut decoded = [0; 33]; // what 44 characters could hold
    let length = STANDARD.decode_slice(encoded, &mut decoded).ok()?;
    let bytes: [u8; 32] = decoded[..length].try_into().ok()?;
    Some(Tag::new(bytes.into()))
}
