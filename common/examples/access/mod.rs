//! Access control, as a worked example: a layer around axum's routes. `examples/access.rs` of sse, long-polling and
//! websockets use it. Without axum, call [`Access::admit`] in `route::admit`, and [`Grant::may_read`] and
//! [`Grant::may_publish`] where the route parses the topics.
//!
//! To copy this folder, depend on the package `common`, as the head of `examples/axum/serve.rs` says.
//!
//! Crates: `base64 = "0.23"` · `futures-util = { version = "0.3", default-features = false }` · `hmac = "0.13"` ·
//! `rand = "0.10"` · `serde = { version = "1", features = ["derive"] }` · `serde_json = "1"` · `sha2 = "0.11"`, and
//! those of the example `in_axum.rs`.
//!
//! A *token* is a JWT signed with HMAC-SHA256. It says who may read and publish which topics, and until when. It comes
//! in the place that the client can set:
//!
//! | client | where |
//! | --- | --- |
//! | `fetch`, a server | `Authorization: Bearer TOKEN` |
//! | a page of this site | the cookie `token`, with the `Origin` check |
//! | `new WebSocket(url, ["feed.v1.json", "bearer.TOKEN"])` | `Sec-WebSocket-Protocol` |
//! | `new EventSource(url)` and `new WebSocket(url)`, which set no field | `?ticket=`, once, within 10 s after `POST /tickets`. It may get into a proxy's log |
//!
//! A page of another origin needs CORS for `POST /tickets` and for an event stream, but not for a websocket. The accept
//! loop in `examples/axum/serve.rs` answers it for each `--allow-origin`.
//!
//! What a client sees when it is refused:
//!
//! | | answer | `fetch` | `EventSource` | `WebSocket` |
//! | --- | --- | --- | --- | --- |
//! | no token, not genuine, expired, revoked, a used ticket | 401 | the status and the reason | `error`, then `CLOSED` for good | code 4401 |
//! | a topic that it may not read or publish | 403 | the status and the reason | `error`, then `CLOSED` for good | code 4403; an `error` frame for a command |
//! | a cookie from a foreign `Origin` | 403 | a `TypeError` | `error`, then `CLOSED` for good | code 1006 |
//! | the token ends while it listens | the end of the stream | the end of the body | `error`, then 401 at its next try | code 4401 |
//!
//! So a page gets a new ticket or token when its EventSource is `CLOSED` or its WebSocket has 4401, and goes on after
//! its last id. The page of [`login`] shows all of this. A reader gets only topics that it may read, replays included.
//! The numbers in the ids tell it how many messages the other topics had. Nothing here logs a token, and a `Problem`
//! does not repeat one.

pub mod login;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header, uri::Uri},
    middleware::{Next, from_fn_with_state},
    response::Response,
    routing::post,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use common::{Browsers, Problem, Query, Topic, Topics};
use futures_util::StreamExt;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::time::sleep;

/// The JWT header. Only other programs read it.
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
/// The longest life of a token, in seconds. A revocation is kept for as long.
const LONGEST: u64 = 3_600;
/// How long a ticket may wait for its one use.
const TICKET_AGE: Duration = Duration::from_secs(10);
/// The most tickets that wait. One more is refused.
const MAX_TICKETS: usize = 10_000;
const OTHER_PATH: &str = "the guard admits /topics/... and /tickets only";

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Grant {
    /// Whose token it is.
    pub sub: String,
    /// The topics that it may read: whole names, or `news.*` for all names that begin with `news.`.
    pub read: Vec<String>,
    /// The topics to which it may publish.
    pub publish: Vec<String>,
    /// When it was made, in seconds since 1970.
    pub iat: u64,
    /// When it ends, at most an hour after `iat`.
    pub exp: u64,
}

/// Checks tokens and tickets.
pub struct Access {
    key: Hmac<Sha256>,
    browsers: Browsers,
    /// How often a listening client's grant is checked again, so that a revocation ends it.
    recheck: Duration,
    clock: fn() -> SystemTime,
    /// Unused tickets, and until when each is valid, in seconds since 1970.
    tickets: Mutex<HashMap<String, (Grant, u64)>>,
    /// Tokens of these subjects are void if they were made at this time or earlier.
    revoked: Mutex<HashMap<String, u64>>,
}

impl Access {
    /// Signs with `key`, which is 32 random bytes. `clock` is [`SystemTime::now`].
    pub fn new(
        key: &[u8; 32],
        browsers: Browsers,
        recheck: Duration,
        clock: fn() -> SystemTime,
    ) -> Self {
        Self {
            key: Hmac::new_from_slice(key).expect("HMAC takes a key of any length"),
            browsers,
            recheck,
            clock,
            tickets: Mutex::default(),
            revoked: Mutex::default(),
        }
    }

