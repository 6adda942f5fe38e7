//! The four senders that the receiver knows. For each: its path, its limits, how its requests are
//! verified, and where a genuine request holds the event's id, type and payload.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use self::Rejection::Unreadable;
use super::inbox::Arrival;
use crate::verify::{Refusal, Tolerance, Unverified, Verified, github, standard, stripe, telegram};

/// The longest id in bytes.
const MAX_ID: usize = 255;
/// The longest type in bytes.
const MAX_TYPE: usize = 128;
/// The type of an event that names none, or an invalid one.
const DEFAULT_TYPE: &str = "message";

/// A sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Any sender of Standard Webhooks, or Svix.
    Standard,
    /// Stripe.
    Stripe,
    /// GitHub.
    GitHub,
    /// A Telegram bot.
    Telegram,
}

/// The secrets of each source. The receiver refuses a source that has none.
#[derive(Debug, Default)]
pub struct Secrets {
    /// For [`Source::Standard`].
    pub standard: Vec<standard::Secret>,
    /// For [`Source::Stripe`].
    pub stripe: Vec<stripe::Secret>,
    /// For [`Source::GitHub`].
    pub github: Vec<github::Secret>,
    /// For [`Source::Telegram`].
    pub telegram: Vec<telegram::Secret>,
    /// How old a signed request may be.
    pub past: Duration,
}

/// Why a request is rejected. The two cases get different answers: 401 without a reason, or 400 with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// It failed verification: anybody may have sent it.
    #[error(transparent)]
    NotGenuine(#[from] Refusal),
    /// It is genuine, but lacks a part that this source's events have.
    #[error("{0}")]
    Unreadable(&'static str),
}

impl Source {
    /// All sources.
    pub const ALL: [Self; 4] = [Self::Standard, Self::Stripe, Self::GitHub, Self::Telegram];

    /// Where the receiver takes its requests.
    pub fn path(self) -> &'static str {
        match self {
            Self::Standard => "/webhook",
            Self::Stripe => "/webhook/stripe",
            Self::GitHub => "/webhook/github",
            Self::Telegram => "/webhook/telegram",
        }
    }

    /// Its name in the inbox, in topics and in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Stripe => "stripe",
            Self::GitHub => "github",
            Self::Telegram => "telegram",
        }
    }

    /// The header field that proves where a request comes from.
    pub fn proof(self) -> &'static str {
        match self {
            Self::Standard => standard::SIGNATURE,
            Self::Stripe => stripe::SIGNATURE,
            Self::GitHub => github::SIGNATURE,
            Self::Telegram => telegram::TOKEN,
        }
    }

    /// The body limit: `max_message`, or the source's own maximum if that is larger. An event that is too
    /// large would be lost, so the limit must admit everything that the source may send.
    pub fn max_body(self, max_message: usize) -> usize {
        max_message.max(match self {
            Self::Standard => 0,
            Self::Stripe | Self::Telegram => 1 << 20,
            Self::GitHub => 25 << 20, // documented: GitHub creates no event above 25 MB
        })
    }

    /// Whether the source may send this media type. Only GitHub also sends forms.
    pub fn takes(self, media_type: &str) -> bool {
        let form = self == Self::GitHub && is_form(media_type);
        form || essence(media_type).eq_ignore_ascii_case("application/json")
    }
}

impl Secrets {
    /// Whether there is a secret for this source.
    pub fn accepts(&self, source: Source) -> bool {
        !match source {
            Source::Standard => self.standard.is_empty(),
            Source::Stripe => self.stripe.is_empty(),
            Source::GitHub => self.github.is_empty(),
            Source::Telegram => self.telegram.is_empty(),
        }
    }

    /// Verifies a request, and only then reads its event. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// If it is not genuine, or its event cannot be read.
    pub fn verify(
        &self,
        source: Source,
        headers: &HeaderMap,
        body: Bytes,
        now: u64,
    ) -> Result<Verified<Arrival>, Rejection> {
        let (body, past) = (Unverified::new(body), self.past);
        let fields = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()));
        match source {
            Source::Standard => {
                let tolerance = Tolerance { past, future: past };
                standard::verify(body, fields, &self.standard, now, tolerance)?
                    .and_then(from_standard)
            }
            Source::Stripe => {
                let tolerance = Tolerance {
                    past, // the knob sets only the age, see `stripe::TOLERANCE`
                    ..stripe::TOLERANCE
                };
                stripe::verify(body, fields, &self.stripe, now, tolerance)?.and_then(from_stripe)
            }
            Source::GitHub => github::verify(body, fields, &self.github)?
                .and_then(|event| from_github(event, headers)),
            Source::Telegram => {
                telegram::verify(body, fields, &self.telegram)?.and_then(from_telegram)
            }
        }
    }
}

/// The id is signed. The payload need not be JSON or have a `type`: the signature already proves the sender.
fn from_standard(event: standard::Event<Bytes>) -> Result<Arrival, Rejection> {
    let standard::Event {
        id, body, secret, ..
    } = event;
    let named = members(&body).and_then(|members| text(&members, "type"));
    let kind = named.as_deref().unwrap_or_default();
    Ok(arrival(Source::Standard, id, kind, body, secret))
}

