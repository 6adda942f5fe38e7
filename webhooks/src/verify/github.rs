//! GitHub: HMAC-SHA256 over the body, as hexadecimal digits.
//!
//! Source: <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>. The scheme
//! has no timestamp: an attacker who saw one request can repeat it forever. The delivery's id and the
//! event's name come in header fields that are *not* signed. The older SHA-1 field, `X-Hub-Signature`,
//! is ignored.
//!
//! ```
//! use webhooks::verify::{Unverified, github};
//!
//! let secrets: [github::Secret; 1] = ["It's a Secret to Everybody".parse()?];
//! let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
//! let headers = [(github::SIGNATURE, signature.as_bytes())];
//! let event = github::verify(Unverified::new("Hello, World!"), headers, &secrets)?;
//! assert_eq!(event.body, "Hello, World!");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::str::FromStr;

use super::{
    Authentic, BadSecret, Key, Refusal, Unverified, Verified, authenticate, fields, hex_tag,
};

/// `sha256=HEX`.
pub const SIGNATURE: &str = "x-hub-signature-256";

/// Verifies one request. Its body is JSON, or a form whose field `payload` is JSON.
///
/// # Errors
/// See [`Refusal`].
pub fn verify<'h, B: AsRef<[u8]>>(
    body: Unverified<B>,
    headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    secrets: &[Secret],
) -> Result<Verified<Authentic<B>>, Refusal> {
    let [field] = fields(headers, [SIGNATURE])?;
    let digits = field
        .ok_or(Refusal::Absent(SIGNATURE))?
        .strip_prefix(b"sha256=");
    let signature = digits.and_then(hex_tag).ok_or(Refusal::Malformed(
        "X-Hub-Signature-256 is not sha256= and 64 lower-case hexadecimal digits",
    ))?;
    authenticate(body, &[], &[signature], secrets.iter().map(|it| &it.0))
}

/// The key as the user typed it into GitHub: any text on one line. A line break cannot be typed there, so it
/// is a mistake.
#[derive(Debug, Clone)]
pub struct Secret(Key);

impl FromStr for Secret {
    type Err = BadSecret;

    fn from_str(text: &str) -> Result<Self, BadSecret> {
        if text.trim().is_empty() {
            return Err(BadSecret("GitHub's secret is empty"));
        }
        if text.contains(['\r', '\n']) {
            return Err(BadSecret("GitHub's secret must be a single line"));
        }
        Ok(Self(Key::new(text)))
    }
}
