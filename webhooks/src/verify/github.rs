//! GitHub: HMAC-SHA256 over the body, as hexadecimal digits.
//!
//! Source: <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>. There is
//! no time in it: a request that was seen once can be sent again for ever. The delivery's id and the
//! event's name are in header fields that are *not* signed. The older `X-Hub-Signature`, of SHA-1, is
//! not looked at.

use std::{fmt, str::FromStr};

use hmac::Hmac;
use sha2::Sha256;

use super::{BadSecret, Refusal, Unverified, Verified, fields, keyed, lower_hex, mac};

/// `sha256=HEX`.
pub const SIGNATURE: &str = "x-hub-signature-256";

/// One request that was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<B> {
    /// The body, byte for byte: JSON, or a form whose field `payload` is JSON.
    pub body: B,
    /// Which of the secrets fits, counted from 0.
    pub secret: usize,
}

/// Verifies one request.
///
/// # Errors
/// See [`Refusal`].
pub fn verify<'h, B: AsRef<[u8]>>(
    body: Unverified<B>,
    headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    secrets: &[Secret],
) -> Result<Verified<Event<B>>, Refusal> {
    let Unverified(body) = body;
    let [field] = fields(headers, [SIGNATURE])?;
    let field = field.ok_or(Refusal::Absent(SIGNATURE))?;
    let digits = field.strip_prefix(b"sha256=");
    let signature = digits.and_then(lower_hex).ok_or(Refusal::Malformed(
        "X-Hub-Signature-256 is not sha256= and 64 lower-case hexadecimal digits",
    ))?;
    let fits = |secret: &Secret| mac(&secret.0, &[body.as_ref()]) == signature;
    let secret = secrets.iter().position(fits).ok_or(Refusal::Mismatch)?;
    Ok(Verified(Event { body, secret }))
}

/// The key as it was typed into GitHub: any text of one line.
#[derive(Clone)]
pub struct Secret(Hmac<Sha256>);

impl FromStr for Secret {
    type Err = BadSecret;

    fn from_str(text: &str) -> Result<Self, BadSecret> {
        if text.is_empty() {
            return Err(BadSecret("GitHub's secret is empty"));
        }
        if text.contains(['\r', '\n']) {
            return Err(BadSecret(
                "GitHub's secret is one line, and this has a break",
            ));
        }
        Ok(Self(keyed(text.as_bytes())))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("github::Secret")
    }
}
