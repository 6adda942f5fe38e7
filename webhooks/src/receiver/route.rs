//! From request to answer: which path takes which method, and what is checked before.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use common::{
    Browsers, Feed, Problem, PublishLimits, Query, Quota, healthz, html, read_body, retry_after,
};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Incoming},
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap},
};
use tokio::{sync::Semaphore, time::timeout};
use tracing::warn;

use super::{
    cause::likely_cause,
    listing::{self, Filter},
    receive::{NotReceived, Receiver},
    source::{Rejection, Source},
};
use crate::{
    serve::{Answer, json, reads},
    verify::unix_seconds,
};

/// A body up to this size is read immediately. Larger ones wait for one of [`LARGE_BODIES`] slots, so that
/// unverified bodies cannot fill the memory.
const SMALL_BODY: u64 = 64 << 10;
/// How many larger bodies are read at the same time.
const LARGE_BODIES: usize = 4;

/// How many rejections per second are logged for each source. Each source has its own quota, so that a flood
/// at one path does not hide a mistake at another.
static REJECTIONS: [Quota; Source::ALL.len()] = [const { Quota::new(10) }; Source::ALL.len()];

/// What every connection shares.
pub(super) struct App {
    receiver: Receiver,
    feed: Feed,
    browsers: Browsers,
    limits: PublishLimits,
    large_bodies: Semaphore,
}

impl App {
    pub(super) fn new(
        receiver: Receiver,
        feed: Feed,
        browsers: Browsers,
        limits: PublishLimits,
    ) -> Self {
        Self {
            receiver,
            feed,
            browsers,
            limits,
            large_bodies: Semaphore::new(LARGE_BODIES),
        }
    }

    /// The source that sends to this path, if there is a secret for it. Without one the path does not exist (404).
    fn source(&self, path: &str) -> Option<Source> {
        let secrets = &self.receiver.secrets;
        Source::ALL
            .into_iter()
            .find(|source| source.path() == path && secrets.accepts(*source))
    }
}

/// Answers one request.
pub(super) async fn route(app: Arc<App>, request: Request<Incoming>) -> Answer {
    let allowed_origin = app.browsers.allowed_origin(request.headers());
    let answered = answer(&app, request).await;
    let mut response = answered.unwrap_or_else(Problem::into_response);
    app.browsers.finish(allowed_origin, &mut response);
    Ok(response)
}

