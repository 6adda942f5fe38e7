//! What a genuine request of each sender is: its event's id, type and payload.

use std::{borrow::Cow, collections::BTreeMap, str::FromStr, time::Duration};

use bytes::Bytes;
use common::{IdempotencyKey, MessageType, Problem};
use hyper::header::{HeaderMap, HeaderName};
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{
    inbox::Arrival,
    verify::{Refusal, Tolerance, Unverified, Verified, github, standard, stripe, telegram},
};

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Standard,
    Stripe,
    GitHub,
    Telegram,
}

/// What each sender's requests are verified with. Those who have none are not received.
#[derive(Debug)]
pub(crate) struct Secrets {
    pub(crate) standard: Vec<standard::Secret>,
    pub(crate) stripe: Vec<stripe::Secret>,
    pub(crate) github: Vec<github::Secret>,
    pub(crate) telegram: Vec<telegram::Secret>,
    /// How old a signed request may be.
    pub(crate) past: Duration,
}

/// Why a request is not taken.
pub(crate) enum Refused {
    /// It may be anybody's.
    NotBelieved(Refusal),
    /// It is genuine, and lacks what its sender's events have.
    Unreadable(&'static str),
}

impl Source {
    pub(crate) const ALL: [Self; 4] = [Self::Standard, Self::Stripe, Self::GitHub, Self::Telegram];

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Standard => "/webhook",
            Self::Stripe => "/webhook/stripe",
            Self::GitHub => "/webhook/github",
            Self::Telegram => "/webhook/telegram",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Stripe => "stripe",
            Self::GitHub => "github",
            Self::Telegram => "telegram",
        }
    }

    /// The largest body that the sender is known to send: what is refused is lost.
    pub(crate) fn max_body(self, max_message: usize) -> usize {
        max_message.max(match self {
            Self::Standard => 0,
            Self::Stripe | Self::Telegram => 1 << 20,
            Self::GitHub => 25 << 20, // documented: beyond it there is no event at all
        })
    }

    pub(crate) fn takes(self, media_type: &str) -> bool {
        let form = self == Self::GitHub && is_form(media_type);
        form || essence(media_type).eq_ignore_ascii_case("application/json")
    }
}

impl Secrets {
    pub(crate) fn open(&self, source: Source) -> bool {
        !match source {
            Source::Standard => self.standard.is_empty(),
            Source::Stripe => self.stripe.is_empty(),
            Source::GitHub => self.github.is_empty(),
            Source::Telegram => self.telegram.is_empty(),
        }
    }

    /// Verifies, and only then reads.
    pub(crate) fn judge(
        &self,
        source: Source,
        headers: &HeaderMap,
        body: Bytes,
        now: u64,
    ) -> Result<Verified<Arrival>, Refused> {
        let (body, past) = (Unverified::new(body), self.past);
        let fields = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()));
        match source {
            Source::Standard => {
                let tolerance = Tolerance { past, future: past };
                standard::verify(body, fields, &self.standard, now, tolerance)
                    .map_err(Refused::NotBelieved)?
                    .and_then(from_standard)
            }
            Source::Stripe => {
                let tolerance = Tolerance {
                    past,
                    ..stripe::TOLERANCE
                };
                stripe::verify(body, fields, &self.stripe, now, tolerance)
                    .map_err(Refused::NotBelieved)?
                    .and_then(from_stripe)
            }
            Source::GitHub => github::verify(body, fields, &self.github)
                .map_err(Refused::NotBelieved)?
                .and_then(|event| from_github(event, headers)),
            Source::Telegram => telegram::verify(body, fields, &self.telegram)
                .map_err(Refused::NotBelieved)?
                .and_then(from_telegram),
        }
    }

    /// Whether it would be believed like that.
    pub(crate) fn check(&self, source: Source, headers: &HeaderMap, body: Bytes, now: u64) -> bool {
        let judged = self.judge(source, headers, body, now);
        !matches!(judged, Err(Refused::NotBelieved(_)))
    }

    /// The same texts, each taken for the other kind of secret: of `whsec_TEXT` Stripe's key is all
    /// and Standard Webhooks' is what TEXT encodes.
    pub(crate) fn misread(&self) -> Self {
        let texts = self.standard.iter().map(standard::Secret::reveal);
        let others = self.stripe.iter().map(|secret| secret.reveal().to_owned());
        let texts: Vec<String> = texts.chain(others).collect();
        let whole = |text: &String| text.as_bytes().to_vec();
        let decoded = |text: &String| {
            text.parse()
                .ok()
                .map(|it: standard::Secret| it.key().to_vec())
        };
        let keys = texts.iter().map(whole);
        let keys: Vec<Vec<u8>> = keys.chain(texts.iter().filter_map(decoded)).collect();
        Self {
            standard: keys.iter().cloned().map(standard::Secret::new).collect(),
            stripe: keys
                .iter()
                .map(|key| stripe::Secret::from_key(key))
                .collect(),
            github: Vec::new(),
            telegram: Vec::new(),
            past: self.past,
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotBelieved(Refusal::Malformed(what)) => Self::bad_request(what),
            Refused::NotBelieved(refusal @ Refusal::Repeated(_)) => Self::bad_request(refusal),
            Refused::NotBelieved(_) => Self::new(hyper::StatusCode::UNAUTHORIZED, "not genuine"),
            Refused::Unreadable(what) => Self::bad_request(what),
        }
    }
}

