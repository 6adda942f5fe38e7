//! The four senders that the receiver knows. For each: its path, how its requests are verified, and where a
//! genuine request holds the event's id, type and payload.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use bytes::Bytes;
use hyper::{
    StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap},
};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use self::Rejection::{Unreadable, Unsupported};
use super::inbox::{Arrival, StoreError};
use crate::verify::{
    Authentic, Refusal, Tolerance, Unverified, Verified, github, standard, stripe, telegram,
};

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
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    /// For [`Source::Standard`].
    pub standard: Vec<standard::Secret>,
    /// For [`Source::Stripe`].
    pub stripe: Vec<stripe::Secret>,
    /// For [`Source::GitHub`].
    pub github: Vec<github::Secret>,
    /// For [`Source::Telegram`].
    pub telegram: Vec<telegram::Secret>,
    /// How old a signed request may be. `None`: 300 s.
    pub past: Option<Duration>,
    /// How far the signed time may be ahead of our clock. `None`: 300 s with Standard Webhooks, and any time
    /// with Stripe, as in its own libraries.
    pub future: Option<Duration>,
}

/// Why a webhook is not acknowledged. [`Rejection::status`] is the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// It failed verification: anybody may have sent it. The sender does not learn the reason.
    #[error(transparent)]
    NotGenuine(#[from] Refusal),
    /// It is genuine, but lacks a part that this source's events have.
    #[error("{0}")]
    Unreadable(&'static str),
    /// It is genuine, but its body is of another type or is compressed.
    #[error("{0}")]
    Unsupported(&'static str),
    /// It is genuine, but the inbox did not store it.
    #[error(transparent)]
    NotStored(#[from] StoreError),
}

impl Rejection {
    /// The kind of rejection, in one word for programs.
    pub fn class(&self) -> &'static str {
        match self {
            Self::NotGenuine(Refusal::Absent(_)) => "absent",
            Self::NotGenuine(Refusal::Malformed(_) | Refusal::Repeated(_)) => "malformed",
            Self::NotGenuine(Refusal::Mismatch | Refusal::NoSignature) => "mismatch",
            Self::NotGenuine(Refusal::TooNew(_)) => "too_new",
            Self::NotGenuine(Refusal::TooOld(_)) => "too_old",
            Self::Unreadable(_) | Self::Unsupported(_) => "unreadable",
            Self::NotStored(_) => "not_stored",
        }
    }

    /// The status to answer. 400 and 415 are only for mistakes whose reason tells an attacker nothing; other
    /// failed checks are all 401. 503 makes the sender try again.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotStored(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreadable(_)
            | Self::NotGenuine(Refusal::Malformed(_) | Refusal::Repeated(_)) => {
                StatusCode::BAD_REQUEST
            }
            Self::Unsupported(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotGenuine(_) => StatusCode::UNAUTHORIZED,
        }
    }
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

    /// The header field among `headers` that may prove that this source sent them.
    pub fn proof_in(self, headers: &HeaderMap) -> Option<&'static str> {
        let fields: &[&str] = match self {
            Self::Standard => &[standard::SIGNATURE, standard::SVIX_SIGNATURE],
            Self::Stripe => &[stripe::SIGNATURE],
            Self::GitHub => &[github::SIGNATURE],
            Self::Telegram => &[telegram::TOKEN],
        };
        fields.iter().copied().find(|it| headers.contains_key(*it))
    }

    /// Whether a body with these fields can be read: JSON of any kind, from GitHub also a form, and never
    /// compressed. The compressed bytes would be stored.
    ///
    /// # Errors
    /// [`Rejection::Unsupported`].
    pub fn check_type(self, headers: &HeaderMap) -> Result<(), Rejection> {
        let kind = media_type(headers);
        let is_form = self == Self::GitHub && kind == FORM;
        if !is_form && !is_json(&kind) {
            return Err(Unsupported("Content-Type is not application/json"));
        }
        let fields = headers.get_all(CONTENT_ENCODING).iter();
        let mut encodings = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
        if encodings.any(is_encoded) {
            return Err(Unsupported("a body with a Content-Encoding is refused"));
        }
        Ok(())
    }
}

