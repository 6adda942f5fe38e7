//! One endpoint: its URL and topics, how it is registered and changed, and how it is shown.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Display,
    mem,
    ops::Not,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use common::{Cursor, Epoch, Message, MessageType, Problem, Topic, Topics};
use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::{Map, Value, value::RawValue};
use url::Url;

use super::{
    deliver::{Failure, Outcome},
    ledger::{CONCURRENCY, Health},
    store::{Dead, Saved, rfc3339, to_json},
};
use crate::verify::standard::Secret;

/// The longest URL in bytes, in its normal form: a space is `%20`.
const MAX_URL: usize = 2_048;
/// The most message types of one endpoint.
const MAX_TYPES: usize = 64;
/// The most header fields of one endpoint.
const MAX_FIELDS: usize = 16;
/// The most bytes of all header fields, names and values together.
const MAX_FIELD_BYTES: usize = 4_096;
/// The longest time limit of an attempt, in seconds.
const MAX_TIMEOUT: u64 = 30;
/// How many attempts are remembered. The newest ones.
const ATTEMPTS: usize = 100;
/// How many of these attempts keep the endpoint's answer, to save memory. The newest ones.
const ANSWERS: usize = 16;

/// Fields that an endpoint cannot set: the sender or the connection decides them.
const RESERVED: [&str; 15] = [
    "accept",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
];

/// A registered endpoint. A change makes a new one.
pub(crate) struct Endpoint {
    /// Its number in the store.
    pub(crate) number: i64,
    /// `ep_` and 16 hexadecimal digits.
    pub(crate) id: String,
    pub(crate) target: Target,
    /// Newest first. Each older one has a time until which it signs.
    secrets: Vec<(Secret, Option<SystemTime>)>,
    status: Mutex<Status>,
    attempts: Arc<Mutex<Attempts>>,
}

/// The newest attempts of an endpoint, oldest first. They survive a change of it, but not the process.
type Attempts = VecDeque<AttemptView>;

/// What the endpoint's loop reports.
#[derive(Serialize)]
pub(crate) struct Status {
    /// Everything up to here was claimed from the feed.
    #[serde(serialize_with = "as_text")]
    pub(crate) after: Cursor,
    /// Everything up to here is in the store: delivered, dead or with a row.
    #[serde(skip)]
    pub(crate) settled: u64,
    /// Attempts that are in flight or not recorded yet.
    pub(crate) in_flight: usize,
    /// Deliveries that wait for their next attempt.
    pub(crate) waiting: usize,
    /// When the next of them is due. This is in the past while it waits for a slot.
    #[serde(serialize_with = "rfc3339")]
    pub(crate) oldest_due: Option<SystemTime>,
    pub(crate) delivered: u64,
    pub(crate) dead: u64,
    pub(crate) last_error: Option<String>,
    /// Set while it is not called.
    pub(crate) disabled: Option<Disabled>,
}

/// Since when and why an endpoint is not called.
#[derive(Clone, Serialize)]
pub(crate) struct Disabled {
    #[serde(serialize_with = "rfc3339")]
    pub(crate) since: SystemTime,
    pub(crate) reason: String,
    /// Since when its backlog is not kept any more.
    #[serde(serialize_with = "rfc3339")]
    pub(crate) expired: Option<SystemTime>,
}

impl Disabled {
    /// `None` if the endpoint is called.
    pub(crate) fn of(health: &Health) -> Option<Self> {
        match health.clone() {
            Health::Disabled {
                since,
                reason,
                expired,
            } => Some(Self {
                since,
                reason,
                expired,
            }),
            _ => None,
        }
    }
}

