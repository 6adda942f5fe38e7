//! One endpoint: who is to be called, where, about what, and how it went.

use std::{
    collections::VecDeque,
    fmt::Display,
    sync::{Mutex, MutexGuard},
    time::SystemTime,
};

use common::{Cursor, Gap, Message, MessageType, Problem, Topic, Topics};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::warn;
use url::Url;

use crate::{deliver::Outcome, verify::standard::Secret};

/// How many attempts, dead deliveries and gaps of an endpoint are remembered, of each the last.
const REMEMBERED: usize = 100;
/// The longest URL in bytes.
const MAX_URL: usize = 2_048;

/// One who is to be called.
pub(crate) struct Endpoint {
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
    delivered: u64,
    dead: u64,
    last_error: Option<String>,
    attempts: Last<AttemptRecord>,
    dead_letters: Last<DeadLetter>,
    /// As JSON: see [`common::Gap`].
    gaps: Last<Box<RawValue>>,
}

#[derive(Serialize)]
struct AttemptRecord {
    /// The message's id, which is the delivery's `webhook-id`.
    id: String,
    /// 1 is the first.
    attempt: usize,
    at: String,
    duration_ms: u64,
    remote: Option<String>,
    status: Option<u16>,
    /// The failure's class.
    error: Option<&'static str>,
    next_attempt: Option<String>,
}

/// A delivery that was given up.
#[derive(Serialize)]
struct DeadLetter {
    id: String,
    attempts: usize,
    at: String,
    reason: String,
}

/// The last [`REMEMBERED`] of something, oldest first.
#[derive(Serialize)]
#[serde(transparent)]
struct Last<T>(VecDeque<T>);

impl<T> Last<T> {
    fn push(&mut self, item: T) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(item);
    }
}

impl<T> Default for Last<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl Endpoint {
    /// One that has claimed everything up to `after`, and got nothing yet.
    pub(crate) fn new(target: Target, after: Cursor) -> Self {
        Self {
            id: format!("ep_{:016x}", rand::random::<u64>()),
            url: target.url,
            topics: target.topics,
            types: target.types,
            secrets: vec![target.secret],
            status: Mutex::new(Status::new(after)),
        }
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
        self.status().gaps.push(gap);
    }

    /// Notes how an attempt went. Without a `next` one, a delivery that failed is dead.
    pub(crate) fn record(
        &self,
        message: &Message,
        attempt: usize,
        outcome: &Outcome,
        next: Option<SystemTime>,
    ) {
        let mut status = self.status();
        let (at, id) = (time(outcome.at), message.id.to_string());
        status.attempts.push(AttemptRecord {
            id: id.clone(),
            attempt,
            at: at.clone(),
            duration_ms: outcome.duration.as_millis() as u64,
            remote: outcome.remote.map(|remote| remote.to_string()),
            status: outcome.status().map(|status| status.as_u16()),
            error: outcome.result.as_ref().err().map(|failure| failure.class()),
            next_attempt: next.map(time),
        });
        let Err(failure) = &outcome.result else {
            status.delivered += 1;
            return;
        };
        let reason = failure.to_string();
        status.last_error = Some(reason.clone());
        if next.is_none() {
            warn!(
                endpoint = self.id,
                id, attempt, reason, "a delivery is dead"
            );
            status.bury(id, attempt, at, reason);
        }
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
    pub(crate) fn deliveries_json(&self) -> String {
        let status = self.status();
        to_json(&Deliveries {
            attempts: &status.attempts,
            dead: &status.dead_letters,
            gaps: &status.gaps,
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
    attempts: &'a Last<AttemptRecord>,
    dead: &'a Last<DeadLetter>,
    gaps: &'a Last<Box<RawValue>>,
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

fn types(names: Vec<String>) -> Result<Vec<MessageType>, Problem> {
    if names.is_empty() {
        return Err(invalid("types")("none is named; leave it out for all"));
    }
    let types = names.iter().map(|name| name.parse());
    types.collect::<Result<_, _>>().map_err(invalid("types"))
}

/// 400, naming the part that is wrong.
pub(crate) fn invalid<E: Display>(field: &'static str) -> impl FnOnce(E) -> Problem {
    move |error| Problem::bad_request(format!("{field}: {error}"))
}

impl Status {
    fn new(after: Cursor) -> Self {
        Self {
            after,
            in_flight: 0,
            waiting: 0,
            delivered: 0,
            dead: 0,
            last_error: None,
            attempts: Last::default(),
            dead_letters: Last::default(),
            gaps: Last::default(),
        }
    }

    fn bury(&mut self, id: String, attempts: usize, at: String, reason: String) {
        self.dead += 1;
        self.dead_letters.push(DeadLetter {
            id,
            attempts,
            at,
            reason,
        });
    }
}
