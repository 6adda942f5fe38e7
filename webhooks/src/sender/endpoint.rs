//! One endpoint: who is to be called, where, about what, and how it went.

use std::{
    fmt::Display,
    sync::{Mutex, MutexGuard},
    time::SystemTime,
};

use common::{Cursor, Epoch, Message, MessageType, Problem, Topic, Topics};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use url::Url;

use super::store::{AttemptRow, Dead, Disabled, Saved, rfc3339};
use crate::verify::standard::Secret;

/// The longest URL in bytes, in its normal form too.
const MAX_URL: usize = 2_048;
/// The most message types of one endpoint.
const MAX_TYPES: usize = 64;

/// One who is to be called.
pub(crate) struct Endpoint {
    /// Its number in the store.
    pub(crate) number: i64,
    /// `ep_` and 16 hexadecimal digits.
    pub(crate) id: String,
    pub(crate) url: Url,
    pub(crate) topics: Topics,
    /// Only these types; `None` is all.
    pub(crate) types: Option<Vec<MessageType>>,
    /// Newest first; each but the first with its end.
    secrets: Vec<(Secret, Option<SystemTime>)>,
    status: Mutex<Status>,
}

/// What the endpoint's loop tells.
pub(crate) struct Status {
    /// Everything up to here was claimed from the feed.
    pub(crate) after: Cursor,
    /// Everything up to here is in the store: delivered, dead or with a row.
    pub(crate) recorded: u64,
    /// Attempts that are under way or not recorded yet.
    pub(crate) in_flight: usize,
    /// Deliveries that wait for their next attempt.
    pub(crate) waiting: usize,
    /// When the first of them is due, or was.
    pub(crate) oldest_due: Option<SystemTime>,
    pub(crate) delivered: u64,
    pub(crate) dead: u64,
    pub(crate) last_error: Option<String>,
    /// It is not called.
    pub(crate) disabled: Option<Disabled>,
}

impl Endpoint {
    /// The endpoint as it was saved, in a feed of this epoch.
    pub(crate) fn restore(saved: &Saved, epoch: Epoch) -> Result<Self, Problem> {
        let secret = |(secret, until): &(String, _)| {
            let secret: Secret = secret.parse().map_err(invalid("secret"))?;
            Ok((secret, *until))
        };
        let secrets = saved.secrets.iter().map(secret);
        let types = saved.types.as_deref();
        let types = types.map(|types| parse_types(types.split(',')));
        let seq = saved.cursor;
        Ok(Self {
            number: saved.endpoint,
            id: saved.id.clone(),
            url: Url::parse(&saved.url).map_err(invalid("url"))?,
            topics: saved.topics.parse().map_err(invalid("topics"))?,
            types: types.transpose()?,
            secrets: secrets.collect::<Result<_, Problem>>()?,
            status: Mutex::new(Status {
                after: Cursor { epoch, seq },
                recorded: seq,
                in_flight: 0,
                waiting: 0,
                oldest_due: None,
                delivered: saved.delivered,
                dead: saved.dead,
                last_error: saved.last_error.clone(),
                disabled: saved.disabled.clone(),
            }),
        })
    }

    pub(crate) fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().expect("nothing panics under this lock")
    }

    /// Those that sign at this time, newest first.
    pub(crate) fn secrets(&self, now: SystemTime) -> Vec<Secret> {
        let signs = |until: &Option<SystemTime>| until.is_none_or(|until| now < until);
        let signing = self.secrets.iter().filter(|(_, until)| signs(until));
        signing.map(|(secret, _)| secret.clone()).collect()
    }

    /// Whether the message is of a type that the endpoint asked for.
    pub(crate) fn wants(&self, message: &Message) -> bool {
        let types = self.types.as_ref();
        types.is_none_or(|types| types.contains(&message.kind))
    }

    /// The endpoint as it is shown: without its secret, but for the one time when it is new.
    pub(crate) fn to_json(&self, secret: Option<String>) -> String {
        let status = self.status();
        let types = self.types.as_ref();
        let view = View {
            id: &self.id,
            url: self.url.as_str(),
            topics: self.topics.iter().map(Topic::as_str).collect(),
            types: types.map(|types| types.iter().map(MessageType::as_str).collect()),
            secret,
            after: status.after.to_string(),
            in_flight: status.in_flight,
            waiting: status.waiting,
            oldest_due: status.oldest_due,
            delivered: status.delivered,
            dead: status.dead,
            last_error: status.last_error.as_deref(),
            disabled: status.disabled.as_ref(),
        };
        to_json(&view)
    }
}

/// The last attempts, dead deliveries and gaps of an endpoint, each oldest first.
pub(crate) fn deliveries_json(
    attempts: Vec<AttemptRow>,
    dead: Vec<Dead>,
    gaps: Vec<String>,
) -> String {
    let gap = |gap| RawValue::from_string(gap).expect("a gap is JSON");
    to_json(&Deliveries {
        attempts,
        dead,
        gaps: gaps.into_iter().map(gap).collect(),
    })
}