impl Endpoint {
    /// The endpoint as it was saved, in a feed of this epoch.
    pub(crate) fn restore(
        saved: &Saved,
        epoch: Epoch,
        before: Option<&Self>,
    ) -> Result<Self, Problem> {
        let secret = |(secret, until): &(String, _)| {
            let secret: Secret = secret.parse().map_err(invalid("secret"))?;
            Ok((secret, *until))
        };
        let secrets = saved.secrets.iter().map(secret);
        let position = &saved.state.position;
        let registration: Registration =
            serde_json::from_str(&saved.target).map_err(invalid("target"))?;
        let attempts = before.map(|before| before.attempts.clone());
        Ok(Self {
            number: saved.endpoint,
            id: saved.id.clone(),
            target: registration.check()?,
            secrets: secrets.collect::<Result<_, Problem>>()?,
            status: Mutex::new(Status {
                after: Cursor {
                    epoch,
                    seq: position.claimed,
                },
                settled: position.settled(),
                in_flight: 0,
                waiting: 0,
                oldest_due: None,
                delivered: saved.delivered,
                dead: saved.dead,
                last_error: saved.last_error.clone(),
                disabled: Disabled::of(&saved.state.health),
            }),
            attempts: attempts.unwrap_or_default(),
        })
    }

    pub(crate) fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().expect(UNPOISONED)
    }

    /// The secrets that sign at this time, newest first.
    pub(crate) fn secrets(&self, now: SystemTime) -> Vec<Secret> {
        let signs = |until: &Option<SystemTime>| until.is_none_or(|until| now < until);
        let signing = self.secrets.iter().filter(|(_, until)| signs(until));
        signing.map(|(secret, _)| secret.clone()).collect()
    }

    /// The newest secret.
    pub(crate) fn secret(&self) -> Option<String> {
        self.secrets.first().map(|(secret, _)| secret.reveal())
    }

    /// Adds an attempt to the list.
    pub(crate) fn remember(&self, attempt: AttemptView) {
        let mut attempts = self.attempts.lock().expect(UNPOISONED);
        if attempts.len() == ATTEMPTS {
            attempts.pop_front();
        }
        attempts.push_back(attempt);
        if let Some(older) = attempts.len().checked_sub(ANSWERS + 1) {
            attempts[older].answer.clear();
            attempts[older].answer.shrink_to_fit();
        }
    }

    /// The endpoint as JSON. It contains a secret only if the caller passes one: after a registration or a
    /// rotation.
    pub(crate) fn to_json(&self, secret: Option<String>) -> String {
        let mut registration = self.target.registration.clone();
        let headers = mem::take(&mut registration.headers);
        to_json(&View {
            id: &self.id,
            registration,
            headers: headers.into_keys().collect(),
            secret,
            status: &self.status(),
        })
    }

    /// The last attempts, dead deliveries and gaps, each oldest first.
    pub(crate) fn deliveries_json(&self, dead: Vec<Dead>, gaps: Vec<String>) -> String {
        let gap = |gap| RawValue::from_string(gap).expect("a gap is JSON");
        to_json(&Deliveries {
            attempts: &self.attempts.lock().expect(UNPOISONED),
            dead,
            gaps: gaps.into_iter().map(gap).collect(),
        })
    }
}

const UNPOISONED: &str = "nothing panics under this lock";

#[derive(Serialize)]
struct View<'a> {
    id: &'a str,
    /// Without its `headers`.
    #[serde(flatten)]
    registration: Registration,
    /// Only the names: a value may be a password.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(flatten)]
    status: &'a Status,
}

#[derive(Serialize)]
struct Deliveries<'a> {
    attempts: &'a Attempts,
    dead: Vec<Dead>,
    /// See [`common::Gap`].
    gaps: Vec<Box<RawValue>>,
}

/// One attempt, as it is shown.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct AttemptView {
    /// The message's id, which is the delivery's `webhook-id`.
    pub(crate) id: String,
    /// The number of this attempt at the message. The first one is 1.
    pub(crate) attempt: u32,
    #[serde(serialize_with = "rfc3339")]
    pub(crate) at: SystemTime,
    #[serde(rename = "duration_ms", serialize_with = "whole_millis")]
    pub(crate) duration: Duration,
    pub(crate) remote: Option<String>,
    pub(crate) status: Option<u16>,
    /// The failure's class.
    pub(crate) error: Option<&'static str>,
    #[serde(rename = "next_attempt", serialize_with = "rfc3339")]
    pub(crate) next: Option<SystemTime>,
    /// The beginning of the answer's body.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) answer: String,
}