/// The id is signed. A payload that is not JSON, or has no `type`, is as genuine as any.
fn from_standard(event: standard::Event<Bytes>) -> Result<Arrival, Refused> {
    #[derive(Deserialize)]
    struct Typed<'a> {
        #[serde(borrow)]
        r#type: Cow<'a, str>,
    }
    let typed: Option<Typed<'_>> = serde_json::from_slice(&event.body).ok();
    Ok(Arrival {
        source: Source::Standard,
        id: event.id,
        kind: kind(typed.as_ref().map_or("", |typed| &typed.r#type)),
        payload: event.body,
        digest: None,
        secret: event.secret,
    })
}

/// The id is in the signed body.
fn from_stripe(event: stripe::Event<Bytes>) -> Result<Arrival, Refused> {
    #[derive(Deserialize)]
    struct Object<'a> {
        #[serde(borrow)]
        id: Cow<'a, str>,
        #[serde(borrow)]
        r#type: Option<Cow<'a, str>>,
    }
    let object: Result<Object<'_>, _> = serde_json::from_slice(&event.body);
    let object = object.map_err(|_| Refused::Unreadable("a Stripe event has an id"))?;
    Ok(Arrival {
        source: Source::Stripe,
        id: id(&object.id).ok_or(Refused::Unreadable("the event's id is none"))?,
        kind: kind(object.r#type.as_deref().unwrap_or_default()),
        payload: event.body.clone(),
        digest: None,
        secret: event.secret,
    })
}

/// Id and event come in header fields that are not signed: whoever saw one request can send it again
/// under another id. So the body's digest is kept too, and shows the repeat.
fn from_github(event: github::Event<Bytes>, headers: &HeaderMap) -> Result<Arrival, Refused> {
    #[derive(Deserialize)]
    struct Acted<'a> {
        #[serde(borrow)]
        action: Cow<'a, str>,
    }
    let delivery = one(headers, "x-github-delivery").and_then(id);
    let name = one(headers, "x-github-event");
    let name = name.ok_or(Refused::Unreadable("X-GitHub-Event is not there once"))?;
    let payload = match headers.get(hyper::header::CONTENT_TYPE) {
        Some(value) if is_form(value.to_str().unwrap_or_default()) => {
            form_payload(&event.body).ok_or(Refused::Unreadable("the form has no payload"))?
        }
        _ => event.body.clone(),
    };
    let acted: Option<Acted<'_>> = serde_json::from_slice(&payload).ok();
    let kind = kind(&match acted {
        Some(acted) => format!("{name}.{}", acted.action),
        None => name.to_owned(),
    });
    Ok(Arrival {
        source: Source::GitHub,
        id: delivery.ok_or(Refused::Unreadable("X-GitHub-Delivery is not there once"))?,
        kind,
        payload,
        digest: Some(Sha256::digest(&event.body).into()),
        secret: event.secret,
    })
}

/// The id is in the body, which only the token vouches for. The ids of two bots may be the same: a
/// receiver is for one.
fn from_telegram(event: telegram::Event<Bytes>) -> Result<Arrival, Refused> {
    let update: Result<BTreeMap<Cow<'_, str>, &RawValue>, _> = serde_json::from_slice(&event.body);
    let update = update.map_err(|_| Refused::Unreadable("an update is a JSON object"))?;
    let number = update.get("update_id").map(|id| id.get().parse::<i64>());
    let Some(Ok(number)) = number else {
        return Err(Refused::Unreadable("update_id is not an integer"));
    };
    // There is exactly one other field, and its name is the update's kind.
    let other = update.keys().find(|name| *name != "update_id");
    Ok(Arrival {
        source: Source::Telegram,
        id: number.to_string(),
        kind: kind(other.map_or("", |name| name)),
        payload: event.body.clone(),
        digest: None,
        secret: event.secret,
    })
}

/// A type that is none of ours is no reason to refuse: the sender would only send it again.
fn kind(text: &str) -> MessageType {
    text.parse().unwrap_or_default()
}

fn id(text: &str) -> Option<String> {
    IdempotencyKey::from_str(text).ok().map(|_| text.to_owned())
}

fn one<'h>(headers: &'h HeaderMap, name: &'static str) -> Option<&'h str> {
    let mut values = headers.get_all(HeaderName::from_static(name)).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn essence(media_type: &str) -> &str {
    let essence = media_type.split(';').next();
    essence.unwrap_or_default().trim_ascii()
}

fn is_form(media_type: &str) -> bool {
    essence(media_type).eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

fn form_payload(form: &[u8]) -> Option<Bytes> {
    let mut pairs = url::form_urlencoded::parse(form);
    let (_, payload) = pairs.find(|(name, _)| name == "payload")?;
    Some(payload.into_owned().into())
}