async fn answer(app: &App, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Problem> {
    let path = request.uri().path().to_owned();
    let source = app.source(&path);
    // A webhook is exempt from the rules for browsers: its signature proves the sender, and behind a tunnel
    // it has another `Host`.
    if source.is_none() {
        let safe = reads(&request) || request.method() == Method::OPTIONS;
        app.browsers.check(&request, !safe)?;
    }
    // Before `admit`: a browser sends a preflight without credentials.
    if let Some(preflight) = app.browsers.preflight(&request) {
        return Ok(preflight);
    }
    admit(&request)?;
    // No route reads it, and it can hide a second request from a proxy (RFC 9110 §9.3.1).
    if reads(&request) && !request.body().is_end_stream() {
        return Err(Problem::bad_request("a GET has no body"));
    }
    let posts = request.method() == Method::POST;
    match (path.as_str(), source) {
        (_, Some(source)) if posts => receive(app, source, request).await,
        (_, Some(_)) => Err(Problem::method_not_allowed("POST")),
        ("/", _) if reads(&request) => Ok(html(include_str!("page.html"))),
        ("/healthz", _) if reads(&request) || request.method() == Method::OPTIONS => {
            healthz(&app.feed)
        }
        ("/events", _) if reads(&request) => list(app, &request).await,
        ("/healthz", _) => Err(Problem::method_not_allowed("GET, HEAD, OPTIONS")),
        ("/" | "/events", _) => Err(Problem::method_not_allowed("GET, HEAD")),
        (path, _) => match retried_event(path) {
            Some(seq) if posts => retry(app, seq).await,
            Some(_) => Err(Problem::method_not_allowed("POST")),
            None => Err(Problem::not_found(path)),
        },
    }
}

/// Put authentication and authorization here. It is called before any route, and admits everything. Let the
/// webhook paths pass: their proof is the signature.
fn admit<B>(_request: &Request<B>) -> Result<(), Problem> {
    Ok(())
}

/// Receives one webhook. `now` is taken before the body is read, because a slow body would make the request
/// look older.
async fn receive(
    app: &App,
    source: Source,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Problem> {
    let now = SystemTime::now();
    check_type(source, &request)?;
    // Cloned, because reading the body consumes the request.
    let headers = request.headers().clone();
    let body = read(app, source, request).await?;
    let received = app.receiver.receive(source, &headers, body.clone(), now);
    match received.await {
        Ok(_is_new) => Ok(Response::default()), // 200 to a repeat too
        Err(NotReceived::NotStored(error)) => Err(Problem::unavailable(error, retry_after())),
        Err(NotReceived::Rejected(rejection)) => {
            log(app, source, &headers, &body, now, rejection);
            Err(refuse(rejection))
        }
    }
}

/// The media type must be the source's. That also stops cross-site posts from a browser that need no
/// preflight. A `Content-Encoding` is refused, because the compressed bytes would be stored.
fn check_type<B>(source: Source, request: &Request<B>) -> Result<(), Problem> {
    let unsupported = |detail| Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail);
    let value = request.headers().get(CONTENT_TYPE);
    let media_type = value.and_then(|value| value.to_str().ok());
    if !media_type.is_some_and(|media_type| source.takes(media_type)) {
        return Err(unsupported("Content-Type is not application/json"));
    }
    if request.headers().contains_key(CONTENT_ENCODING) {
        return Err(unsupported("a body with a Content-Encoding is refused"));
    }
    Ok(())
}

/// Reads the whole body. The limits must hold before the sender is verified, because the signature covers
/// every byte.
async fn read(app: &App, source: Source, request: Request<Incoming>) -> Result<Bytes, Problem> {
    let limits = PublishLimits {
        max_message: source.max_body(app.limits.max_message),
        ..app.limits
    };
    // A chunked body has no upper bound, so it counts as large.
    let small = SMALL_BODY.max(app.limits.max_message as u64);
    let upper = request.body().size_hint().upper();
    if upper.is_some_and(|size| size <= small) {
        return read_body(request, limits).await;
    }
    let turn = timeout(app.limits.body_timeout, app.large_bodies.acquire()).await;
    let _turn = turn.map_err(|_| Problem::unavailable("too many large bodies", retry_after()))?;
    read_body(request, limits).await
}

/// Logs the reason, within the quota. It goes only to the log: the answer must not tell it to an attacker.
fn log(
    app: &App,
    source: Source,
    headers: &HeaderMap,
    body: &Bytes,
    now: SystemTime,
    rejection: Rejection,
) {
    let name = source.name();
    if !REJECTIONS[source as usize].take(name) {
        return;
    }
    match rejection {
        Rejection::NotGenuine(refusal) => {
            let (secrets, now) = (&app.receiver.secrets, unix_seconds(now));
            let cause = likely_cause(secrets, source, headers, body, now, refusal);
            warn!(source = name, cause, "not believed");
        }
        Rejection::Unreadable(what) => warn!(source = name, what, "genuine and unreadable"),
    }
}

/// The answer to a rejected request. It names syntax errors, which help an honest sender and say nothing
/// about the secret.
fn refuse(rejection: Rejection) -> Problem {
    let status = NotReceived::from(rejection).status();
    if status == StatusCode::UNAUTHORIZED {
        return Problem::new(status, "not genuine");
    }
    Problem::new(status, rejection)
}

/// `GET /events?after=SEQ&state=STATE`.
async fn list<B>(app: &App, request: &Request<B>) -> Result<Response<Full<Bytes>>, Problem> {
    let query = Query::of(request.uri());
    let after = query.get("after")?.unwrap_or(0);
    let filter = query.get("state")?.unwrap_or(Filter::All);
    let inbox = &app.receiver.inbox;
    let page = inbox
        .read(move |database| listing::page(database, after, filter))
        .await
        .map_err(|error| Problem::unavailable(error, retry_after()))?;
    Ok(json(StatusCode::OK, page))
}

/// The event's number in `/events/{seq}/retry`.
fn retried_event(path: &str) -> Option<i64> {
    let seq = path.strip_prefix("/events/")?.strip_suffix("/retry")?;
    seq.parse().ok()
}

/// Starts the schedule of a dead event again. 409 for any other event: it is handled or still waiting.
async fn retry(app: &App, seq: i64) -> Result<Response<Full<Bytes>>, Problem> {
    let revived = app.receiver.inbox.revive(seq, SystemTime::now()).await;
    if !revived.map_err(|error| Problem::unavailable(error, retry_after()))? {
        let detail = format!("event {seq} is not dead");
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    let mut response = Response::default();
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}
