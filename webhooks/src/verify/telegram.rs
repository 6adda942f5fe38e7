//! Telegram: the token that was given to `setWebhook`. Telegram sends it back with each update.
//!
//! Source: <https://core.telegram.org/bots/api#setwebhook>, `secret_token`. Nothing is signed: an
//! attacker who reads one request can send any other. Only TLS protects the token.
//!
//! ```
//! use webhooks::verify::{Refusal, Unverified, telegram};
//!
//! let secrets: [telegram::Secret; 1] = ["a-token".parse()?];
//! let verify = |token: &str| {
//!     let headers = [(telegram::TOKEN, token.as_bytes())];
//!     telegram::verify(Unverified::new("{}"), headers, &secrets)
//! };
//! assert!(verify("a-token").is_ok());
//! assert_eq!(verify("a-guess"), Err(Refusal::Mismatch));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::str::FromStr;

use super::{Authentic, BadSecret, Key, Refusal, Unverified, Verified, fields};

/// The header field with the token.
pub const TOKEN: &str = "x-telegram-bot-api-secret-token";

/// The longest token in bytes.
const MAX_TOKEN: usize = 256;

/// Verifies one request. The field `update_id` in its body identifies a repeat.
///
/// # Errors
/// See [`Refusal`].
pub fn verify<'h, B: AsRef<[u8]>>(
    body: Unverified<B>,
    headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    secrets: &[Secret],
) -> Result<Verified<Authentic<B>>, Refusal> {
    let Unverified(body) = body;
    let [field] = fields(headers, [TOKEN])?;
    let token = field.ok_or(Refusal::Absent(TOKEN))?;
    if !is_token(token) {
        return Err(Refusal::Malformed(
            "X-Telegram-Bot-Api-Secret-Token is not 1 to 256 of A-Z a-z 0-9 _ -",
        ));
    }
    // Two tokens are compared by a MAC that each is the key of. That takes the same time wherever they differ, and
    // does not reveal the length of the right one.
    let claimed = Key::new(token).mac(&[]);
    let secret = secrets
        .iter()
        .position(|secret| secret.0.mac(&[]) == claimed)
        .ok_or(Refusal::Mismatch)?;
    Ok(Verified(Authentic { body, secret }))
}

fn is_token(token: &[u8]) -> bool {
    let valid = token
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(byte));
    valid && (1..=MAX_TOKEN).contains(&token.len())
}

/// A token.
#[derive(Debug, Clone)]
pub struct Secret(Key);

impl FromStr for Secret {
    type Err = BadSecret;

    fn from_str(text: &str) -> Result<Self, BadSecret> {
        if !is_token(text.as_bytes()) {
            return Err(BadSecret(
                "Telegram's secret_token is 1 to 256 of A-Z a-z 0-9 _ -",
            ));
        }
        Ok(Self(Key::new(text)))
    }
}