    /// The token of a grant. Your login makes one.
    pub fn token(&self, grant: &Grant) -> String {
        let grant = serde_json::to_string(grant).expect("a grant is JSON");
        let signed = [HEADER, &grant].map(|part| BASE64.encode(part)).join(".");
        let mac = self.key.clone().chain_update(&signed).finalize();
        format!("{signed}.{}", BASE64.encode(mac.into_bytes()))
    }

    /// The grant of a request. Call it before any route.
    ///
    /// # Errors
    /// 401 without a valid token, 403 for a cookie from a foreign origin.
    pub fn admit<B>(&self, request: &axum::http::Request<B>) -> Result<Grant, Problem> {
        if let Some(ticket) = Query::of(request.uri()).get::<String>("ticket")? {
            return self.redeem(&ticket);
        }
        let headers = request.headers();
        if let Some(token) = bearer(headers).or_else(|| subprotocol(headers)) {
            return self.verify(token);
        }
        let token = cookie(headers).ok_or_else(|| refused("there is no token"))?;
        // A browser sends the cookie for a page of any site. All methods are checked, because the handshake of
        // a websocket is a GET.
        self.browsers.check(request, true)?;
        self.verify(token)
    }

    fn verify(&self, token: &str) -> Result<Grant, Problem> {
        let grant = self
            .genuine(token)
            .ok_or_else(|| refused("the token is not genuine"))?;
        self.check(&grant)?;
        Ok(grant)
    }

    /// The header is not read: it must not choose how a token is checked.
    fn genuine(&self, token: &str) -> Option<Grant> {
        let (signed, mac) = token.rsplit_once('.')?;
        let (_header, grant) = signed.split_once('.')?;
        let mac = BASE64.decode(mac).ok()?;
        let ours = self.key.clone().chain_update(signed);
        ours.verify_slice(&mac).ok()?; // in constant time
        serde_json::from_slice(&BASE64.decode(grant).ok()?).ok()
    }

    /// A token with which `sub` may read these topics and publish to them, for `seconds` or an hour.
    pub fn token_for(&self, sub: &str, topics: &str, seconds: u64) -> String {
        let (topics, now) = (vec![topics.to_owned()], self.now());
        self.token(&Grant {
            sub: sub.to_owned(),
            read: topics.clone(),
            publish: topics,
            iat: now,
            exp: now + seconds.min(LONGEST),
        })
    }

    /// Whether the grant still holds.
    ///
    /// # Errors
    /// 401 if not.
    pub fn check(&self, grant: &Grant) -> Result<(), Problem> {
        if grant.end() <= self.now() {
            return Err(refused("the token has expired"));
        }
        let revoked = self.revoked.lock().expect(UNPOISONED);
        match revoked.get(&grant.sub) {
            Some(until) if grant.iat <= *until => Err(refused("the token was revoked")),
            _ => Ok(()),
        }
    }

    /// Resolves when the grant ends: at its expiry, or at the next check after it was revoked.
    pub async fn ended(&self, grant: &Grant) {
        while self.check(grant).is_ok() {
            let left = Duration::from_secs(grant.end().saturating_sub(self.now()));
            sleep(left.min(self.recheck)).await;
        }
    }

    /// Revokes all tokens that `sub` has now. Its open streams end at their next check.
    pub fn revoke(&self, sub: &str) {
        let now = self.now();
        let mut revoked = self.revoked.lock().expect(UNPOISONED);
        revoked.retain(|_, until| *until + LONGEST > now); // The others' tokens have expired.
        revoked.insert(sub.to_owned(), now);
    }

    /// A ticket for one request of this grant.
    ///
    /// # Errors
    /// 503 if too many tickets wait.
    pub fn ticket(&self, grant: Grant) -> Result<String, Problem> {
        let now = self.now();
        let mut tickets = self.tickets.lock().expect(UNPOISONED);
        tickets.retain(|_, (_, until)| *until > now);
        if tickets.len() >= MAX_TICKETS {
            return Err(Problem::unavailable(
                "too many tickets wait",
                common::retry_after(),
            ));
        }
        let ticket = format!("{:032x}", rand::random::<u128>());
        tickets.insert(ticket.clone(), (grant, now + TICKET_AGE.as_secs()));
        Ok(ticket)
    }

    fn redeem(&self, ticket: &str) -> Result<Grant, Problem> {
        let found = self.tickets.lock().expect(UNPOISONED).remove(ticket);
        match found {
            Some((grant, until)) if until > self.now() => self.check(&grant).map(|()| grant),
            _ => Err(refused("the ticket was used, or is too old")),
        }
    }

    fn now(&self) -> u64 {
        let since = (self.clock)().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| since.as_secs())
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive() // Neither the key nor a ticket.
    }
}

impl Grant {
    fn end(&self) -> u64 {
        self.exp.min(self.iat.saturating_add(LONGEST))
    }

    /// Whether all these topics may be read.
    ///
    /// # Errors
    /// 403, which names the first topic that may not.
    pub fn may_read(&self, topics: &Topics) -> Result<(), Problem> {
        topics
            .iter()
            .try_for_each(|topic| allowed(&self.read, topic))
    }

