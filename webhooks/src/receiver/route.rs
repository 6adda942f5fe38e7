//! From request to answer: which path takes which method, and what is checked before.

use std::{
    collections::BTreeMap,
    str::FromStr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::SystemTime,
};

use bytes::Bytes;
use common::{
    Browsers, Feed, Pieces, Problem, PublishLimits, Query, Quota, expect_no_body, healthz, html,
    is_json, read_body, retry_after, whole_number,
};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use tokio::task::spawn_blocking;
use tracing::{trace, warn};

use super::{
    body::{Bodies, Share},
    cause::likely_cause,
    listing::{self, Filter},
    receive::Receiver,
    source::{Rejection, Source},
    tally::Tally,
};
use crate::{
    serve::{Answer, json, reads},
    verify::unix_seconds,
};

/// How many refusals a second are logged for each source, of requests that may be a stranger's. Each source has
/// its own quota, so that a flood at one path does not hide a mistake at another.
static UNVERIFIED: [Quota; Source::ALL.len()] = [const { Quota::new(10) }; Source::ALL.len()];
/// The same for genuine requests that are refused. A stranger can replay a genuine request with another
/// `Content-Type`, because that field is not signed.
static REFUSED: [Quota; Source::ALL.len()] = [const { Quota::new(10) }; Source::ALL.len()];
/// How many webhooks a second are logged that come to another path.
static ASTRAY: Quota = Quota::new(10);
/// The largest body of a request to `/events`.
const MAX_COMMAND: usize = 1 << 10;

/// What every connection shares.
pub(super) struct App {
    pub(super) receiver: Receiver,
    pub(super) feed: Feed,
    pub(super) browsers: Browsers,
    pub(super) bodies: Bodies,
    pub(super) limits: PublishLimits,
    /// In the order of `Source::ALL`.
    pub(super) tally: [Tally; Source::ALL.len()],
}

impl App {
    /// The source that sends to this path, if there is a secret for it. Without one the path does not exist (404).
    fn source(&self, path: &str) -> Option<Source> {
        let mut enabled = self.receiver.secrets.enabled();
        enabled.find(|source| source.path() == path)
    }

    /// Whether it is a webhook that comes to a wrong path, or to one without a secret.
    fn is_astray<B>(&self, request: &Request<B>) -> bool {
        let is_proof = |source: Source| source.proof_in(request.headers()).is_some();
        self.source(request.uri().path()).is_none() && Source::ALL.into_iter().any(is_proof)
    }

    /// The paths that take webhooks, in words.
    fn enabled(&self) -> String {
        let enabled = self.receiver.secrets.enabled();
        let paths: Vec<&str> = enabled.map(Source::path).collect();
        if paths.is_empty() {
            return "no source has a secret (see --help), so no webhook is taken".to_owned();
        }
        format!("webhooks are taken at {}", paths.join(", "))
    }
}

/// Answers one request.
pub(super) async fn route(app: Arc<App>, request: Request<Incoming>) -> Answer {
    let allowed_origin = app.browsers.allowed_origin(request.headers());
    let astray = app.is_astray(&request);
    let answered = answer(&app, request).await.inspect_err(|problem| {
        if astray && ASTRAY.take("astray") {
            warn!(reason = problem.detail, "a webhook for no source");
        }
    });
    let mut response = answered.unwrap_or_else(Problem::into_response);
    app.browsers.finish(allowed_origin, &mut response);
    Ok(response)
}

