//! From bytes that anybody may have sent to an event that a known sender has signed.
//!
//! Each scheme is a pure function over the body's bytes, the header fields, the secrets and the
//! time. It takes [`Unverified`] and gives [`Verified`], and only a scheme can make the one from
//! the other: code that asks for a `Verified<Event>` cannot be handed bytes that nobody checked.
//! These files depend on the crates for HMAC, SHA-2 and base64 alone; take them as they are.

use std::{
    fmt,
    ops::Deref,
    time::{Duration, SystemTime},
};

pub mod standard;

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
            Self::TooNew(seconds) => {
                write!(
                    f,
                    "signed {seconds} s from now: is one of the clocks wrong?"
                )
            }
            Self::TooOld(seconds) => write!(
                f,
                "signed {seconds} s ago: a replay, a proxy that held it, or a wrong clock"
            ),
        }
    }
}

impl std::error::Error for Refusal {}