impl Secrets {
    /// The sources that have a secret.
    pub fn enabled(&self) -> impl Iterator<Item = Source> {
        Source::ALL
            .into_iter()
            .filter(|source| self.accepts(*source))
    }

    /// Whether there is a secret for this source.
    pub fn accepts(&self, source: Source) -> bool {
        let is_empty = match source {
            Source::Standard => self.standard.is_empty(),
            Source::Stripe => self.stripe.is_empty(),
            Source::GitHub => self.github.is_empty(),
            Source::Telegram => self.telegram.is_empty(),
        };
        !is_empty
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
        let body = Unverified::new(body);
        let fields = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()));
        let arrival = match source {
            Source::Standard => {
                let tolerance = self.tolerance(Tolerance::default());
                standard::verify(body, fields, &self.standard, now, tolerance)?
                    .and_then(from_standard)
            }
            Source::Stripe => {
                let tolerance = self.tolerance(stripe::TOLERANCE);
                stripe::verify(body, fields, &self.stripe, now, tolerance)?.and_then(from_stripe)
            }
            Source::GitHub => github::verify(body, fields, &self.github)?
                .and_then(|event| from_github(event, headers)),
            Source::Telegram => {
                telegram::verify(body, fields, &self.telegram)?.and_then(from_telegram)
            }
        };
        // After the verification, so that a genuine request of another type is told apart in the log.
        source.check_type(headers).and(arrival)
    }

    fn tolerance(&self, default: Tolerance) -> Tolerance {
        Tolerance {
            past: self.past.unwrap_or(default.past),
            future: self.future.unwrap_or(default.future),
        }
    }
}

/// The id is signed. The payload need not be JSON or have a `type`: the signature already proves the sender.
fn from_standard(event: standard::Event<Bytes>) -> Result<Arrival, Rejection> {
    let standard::Event { id, body, .. } = event;
    let members = members(&body);
    let kind = members.and_then(|members| text(&members, "type"));
    arrival(Source::Standard, id, kind, body.clone(), event.secret)
}

/// The id is in the signed body, so a body without one cannot be stored once only: it is refused.
fn from_stripe(event: stripe::Event<Bytes>) -> Result<Arrival, Rejection> {
    let stripe::Event { body, secret, .. } = event;
    let event = members(&body).ok_or(Unreadable("the Stripe event is not a JSON object"))?;
    let id = text(&event, "id").ok_or(Unreadable("the Stripe event has no id"))?;
    let mut content = Sha256::new();
    for (name, value) in &event {
        // Stripe counts it down from one attempt to the next.
        if name != "pending_webhooks" {
            content.update(name.as_bytes());
            content.update(value.get());
        }
    }
    let kind = text(&event, "type");
    Ok(Arrival {
        digest: content.finalize().into(),
        ..arrival(Source::Stripe, id, kind, body.clone(), secret)?
    })
}

/// GitHub sends the id and the event's name in header fields that are not signed. An attacker who saw one
/// request can send it again under another id, so the inbox compares the content too.
fn from_github(event: Authentic<Bytes>, headers: &HeaderMap) -> Result<Arrival, Rejection> {
    let Authentic { body, secret } = event;
    let [name, id] = ["x-github-event", "x-github-delivery"].map(|field| single(headers, field));
    let (name, id) = name.zip(id).ok_or(Unreadable(
        "X-GitHub-Event and X-GitHub-Delivery must occur once",
    ))?;
    let payload = match media_type(headers).as_str() {
        FORM => form_payload(&body)?,
        _ => body,
    };
    let action = members(&payload).and_then(|members| text(&members, "action"));
    let kind = action.map_or(name.to_owned(), |action| format!("{name}.{action}"));
    arrival(Source::GitHub, id.to_owned(), Some(kind), payload, secret)
}