async fn answer(
    app: &Arc<App>,
    mut request: Request<Incoming>,
) -> Result<Response<Pieces>, Problem> {
    let path = request.uri().path().to_owned();
    let retried = retried_event(&path);
    let is_private =
        matches!(path.as_str(), "/" | "/healthz" | "/events" | "/sources") || retried.is_some();
    check_browser(app, &request, is_private)?;
    // Before `admit`: a browser sends a preflight without credentials.
    if let Some(preflight) = app.browsers.preflight(&request) {
        return Ok(preflight);
    }
    admit(&request)?;
    // No route reads it, and it can hide a second request from a proxy (RFC 9110 §9.3.1).
    if reads(&request) {
        expect_no_body(&mut request, app.limits).await?;
    }
    let posts = request.method() == Method::POST;
    match (path.as_str(), app.source(&path), retried) {
        (_, Some(source), _) if posts => receive(app, source, request).await,
        (_, Some(_), _) => Err(Problem::method_not_allowed("POST")),
        (_, _, Some(seq)) if posts => retry(app, seq, request).await,
        (_, _, Some(_)) => Err(Problem::method_not_allowed("POST")),
        ("/", ..) if reads(&request) => Ok(html(include_str!("page.html"))),
        ("/healthz", ..) if reads(&request) => healthz(&app.feed),
        // The default probe of some load balancers.
        ("/" | "/healthz", ..) if request.method() == Method::OPTIONS => healthz(&app.feed),
        ("/events", ..) if reads(&request) => list(app, &request).await,
        ("/sources", ..) if reads(&request) => {
            let sources = serde_json::to_string(&app.tally).expect("text and numbers are JSON");
            Ok(json(StatusCode::OK, sources))
        }
        ("/" | "/healthz", ..) => Err(Problem::method_not_allowed("GET, HEAD, OPTIONS")),
        ("/events" | "/sources", ..) => Err(Problem::method_not_allowed("GET, HEAD")),
        _ => {
            let missing = Problem::not_found(&path).detail;
            let detail = format!("{missing}: {}", app.enabled());
            Err(Problem::new(StatusCode::NOT_FOUND, detail))
        }
    }
}

/// The rules for browsers. They hold for private paths. A webhook's signature proves its sender, and through a
/// tunnel it has another `Host`: it only needs one that is valid. A 404 may go to anybody.
fn check_browser<B>(app: &App, request: &Request<B>, is_private: bool) -> Result<(), Problem> {
    let changes = !reads(request) && request.method() != Method::OPTIONS;
    match app.browsers.check(request, changes) {
        Err(problem) if problem.status == StatusCode::BAD_REQUEST => Err(problem),
        // Most likely it came through a tunnel that is meant for webhooks.
        Err(problem) if is_private && problem.status == StatusCode::MISDIRECTED_REQUEST => {
            let detail = format!("only this machine may read this path; {}", app.enabled());
            Err(Problem::new(problem.status, detail))
        }
        Err(problem) if is_private => Err(problem),
        _ => Ok(()),
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
    app: &Arc<App>,
    source: Source,
    request: Request<Incoming>,
) -> Result<Response<Pieces>, Problem> {
    let now = SystemTime::now();
    let (name, tally) = (source.name(), &app.tally[source as usize]);
    // Cloned, because reading the body consumes the request.
    let headers = request.headers().clone();
    let (body, _share) = read(app, source, request).await.inspect_err(|problem| {
        if may_log_unverified(app, source) {
            warn!(source = name, reason = problem.detail, "refused unverified");
        }
    })?;
    let receiving = app.receiver.receive(source, &headers, body.clone(), now);
    let received = receiving.await;
    let outcome = received.as_ref().map(|_| "accepted");
    trace!(count.received = outcome.unwrap_or_else(Rejection::class));
    match received {
        Ok(_) => {
            tally.received.fetch_add(1, Relaxed);
            Ok(Response::default())
        }
        Err(Rejection::NotStored(error)) => {
            tally.refused.fetch_add(1, Relaxed);
            Err(Problem::unavailable(error, retry_after()))
        }
        Err(Rejection::NotGenuine(refusal)) => {
            if may_log_unverified(app, source) {
                let (secrets, now) = (app.receiver.secrets.clone(), unix_seconds(now));
                // The answer does not wait for this, and must not tell it to an attacker.
                spawn_blocking(move || {
                    let cause = likely_cause(&secrets, source, &headers, &body, now, refusal);
                    warn!(source = name, cause, "not verified");
                });
            }
            Err(refuse(refusal.into()))
        }
        Err(rejection) => {
            let refused = tally.refused.fetch_add(1, Relaxed) + 1;
            if REFUSED[source as usize].take(name) {
                warn!(source = name, reason = %rejection, refused, "genuine, but refused");
            }
            Err(refuse(rejection))
        }
    }
}

/// Reads the body. An unsigned request of a wrong type is refused before its body is read.
async fn read(
    app: &App,
    source: Source,
    request: Request<Incoming>,
) -> Result<(Bytes, Share<'_>), Problem> {
    if source.proof_in(request.headers()).is_none() {
        source.check_type(request.headers()).map_err(refuse)?;
    }
    app.bodies.read(request).await
}

/// Counts a request that may be a stranger's. Returns whether the quota has a line for it.
fn may_log_unverified(app: &App, source: Source) -> bool {
    let tally = &app.tally[source as usize];
    tally.unverified.fetch_add(1, Relaxed);
    UNVERIFIED[source as usize].take(source.name())
}

/// The answer to a rejected request. It names syntax errors, which help an honest sender and say nothing
/// about the secret.
fn refuse(rejection: Rejection) -> Problem {
    let status = rejection.status();
    match rejection {
        _ if status == StatusCode::UNAUTHORIZED => Problem::new(status, "not genuine"),
        Rejection::NotGenuine(refusal) => Problem::new(status, refusal.reason()),
        rejection => Problem::new(status, rejection),
    }
}

/// An event's number in a query.
struct Seq(i64);

impl FromStr for Seq {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        whole_number(text)
            .map(Self)
            .ok_or("not the number of an event")
    }
}