    /// Whether this topic may be published to.
    ///
    /// # Errors
    /// 403 if not.
    pub fn may_publish(&self, topic: &Topic) -> Result<(), Problem> {
        allowed(&self.publish, topic)
    }
}

fn allowed(granted: &[String], topic: &Topic) -> Result<(), Problem> {
    let covers = |granted: &String| match granted.strip_suffix('*') {
        Some(prefix) if prefix.ends_with('.') => topic.as_str().starts_with(prefix),
        _ => granted == topic.as_str(),
    };
    if granted.iter().any(covers) {
        return Ok(());
    }
    let detail = format!("the token does not allow topic {}", topic.as_str());
    Err(Problem::new(StatusCode::FORBIDDEN, detail))
}

fn refused(detail: &str) -> Problem {
    let scheme = header::HeaderValue::from_static("Bearer");
    Problem::new(StatusCode::UNAUTHORIZED, detail).with(header::WWW_AUTHENTICATE, scheme)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let field = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    field.strip_prefix("Bearer ").map(str::trim)
}

fn subprotocol(headers: &HeaderMap) -> Option<&str> {
    let field = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let mut offers = field.split(',').map(str::trim);
    offers.find_map(|offer| offer.strip_prefix("bearer."))
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let fields = headers.get_all(header::COOKIE).iter();
    let mut pairs = fields
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(';'));
    pairs.find_map(|pair| pair.trim().strip_prefix("token="))
}

/// These routes behind the guard, with `POST /tickets`. To nest them, guard first: `.nest("/sse", guarded(…))`. The
/// guard finds the topics in paths that begin with `/topics/`, and refuses all others.
pub fn guarded(access: Arc<Access>, routes: Router) -> Router {
    let tickets = Router::new().route("/tickets", post(ticket));
    let routes = routes.merge(tickets.with_state(access.clone()));
    routes.layer(from_fn_with_state(access, guard))
}

async fn ticket(State(access): State<Arc<Access>>, Extension(grant): Extension<Grant>) -> Response {
    match access.ticket(grant) {
        Ok(ticket) => Response::new(Body::from(format!("{{\"ticket\":\"{ticket}\"}}"))),
        Err(problem) => problem.into_response(),
    }
}

/// The middleware. It admits the request, checks the right to the topics, and ends the answer when the grant ends.
async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let answer = admitted(&access, request, next).await;
    answer.unwrap_or_else(Problem::into_response)
}

async fn admitted(
    access: &Arc<Access>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let grant = access.admit(&request)?;
    let posts = request.method() == Method::POST;
    check_topics(&grant, posts, request.uri())?;
    request.extensions_mut().insert(grant.clone());
    let response = tokio::select! {
        response = next.run(request) => response,
        () = access.ended(&grant) => return Err(refused("the token has ended")),
    };
    let kind = response.headers().get(header::CONTENT_TYPE);
    if kind.is_none_or(|kind| !kind.as_bytes().starts_with(b"text/event-stream")) {
        return Ok(response);
    }
    let access = access.clone();
    let ended = Box::pin(async move { access.ended(&grant).await });
    Ok(response.map(|body| Body::from_stream(body.into_data_stream().take_until(ended))))
}

fn check_topics(grant: &Grant, posts: bool, uri: &Uri) -> Result<(), Problem> {
    if uri.path() == "/tickets" {
        return Ok(());
    }
    let topics = uri.path().strip_prefix("/topics/");
    let topics = topics.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, OTHER_PATH))?;
    if posts {
        return grant.may_publish(&topics.parse().map_err(Problem::bad_request)?);
    }
    grant.may_read(&topics.parse().map_err(Problem::bad_request)?)
}

const UNPOISONED: &str = "nothing panics under this lock";

#[cfg(test)]
mod tests {
    use harness::{start_clock, wall_clock};
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_token_and_its_revocation_live_for_an_hour_at_the_most() {
        start_clock();
        let browsers = Browsers::new(Vec::new(), ([127, 0, 0, 1], 0).into(), "");
        let access = Access::new(&[1; 32], browsers, Duration::from_secs(15), wall_clock);
        let token = access.token(&Grant {
            sub: "ann".into(),
            read: Vec::new(),
            publish: Vec::new(),
            iat: access.now(),
            exp: u64::MAX,
        });
        access.revoke("ann");
        advance(Duration::from_secs(LONGEST - 1)).await;
        access.revoke("bob");
        let refused = access.verify(&token).expect_err("it is revoked");
        assert_eq!(refused.detail, "the token was revoked");
        advance(Duration::from_secs(1)).await;
        access.revoke("bob");
        let refused = access.verify(&token).expect_err("it is an hour old");
        assert_eq!(refused.detail, "the token has expired");
        assert_eq!(access.revoked.lock().expect(UNPOISONED).len(), 1);
    }
}