/// The id is in the signed body, so a body without one cannot be stored once only: it is refused.
fn from_stripe(event: stripe::Event<Bytes>) -> Result<Arrival, Rejection> {
    let stripe::Event { body, secret, .. } = event;
    let members = members(&body).unwrap_or_default();
    let id = text(&members, "id").ok_or(Unreadable("the Stripe event has no id"))?;
    let kind = text(&members, "type").unwrap_or_default();
    let payload = body.clone();
    Ok(arrival(
        Source::Stripe,
        valid_id(&id)?,
        &kind,
        payload,
        secret,
    ))
}

/// GitHub sends the id and the event's name in header fields that are not signed. An attacker who saw one
/// request can send it again under another id. So the inbox also stores the body's digest, and marks such an
/// event as suspect. It is not refused, because two genuine events may have equal bodies.
fn from_github(event: github::Event<Bytes>, headers: &HeaderMap) -> Result<Arrival, Rejection> {
    let github::Event { body, secret } = event;
    let name = single(headers, "x-github-event")?;
    let id = valid_id(single(headers, "x-github-delivery")?)?;
    let media_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let payload = match media_type.map(str::from_utf8) {
        Some(Ok(value)) if is_form(value) => form_payload(&body)?,
        _ => body.clone(),
    };
    let action = members(&payload).and_then(|members| text(&members, "action"));
    let kind = action.map_or(name.to_owned(), |action| format!("{name}.{action}"));
    Ok(Arrival {
        digest: Some(Sha256::digest(&body).into()),
        ..arrival(Source::GitHub, id, &kind, payload, secret)
    })
}

/// The id is in the body. Each bot has its own ids, and two bots may use the same ones. So one receiver
/// serves one bot.
fn from_telegram(event: telegram::Event<Bytes>) -> Result<Arrival, Rejection> {
    let telegram::Event { body, secret } = event;
    let update = members(&body).ok_or(Unreadable("the update is not a JSON object"))?;
    let number: i64 = update
        .get("update_id")
        .and_then(|id| id.get().parse().ok())
        .ok_or(Unreadable("update_id is not an integer"))?;
    // An update has exactly one other member (Bot API, "Update"). Its name is the type.
    let kind = update.keys().find(|name| *name != "update_id");
    let (id, kind) = (number.to_string(), kind.map_or("", |kind| kind));
    Ok(arrival(Source::Telegram, id, kind, body.clone(), secret))
}

/// Without a digest. Only GitHub needs one: elsewhere the id is part of what is verified.
fn arrival(source: Source, id: String, kind: &str, payload: Bytes, secret: usize) -> Arrival {
    Arrival {
        source,
        id,
        kind: valid_type(kind).to_owned(),
        payload,
        digest: None,
        secret,
    }
}

/// The members of a JSON object. The values are not parsed: usually only one or two are needed.
fn members(json: &[u8]) -> Option<BTreeMap<Cow<'_, str>, &RawValue>> {
    serde_json::from_slice(json).ok()
}

/// A member that is a string.
fn text(members: &BTreeMap<Cow<'_, str>, &RawValue>, name: &str) -> Option<String> {
    serde_json::from_str(members.get(name)?.get()).ok()
}

/// Replaces an invalid type. A refusal would not help: the sender would send the same event again.
fn valid_type(kind: &str) -> &str {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let valid = (1..=MAX_TYPE).contains(&kind.len()) && kind.bytes().all(allowed);
    if valid { kind } else { DEFAULT_TYPE }
}

/// An id is 1 to 255 visible ASCII bytes, so that it can also serve as an `Idempotency-Key`.
fn valid_id(text: &str) -> Result<String, Rejection> {
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    if visible && (1..=MAX_ID).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    Err(Unreadable(
        "the event's id is not 1 to 255 visible ASCII bytes",
    ))
}

/// The value of a field that occurs exactly once.
fn single<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<&'h str, Rejection> {
    let mut values = headers.get_all(HeaderName::from_static(name)).iter();
    match (values.next().map(HeaderValue::to_str), values.next()) {
        (Some(Ok(value)), None) => Ok(value),
        _ => Err(Unreadable(
            "X-GitHub-Event and X-GitHub-Delivery must occur once",
        )),
    }
}

/// The media type without parameters such as `charset`.
fn essence(media_type: &str) -> &str {
    let essence = media_type.split(';').next();
    essence.unwrap_or_default().trim_ascii()
}

fn is_form(media_type: &str) -> bool {
    essence(media_type).eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// The JSON in a form. It is taken out after the verification, because the signature covers the form.
fn form_payload(form: &[u8]) -> Result<Bytes, Rejection> {
    let mut pairs = url::form_urlencoded::parse(form);
    let payload = pairs.find(|(name, _)| name == "payload");
    let (_, payload) = payload.ok_or(Unreadable("the form has no field payload"))?;
    Ok(payload.into_owned().into())
}
