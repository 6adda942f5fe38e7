//! Telegram: the token that was given to `setWebhook`, sent back with each update.
//!
//! Source: <https://core.telegram.org/bots/api#setwebhook>, `secret_token`. Nothing is signed: who reads
//! one request can send any other. TLS is what keeps the token, and the only thing that does.

use std::{fmt, str::FromStr};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{BadSecret, Refusal, Tag, Unverified, Verified, fields};

/// The token.
pub const TOKEN: &str = "x-telegram-bot-api-secret-token";

/// The longest token in bytes.
const MAX_TOKEN: usize = 256;

/// One request whose sender knows the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<B> {
    /// The body, byte for byte. The update's id, to tell a repeat by, is in it: its field `update_id`.
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
    let [token] = fields(headers, [TOKEN])?;
    let token = token.ok_or(Refusal::Absent(TOKEN))?;
    if !is_token(token) {
        return Err(Refusal::Malformed(
            "X-Telegram-Bot-Api-Secret-Token is not 1 to 256 of A-Z a-z 0-9 _ -",
        ));
    }
    let tag = tag(token);
    let fits = |secret: &Secret| secret.0 == tag;
    let secret = secrets.iter().position(fits).ok_or(Refusal::Mismatch)?;
    Ok(Verified(Event { body, secret }))
}

/// Tokens are compared by their MACs: that takes the same time wherever two differ, and does not tell
/// how long the right one is.
fn tag(token: &[u8]) -> Tag {
    let mac = Hmac::<Sha256>::new_from_slice(TOKEN.as_bytes());
    let mac = mac.expect("HMAC takes keys of any length");
    mac.chain_update(token).finalize()
}

fn is_token(token: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=MAX_TOKEN).contains(&token.len()) && token.iter().all(allowed)
}

/// A token, of which only the MAC is kept.
#[derive(Clone)]
pub struct Secret(Tag);

impl FromStr for Secret {
    type Err = BadSecret;

    fn from_str(text: &str) -> Result<Self, BadSecret> {
        if !is_token(text.as_bytes()) {
            return Err(BadSecret(
                "Telegram's secret_token is 1 to 256 of A-Z a-z 0-9 _ -",
            ));
        }
        Ok(Self(tag(text.as_bytes())))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("telegram::Secret")
    }
}
