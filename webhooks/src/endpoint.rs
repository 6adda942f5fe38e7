//! One endpoint: who is to be called, where, about what, and how it went.

use std::{
    collections::VecDeque,
    fmt::Display,
    sync::{Mutex, MutexGuard},
    time::SystemTime,
};

use common::{Cursor, Epoch, Gap, Message, MessageType, Problem, Topic, Topics};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::warn;
use url::Url;

use crate::{
    store::{AttemptRow, Dead, Saved},
    verify::standard::Secret,
};

/// How many gaps of an endpoint are remembered, the last ones.
const REMEMBERED: usize = 100;
/// The longest URL in bytes.
const MAX_URL: usize = 2_048;

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
    /// Newest first.
    pub(crate) secrets: Vec<Secret>,
    status: Mutex<Status>,
}

/// What the endpoint's loop tells.
pub(crate) struct Status {
    /// Everything up to here was claimed from the feed.
    pub(crate) after: Cursor,
    pub(crate) in_flight: usize,
    /// Deliveries that wait for their next attempt.
    pub(crate) waiting: usize,
    pub(crate) delivered: u64,
    pub(crate) dead: u64,
    pub(crate) last_error: Option<String>,
    /// The last ones as JSON, oldest first: see [`common::Gap`].
    gaps: VecDeque<Box<RawValue>>,
}

impl Endpoint {
    /// The endpoint as it was saved, in a feed of this epoch.
    pub(crate) fn restore(saved: &Saved, epoch: Epoch) -> Result<Self, Problem> {
        let secrets = saved.secrets.iter().map(|secret| secret.parse());
        let types = saved.types.as_deref();
        let types = types.map(|types| parse_types(types.split(',')));
        let seq = saved.cursor;
        Ok(Self {
            number: saved.endpoint,
            id: saved.id.clone(),
            url: Url::parse(&saved.url).map_err(invalid("url"))?,
            topics: saved.topics.parse().map_err(invalid("topics"))?,
            types: types.transpose()?,
            secrets: secrets
                .collect::<Result<_, _>>()
                .map_err(invalid("secret"))?,
            status: Mutex::new(Status {
                after: Cursor { epoch, seq },
                in_flight: 0,
                waiting: 0,
                delivered: saved.delivered,
                dead: saved.dead,
                last_error: saved.last_error.clone(),
                gaps: VecDeque::new(),
            }),
        })
    }

    pub(crate) fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().expect("nothing panics under this lock")
    }

    /// Whether the message is of a type that the endpoint asked for.
    pub(crate) fn wants(&self, message: &Message) -> bool {
        let types = self.types.as_ref();
        types.is_none_or(|types| types.contains(&message.kind))
    }

    /// Notes that the feed had let go of messages before they were claimed.
    pub(crate) fn record_gap(&self, gap: &Gap) {
        let gap = gap.to_json();
        warn!(endpoint = self.id, gap, "messages are lost to an endpoint");
        let gap = RawValue::from_string(gap).expect("a gap is JSON");
        let mut status = self.status();
        if status.gaps.len() == REMEMBERED {
            status.gaps.pop_front();
        }
        status.gaps.push_back(gap);
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
            delivered: status.delivered,
            dead: status.dead,
            last_error: status.last_error.as_deref(),
        };
        to_json(&view)
    }

    /// The last attempts, the last dead deliveries and what the feed had let go, oldest first.
    pub(crate) fn deliveries_json(&self, attempts: Vec<AttemptRow>, dead: Vec<Dead>) -> String {
        to_json(&Deliveries {
            attempts: attempts.into_iter().map(AttemptView::from).collect(),
            dead: dead.into_iter().map(DeadView::from).collect(),
            gaps: &self.status().gaps,
        })
    }
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
    delivered: u64,
    dead: u64,
    last_error: Option<&'a str>,
}