/// `GET /events?after=SEQ&state=STATE`.
async fn list<B>(app: &App, request: &Request<B>) -> Result<Response<Pieces>, Problem> {
    let query = Query::of(request.uri());
    let Seq(after) = query.get("after")?.unwrap_or(Seq(0));
    let filter: Option<Filter> = query.get("state")?;
    let inbox = &app.receiver.inbox;
    let page = inbox
        .read(move |database| listing::page(database, after, filter))
        .await
        .map_err(|error| Problem::unavailable(error, retry_after()))?;
    Ok(json(StatusCode::OK, page))
}

/// The event's number in `/events/{seq}/retry`.
fn retried_event(path: &str) -> Option<i64> {
    whole_number(path.strip_prefix("/events/")?.strip_suffix("/retry")?)
}

/// Attempts an event now, with the whole schedule, if it is dead or waits for a later attempt, and with `{"again":true}`
/// also a handled one. Answers 409 for any other event, and 404 for an event that does not exist.
async fn retry(
    app: &App,
    seq: i64,
    request: Request<Incoming>,
) -> Result<Response<Pieces>, Problem> {
    let again = asks_again(request, app.limits).await?;
    let inbox = &app.receiver.inbox;
    let retried = inbox.retry(seq, again, SystemTime::now()).await;
    match retried.map_err(|error| Problem::unavailable(error, retry_after()))? {
        Some(true) => {
            let mut response = Response::default();
            *response.status_mut() = StatusCode::ACCEPTED;
            Ok(response)
        }
        Some(false) => {
            let detail = if again {
                format!("event {seq} is being attempted")
            } else {
                format!(
                    r#"event {seq} is handled or being attempted; a handled one needs {{"again":true}}"#
                )
            };
            Err(Problem::new(StatusCode::CONFLICT, detail))
        }
        None => {
            let detail = format!("there is no event {seq}");
            Err(Problem::new(StatusCode::NOT_FOUND, detail))
        }
    }
}

/// Whether the body is `{"again":true}`. No body says no.
async fn asks_again(request: Request<Incoming>, limits: PublishLimits) -> Result<bool, Problem> {
    let is_json = is_json(&request);
    let limits = PublishLimits {
        max_message: MAX_COMMAND,
        ..limits
    };
    let body = read_body(request, limits).await?;
    if body.is_empty() {
        return Ok(false);
    }
    if !is_json {
        let detail = "Content-Type is not application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    // A map, because a struct would also be read from an array.
    let members: BTreeMap<String, bool> = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad_request(format!("the body is no retry: {error}")))?;
    if let Some(other) = members.keys().find(|name| *name != "again") {
        let detail = format!("the body is no retry: unknown field {other:.100}");
        return Err(Problem::bad_request(detail));
    }
    Ok(members.get("again") == Some(&true))
}