impl AttemptView {
    pub(crate) fn new(id: &str, attempt: u32, outcome: &Outcome, next: Option<SystemTime>) -> Self {
        Self {
            id: id.to_owned(),
            attempt,
            at: outcome.at,
            duration: outcome.duration,
            remote: outcome.remote.map(|remote| remote.to_string()),
            status: outcome.status().map(|status| status.as_u16()),
            error: outcome.result.as_ref().err().map(Failure::class),
            next,
            answer: outcome.answer.clone(),
        }
    }
}

fn as_text<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn whole_millis<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(time.as_millis() as u64)
}

/// What a client sends to register an endpoint. Everything except the secret is stored as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registration {
    pub(crate) url: String,
    #[serde(deserialize_with = "lists")]
    topics: Vec<String>,
    /// Only messages of these types. `None` is all types.
    #[serde(default, deserialize_with = "lists")]
    types: Option<Vec<String>>,
    /// Header fields that every request carries.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    /// The time limit of an attempt, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<u64>,
    /// The most attempts at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) concurrency: Option<usize>,
    /// One message at a time, in the order of the feed.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub(crate) ordered: bool,
    #[serde(skip_serializing)]
    pub(crate) secret: Option<String>,
}

/// serde's error does not name the field.
fn lists<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    T::deserialize(from)
        .map_err(|error| D::Error::custom(format!("topics and types are lists: {error}")))
}

/// A registration that was checked.
pub(crate) struct Target {
    pub(crate) url: Url,
    pub(crate) topics: Topics,
    types: Option<Vec<MessageType>>,
    pub(crate) fields: HeaderMap,
    /// What it was checked from, to store and to show it.
    pub(crate) registration: Registration,
}

impl Registration {
    /// Checks the form of every field. The guard checks where the URL leads.
    pub(crate) fn check(mut self) -> Result<Target, Problem> {
        let url = parse_url(&self.url)?;
        self.url = url.to_string();
        let topics: Result<Vec<Topic>, _> = self.topics.iter().map(|topic| topic.parse()).collect();
        let topics = Topics::try_from(topics.map_err(invalid("topics"))?);
        let topics = topics.map_err(invalid("topics"))?;
        self.topics = topics.iter().map(Topic::to_string).collect();
        check_range("timeout", self.timeout, MAX_TIMEOUT)?;
        check_range("concurrency", self.concurrency, CONCURRENCY)?;
        Ok(Target {
            url,
            topics,
            types: self.types.as_deref().map(parse_types).transpose()?,
            fields: parse_fields(&self.headers)?,
            registration: self,
        })
    }
}

impl Target {
    /// The target with these changes. A field that they leave out stays. `null` sets the default.
    pub(crate) fn changed(&self, changes: Map<String, Value>) -> Result<Self, Problem> {
        let mut registration: Map<String, Value> =
            serde_json::from_str(&self.to_text()).expect("a registration is an object");
        for (field, value) in changes {
            match value {
                Value::Null => registration.remove(&field),
                value => registration.insert(field, value),
            };
        }
        if registration.contains_key("secret") {
            return Err(invalid(NO_CHANGE)(
                "POST /endpoints/{id}/rotate changes the secret",
            ));
        }
        let changed: Registration =
            serde_json::from_value(Value::Object(registration)).map_err(invalid(NO_CHANGE))?;
        changed.check()
    }

    /// The JSON that is stored.
    pub(crate) fn to_text(&self) -> String {
        to_json(&self.registration)
    }

