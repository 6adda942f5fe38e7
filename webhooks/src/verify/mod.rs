//! From bytes that anybody may have sent to an event that a known sender has signed.
//!
//! Each scheme is a pure function over the body's bytes, the header fields, the secrets and the
//! time. It takes [`Unverified`] and gives [`Verified`], and only a scheme can make the one from
//! the other: code that asks for a `Verified<Event>` cannot be handed bytes that nobody checked.
//! The secrets are a list, for the time of a rotation, and an event tells which of them fits. Stripe's
//! secrets and those of Standard Webhooks both begin with `whsec_` and mean other bytes, so each scheme
//! has a type of its own.
//!
//! Where the vendors' own libraries disagree, these files take the strict side. They depend on the
//! crates for HMAC, SHA-2, base64 and hex alone; take them as they are.

use std::{
    error::Error,
    fmt,
    ops::Deref,
    time::{Duration, SystemTime},
};

use hmac::{Hmac, KeyInit, Mac, digest::CtOutput};
use sha2::Sha256;

pub mod github;
pub mod standard;
pub mod stripe;
pub mod telegram;

/// The most signatures on one request: each costs a comparison with each secret.
const MAX_SIGNATURES: usize = 16;
/// The most digits of a timestamp: enough for the next 29,000 years.
const MAX_DIGITS: usize = 12;

/// A body as it came, before anything was parsed. There is no way to its bytes but a scheme.
pub struct Unverified<B>(B);

impl<B> Unverified<B> {
    /// Wraps a body: every byte of it, and as it came. A body that was parsed and written anew has
    /// another signature.
    pub fn new(body: B) -> Self {
        Self(body)
    }
}

impl<B> fmt::Debug for Unverified<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unverified")
    }
}

/// What a holder of one of the secrets has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// The signed thing itself.
    pub fn into_inner(self) -> T {
        self.0
    }

    /// What follows from it, which is then as genuine.
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

/// The time in the form that the schemes sign and verify. A clock before 1970 counts as 1970.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// How far the signed time may be from ours. What is older may be a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tolerance {
    /// How old a request may be. Default 300 s.
    pub past: Duration,
    /// How far ahead of ours the sender's clock may be. Default 300 s.
    pub future: Duration,
}

impl Default for Tolerance {
    fn default() -> Self {
        let five_minutes = Duration::from_secs(300);
        Self {
            past: five_minutes,
            future: five_minutes,
        }
    }
}

/// Why a request was not believed. The text is for the log: whoever forges requests should not
/// learn from the answer how far they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A header field that has to be there is not.
    Absent(&'static str),
    /// No sender that follows the scheme writes this.
    Malformed(&'static str),
    /// No signature was made over these bytes with any of the secrets.
    Mismatch,
    /// There is no signature of a version that this scheme verifies.
    NoSignature,
    /// A header field is there more than once: which of them counts would be a guess.
    Repeated(&'static str),
    /// Signed so many seconds after our clock's time.
    TooNew(u64),
    /// Signed so many seconds ago.
    TooOld(u64),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(field) => write!(f, "{field} is absent: is the sender set up to sign?"),
            Self::Malformed(what) => f.write_str(what),
            Self::Mismatch => f.write_str(
                "no signature fits: another endpoint's secret or another kind of secret, \
                 or the body was parsed and written anew on its way",
            ),
            Self::NoSignature => f.write_str("no signature is of a version that is verified here"),
            Self::Repeated(field) => write!(f, "{field} is repeated"),
            Self::TooNew(seconds) => write!(
                f,
                "signed {seconds} s from now: a stale clock here, or a wrong one there"
            ),
            Self::TooOld(seconds) => write!(
                f,
                "signed {seconds} s ago: a replay, a proxy that held it, or a stale clock there"
            ),
        }
    }
}

impl Error for Refusal {}

/// The text is no secret of the scheme. It is not repeated here: it may be almost one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadSecret(&'static str);

impl fmt::Display for BadSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for BadSecret {}

/// The values of these header fields, each there at most once.
fn fields<'h, const N: usize>(
    headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    names: [&'static str; N],
) -> Result<[Option<&'h [u8]>; N], Refusal> {
    let mut found = [None; N];
    for (name, value) in headers {
        let known = names.iter().position(|it| it.eq_ignore_ascii_case(name));
        let Some(at) = known else { continue };
        if found[at].replace(value).is_some() {
            return Err(Refusal::Repeated(names[at]));
        }
    }
    Ok(found)
}

/// The MAC of these parts, one after the other. To compare two of these takes the same time wherever
/// they differ.
type Tag = CtOutput<Hmac<Sha256>>;

/// A key, ready for use: what HMAC does with the key alone is done once and not at each request.
fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

fn mac(keyed: &Hmac<Sha256>, parts: &[&[u8]]) -> Tag {
    let mut mac = keyed.clone();
    for part in parts {
        mac.update(part);
    }
    mac.finalize()
}

/// Canonical decimal digits: no sign, no leading zero, no space. The libraries that parse loosely
/// and print again sign another text than the one that came.
fn timestamp(digits: &[u8]) -> Option<u64> {
    let canonical = digits == b"0" || !digits.starts_with(b"0");
    let plain = canonical && digits.len() <= MAX_DIGITS && digits.iter().all(u8::is_ascii_digit);
    str::from_utf8(digits).ok()?.parse().ok().filter(|_| plain)
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

/// 64 lower-case hexadecimal digits. The libraries compare text, so a capital is another signature.
fn lower_hex(digits: &[u8]) -> Option<Tag> {
    let mut bytes = [0; 32];
    let lower = !digits.iter().any(u8::is_ascii_uppercase);
    hex::decode_to_slice(digits, &mut bytes).ok()?;
    lower.then(|| Tag::new(bytes.into()))
}