#[derive(Serialize)]
struct View<'a> {
    id: &'a str,
    url: &'a str,
    topics: Vec<&'a str>,
    types: Option<Vec<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    after: String,
    in_flight: usize,
    waiting: usize,
    #[serde(serialize_with = "rfc3339")]
    oldest_due: Option<SystemTime>,
    delivered: u64,
    dead: u64,
    last_error: Option<&'a str>,
    disabled: Option<&'a Disabled>,
}

#[derive(Serialize)]
struct Deliveries {
    attempts: Vec<AttemptRow>,
    dead: Vec<Dead>,
    /// See [`common::Gap`].
    gaps: Vec<Box<RawValue>>,
}

fn to_json(view: &impl Serialize) -> String {
    serde_json::to_string(view).expect("text and numbers are JSON")
}

/// What a client sends to register an endpoint.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registration {
    url: String,
    topics: Vec<String>,
    types: Option<Vec<String>>,
    secret: Option<String>,
}

impl Registration {
    /// Checks every field by itself. Where the URL leads is a matter of the guard.
    pub(crate) fn parse(self) -> Result<(Target, Secret), Problem> {
        let target = Target::parse(&self.url, &self.topics, self.types.as_deref())?;
        Ok((target, new_secret(self.secret)?))
    }
}

/// What a client sends to change an endpoint: what is left out stays. `"types":null` is all types.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Patch {
    url: Option<String>,
    topics: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    types: Option<Option<Vec<String>>>,
    /// `false` disables it.
    pub(crate) enabled: Option<bool>,
}

fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    field: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(field).map(Some)
}

impl Patch {
    /// The endpoint as it is to be.
    pub(crate) fn parse(self, endpoint: &Endpoint) -> Result<Target, Problem> {
        let texts = |names: &mut dyn Iterator<Item = &str>| names.map(str::to_owned).collect();
        let topics = || texts(&mut endpoint.topics.iter().map(Topic::as_str));
        let types = endpoint.types.as_ref();
        let types = || types.map(|types| texts(&mut types.iter().map(MessageType::as_str)));
        let types: Option<Vec<String>> = self.types.unwrap_or_else(types);
        let url = self.url.unwrap_or_else(|| endpoint.url.to_string());
        Target::parse(&url, &self.topics.unwrap_or_else(topics), types.as_deref())
    }
}

/// What a client sends to have another secret: its own, or none for one that is made.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotation {
    pub(crate) secret: Option<String>,
}

/// What a client sends to have messages delivered again.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Replay {
    pub(crate) after: String,
}

/// What a client sends where there is nothing to say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// The secret that was given, or one of 32 random bytes.
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

/// Who is to be called about what, well formed.
pub(crate) struct Target {
    pub(crate) url: Url,
    topics: Topics,
    types: Option<Vec<MessageType>>,
}

impl Target {
    fn parse(url: &str, topics: &[String], types: Option<&[String]>) -> Result<Self, Problem> {
        let too_long = || Problem::bad_request(format!("url: over {MAX_URL} bytes"));
        if url.len() > MAX_URL {
            return Err(too_long());
        }
        let url = Url::parse(url).map_err(invalid("url"))?;
        // The normal form may be longer: a space becomes `%20`.
        if url.as_str().len() > MAX_URL {
            return Err(too_long());
        }
        let topics: Result<Vec<Topic>, _> = topics.iter().map(|topic| topic.parse()).collect();
        if types.is_some_and(<[_]>::is_empty) {
            return Err(invalid("types")("none is named; leave it out for all"));
        }
        if types.is_some_and(|types| types.len() > MAX_TYPES) {
            return Err(Problem::bad_request(format!("types: over {MAX_TYPES}")));
        }
        let types = types.map(|types| parse_types(types.iter().map(String::as_str)));
        Ok(Self {
            url,
            topics: Topics::try_from(topics.map_err(invalid("topics"))?)
                .map_err(invalid("topics"))?,
            types: types.transpose()?,
        })
    }

    /// The URL, the topics and the types, as the store has them.
    pub(crate) fn texts(&self) -> (String, String, Option<String>) {
        let types = self.types.as_ref();
        (
            self.url.to_string(),
            joined(self.topics.iter().map(Topic::as_str)),
            types.map(|types| joined(types.iter().map(MessageType::as_str))),
        )
    }

    /// A new endpoint, for the store, that is to get what comes after `cursor`.
    pub(crate) fn save(&self, secret: &Secret, cursor: u64) -> Saved {
        let (url, topics, types) = self.texts();
        Saved {
            endpoint: 0,
            id: format!("ep_{:016x}", rand::random::<u64>()),
            url,
            topics,
            types,
            secrets: vec![(secret.reveal(), None)],
            cursor,
            delivered: 0,
            dead: 0,
            last_error: None,
            attempts: 0,
            ahead: Vec::new(),
            failing: None,
            disabled: None,
        }
    }
}

fn joined<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(",")
}

fn parse_types<'a>(names: impl Iterator<Item = &'a str>) -> Result<Vec<MessageType>, Problem> {
    let types = names.map(|name| name.parse());
    types.collect::<Result<_, _>>().map_err(invalid("types"))
}

/// 400, naming the part that is wrong.
pub(crate) fn invalid<E: Display>(field: &'static str) -> impl FnOnce(E) -> Problem {
    move |error| Problem::bad_request(format!("{field}: {error}"))
}