    /// Whether the endpoint wants messages of this type.
    pub(crate) fn wants(&self, message: &Message) -> bool {
        let types = self.types.as_ref();
        types.is_none_or(|types| types.contains(&message.kind))
    }
}

/// How the error of an invalid change begins.
pub(crate) const NO_CHANGE: &str = "the body is no change";

fn parse_url(url: &str) -> Result<Url, Problem> {
    let url = Url::parse(url).map_err(invalid("url"))?;
    match url.as_str().len() > MAX_URL {
        true => Err(Problem::bad_request(format!("url: over {MAX_URL} bytes"))),
        false => Ok(url),
    }
}

fn parse_types(types: &[String]) -> Result<Vec<MessageType>, Problem> {
    if types.is_empty() {
        return Err(invalid("types")("none is named; leave it out for all"));
    }
    if types.len() > MAX_TYPES {
        return Err(Problem::bad_request(format!("types: over {MAX_TYPES}")));
    }
    let types = types.iter().map(|name| name.parse());
    types.collect::<Result<_, _>>().map_err(invalid("types"))
}

/// Never repeats a value in an error, because it may be a password.
fn parse_fields(headers: &BTreeMap<String, String>) -> Result<HeaderMap, Problem> {
    let refused = |name: &str, why| Problem::bad_request(format!("headers: {name:.100} {why}"));
    let bytes = headers.iter().map(|(name, value)| name.len() + value.len());
    if headers.len() > MAX_FIELDS || bytes.sum::<usize>() > MAX_FIELD_BYTES {
        let limit = format!("headers: over {MAX_FIELDS} fields or {MAX_FIELD_BYTES} bytes");
        return Err(Problem::bad_request(limit));
    }
    let mut fields = HeaderMap::new();
    for (text, value) in headers {
        let name: HeaderName = text
            .parse()
            .map_err(|_| refused(text, "is no field name"))?;
        if RESERVED.contains(&name.as_str()) || name.as_str().starts_with("webhook-") {
            return Err(refused(text, "is the sender's own"));
        }
        let mut value =
            HeaderValue::from_str(value).map_err(|_| refused(text, "has no valid value"))?;
        value.set_sensitive(true);
        if fields.insert(name, value).is_some() {
            return Err(refused(text, "is repeated"));
        }
    }
    Ok(fields)
}

fn check_range<T: PartialOrd + From<u8> + Display>(
    field: &str,
    value: Option<T>,
    max: T,
) -> Result<(), Problem> {
    match value {
        Some(value) if value < T::from(1) || value > max => {
            Err(Problem::bad_request(format!("{field}: not 1 to {max}")))
        }
        _ => Ok(()),
    }
}

/// A new endpoint, for the store. It gets the messages after `claimed`.
pub(crate) fn new_endpoint(target: &Target, secret: &Secret, claimed: u64) -> Saved {
    let mut new = Saved {
        id: format!("ep_{:016x}", rand::random::<u64>()),
        target: target.to_text(),
        secrets: vec![(secret.reveal(), None)],
        ..Saved::default()
    };
    new.state.position.claimed = claimed;
    new
}

/// The given secret, or one of 32 random bytes.
pub(crate) fn new_secret(given: Option<String>) -> Result<Secret, Problem> {
    let secret: Secret = match given {
        None => Secret::from_key(rand::random::<[u8; 32]>()),
        Some(secret) => secret.parse().map_err(invalid("secret"))?,
    };
    if secret.key().len() < Secret::MIN_NEW {
        return Err(invalid("secret")("its key is under 24 bytes"));
    }
    Ok(secret)
}

/// The body of a rotation. Without a secret the sender generates one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotation {
    pub(crate) secret: Option<String>,
}

/// The body of a replay.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Replay {
    pub(crate) after: String,
}

/// The body of a request that has no parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// 400 that names the invalid part.
pub(crate) fn invalid<E: Display>(field: &'static str) -> impl FnOnce(E) -> Problem {
    move |error| Problem::bad_request(format!("{field}: {error}"))
}