#[derive(Serialize)]
struct Deliveries<'a> {
    attempts: Vec<AttemptView>,
    dead: Vec<DeadView>,
    gaps: &'a VecDeque<Box<RawValue>>,
}

#[derive(Serialize)]
struct AttemptView {
    /// The message's id, which is the delivery's `webhook-id`.
    id: String,
    /// 1 is the first.
    attempt: usize,
    at: String,
    duration_ms: u64,
    remote: Option<String>,
    status: Option<u16>,
    /// The failure's class.
    error: Option<String>,
    next_attempt: Option<String>,
}

impl From<AttemptRow> for AttemptView {
    fn from(row: AttemptRow) -> Self {
        Self {
            id: row.id,
            attempt: row.attempt,
            at: time(row.at),
            duration_ms: row.duration.as_millis() as u64,
            remote: row.remote,
            status: row.status,
            error: row.error,
            next_attempt: row.next.map(time),
        }
    }
}

/// A delivery that was given up.
#[derive(Serialize)]
struct DeadView {
    id: String,
    attempts: u64,
    at: String,
    reason: String,
}

impl From<Dead> for DeadView {
    fn from(dead: Dead) -> Self {
        Self {
            id: dead.id,
            attempts: dead.attempts,
            at: time(dead.at),
            reason: dead.reason,
        }
    }
}

fn to_json(view: &impl Serialize) -> String {
    serde_json::to_string(view).expect("text and numbers are JSON")
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
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
    pub(crate) fn parse(self) -> Result<Target, Problem> {
        if self.url.len() > MAX_URL {
            return Err(Problem::bad_request(format!("url: over {MAX_URL} bytes")));
        }
        let topics: Result<Vec<Topic>, _> = self.topics.iter().map(|topic| topic.parse()).collect();
        let secret = match self.secret {
            None => Secret::from_random(rand::random()),
            Some(secret) => secret.parse().map_err(invalid("secret"))?,
        };
        if secret.size() < Secret::MIN_NEW {
            return Err(invalid("secret")("its key is under 24 bytes"));
        }
        Ok(Target {
            url: Url::parse(&self.url).map_err(invalid("url"))?,
            topics: Topics::try_from(topics.map_err(invalid("topics"))?)
                .map_err(invalid("topics"))?,
            types: self.types.map(types).transpose()?,
            secret,
        })
    }
}

/// A registration that is well formed.
pub(crate) struct Target {
    pub(crate) url: Url,
    topics: Topics,
    types: Option<Vec<MessageType>>,
    secret: Secret,
}

impl Target {
    /// A new endpoint, for the store, that is to get what comes after `cursor`.
    pub(crate) fn save(&self, cursor: u64) -> Saved {
        let types = self.types.as_ref();
        Saved {
            endpoint: 0,
            id: format!("ep_{:016x}", rand::random::<u64>()),
            url: self.url.to_string(),
            topics: joined(self.topics.iter().map(Topic::as_str)),
            types: types.map(|types| joined(types.iter().map(MessageType::as_str))),
            secrets: vec![self.secret.reveal()],
            cursor,
            delivered: 0,
            dead: 0,
            last_error: None,
            attempts: 0,
        }
    }
}

fn joined<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(",")
}

fn types(names: Vec<String>) -> Result<Vec<MessageType>, Problem> {
    if names.is_empty() {
        return Err(invalid("types")("none is named; leave it out for all"));
    }
    parse_types(names.iter().map(String::as_str))
}

fn parse_types<'a>(names: impl Iterator<Item = &'a str>) -> Result<Vec<MessageType>, Problem> {
    let types = names.map(|name| name.parse());
    types.collect::<Result<_, _>>().map_err(invalid("types"))
}

/// 400, naming the part that is wrong.
pub(crate) fn invalid<E: Display>(field: &'static str) -> impl FnOnce(E) -> Problem {
    move |error| Problem::bad_request(format!("{field}: {error}"))
}