/// The id is in the body. Each bot has its own ids, and two bots may use the same ones. So one receiver
/// serves one bot.
fn from_telegram(event: Authentic<Bytes>) -> Result<Arrival, Rejection> {
    let Authentic { body, secret } = event;
    let update = members(&body).ok_or(Unreadable("the update is not a JSON object"))?;
    let number: i64 = update
        .get("update_id")
        .and_then(|id| id.get().parse().ok())
        .ok_or(Unreadable("update_id is not an integer"))?;
    // An update has exactly one other member (Bot API, "Update"). Its name is the type.
    let mut names = update.into_keys();
    let kind = names.find(|name| name != "update_id").map(Cow::into_owned);
    let id = number.to_string();
    arrival(Source::Telegram, id, kind, body.clone(), secret)
}

/// An id is 1 to 255 visible ASCII bytes, so that it can also serve as an `Idempotency-Key`. An invalid type is
/// replaced, because a refusal would not help: the sender would send the same event again.
fn arrival(
    source: Source,
    id: String,
    kind: Option<String>,
    payload: Bytes,
    secret: usize,
) -> Result<Arrival, Rejection> {
    if !(1..=MAX_ID).contains(&id.len()) || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Unreadable(
            "the event's id is not 1 to 255 visible ASCII bytes",
        ));
    }
    Ok(Arrival {
        source,
        id,
        kind: kind
            .filter(|kind| is_type(kind))
            .unwrap_or(DEFAULT_TYPE.to_owned()),
        digest: Sha256::digest(&payload).into(),
        payload,
        secret,
    })
}

/// The members of a JSON object. The values are not parsed: usually only one or two are needed.
fn members(json: &[u8]) -> Option<BTreeMap<Cow<'_, str>, &RawValue>> {
    serde_json::from_slice(json).ok()
}

/// A member that is a string.
fn text(members: &BTreeMap<Cow<'_, str>, &RawValue>, name: &str) -> Option<String> {
    serde_json::from_str(members.get(name)?.get()).ok()
}

fn is_type(kind: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_TYPE).contains(&kind.len()) && kind.bytes().all(valid)
}

/// The value of a field that occurs exactly once, and is text.
fn single<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none());
    value?.to_str().ok()
}

/// What GitHub sends unless it is told to send JSON.
const FORM: &str = "application/x-www-form-urlencoded";

/// In lower case, and without parameters such as `charset`. Empty if there is none, or more than one.
fn media_type(headers: &HeaderMap) -> String {
    let text = single(headers, CONTENT_TYPE.as_str()).unwrap_or_default();
    let (essence, _) = text.split_once(';').unwrap_or((text, ""));
    essence.trim_ascii().to_ascii_lowercase()
}

/// Also what is JSON by its suffix (RFC 6839 §3.1), such as `application/cloudevents+json`.
fn is_json(media_type: &str) -> bool {
    media_type == "application/json" || media_type.contains('/') && media_type.ends_with("+json")
}

/// Whether this item of `Content-Encoding` changes the body. An empty item counts as none (RFC 9110 §5.6.1).
fn is_encoded(encoding: &[u8]) -> bool {
    let encoding = encoding.trim_ascii();
    !encoding.is_empty() && !encoding.eq_ignore_ascii_case(b"identity")
}

/// The JSON in a form. It is taken out after the verification, because the signature covers the form.
fn form_payload(form: &[u8]) -> Result<Bytes, Rejection> {
    let mut pairs = url::form_urlencoded::parse(form);
    let payload = pairs.find(|(name, _)| name == "payload");
    let (_, payload) = payload.ok_or(Unreadable("the form has no field payload"))?;
    Ok(payload.into_owned().into())
}
