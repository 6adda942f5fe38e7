//! From request to answer.

use std::{fmt::Display, num::NonZeroU16, sync::Arc, time::Duration};

use bytes::Bytes;
use common::{
    After, Browsers, Feed, Newest, Problem, Query, ServerConfig, Topics, expect_no_body, healthz,
    html, publish,
};
use http_body_util::Full;
use hyper::{
    Method, Request, Response,
    body::Body,
    upgrade::{self, OnUpgrade},
};
use tokio::sync::OwnedSemaphorePermit;

use crate::{handshake, protocol::SUBPROTOCOL, session::Sessions, spelling::SPELLING};

type Answer = Response<Full<Bytes>>;

/// What all connections share.
pub(crate) struct App {
    pub(crate) feed: Feed,
    pub(crate) browsers: Browsers,
    pub(crate) server: ServerConfig,
    pub(crate) sessions: Arc<Sessions>,
}

/// The session that a connection becomes when its 101 is written.
pub(crate) struct Opening {
    pub(crate) upgrade: OnUpgrade,
    /// What the path and the query ask for: topics, where to start, and whether only the newest messages
    /// are wanted. Without it the session opens unsubscribed.
    pub(crate) subscription: Option<(Topics, After, bool)>,
    /// How often the client wants a `heartbeat` frame.
    pub(crate) heartbeat: Option<Duration>,
    /// Without a slot the session is closed after the 101: a page cannot see why a handshake is refused.
    pub(crate) slot: Option<OwnedSemaphorePermit>,
}

/// Answers one request. A 101 comes with the session that it opens.
pub(crate) async fn route<B>(app: &App, request: Request<B>) -> (Answer, Option<Opening>)
where
    B: Body<Data = Bytes, Error: Display> + Unpin,
{
    let allowed_origin = app.browsers.allowed_origin(request.headers());
    let (mut response, opening) = answer(app, request)
        .await
        .unwrap_or_else(|problem| (problem.into_response(), None));
    app.browsers.finish(allowed_origin, &mut response);
    (response, opening)
}

async fn answer<B>(app: &App, mut request: Request<B>) -> Result<(Answer, Option<Opening>), Problem>
where
    B: Body<Data = Bytes, Error: Display> + Unpin,
{
    let upgrades = handshake::is_asked(request.headers());
    // Browsers apply no same-origin policy to websockets, so the server checks the origin (RFC 6455 §10.2).
    app.browsers
        .check(&request, upgrades || request.method() == Method::POST)?;
    // Before `admit`: a browser sends a preflight without credentials.
    if let Some(preflight) = app.browsers.preflight(&request) {
        return Ok((preflight, None));
    }
    admit(&request)?;
    // hyper sends no body in answer to HEAD.
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads {
        expect_no_body(&mut request, app.server.publish_limits()).await?;
    }
    let path = request.uri().path().to_owned();
    let response = match (path.as_str(), path.strip_prefix("/topics/")) {
        ("/topics", _) if reads => return open(app, None, request),
        (_, Some(topics)) if reads => return open(app, Some(topics), request),
        ("/", _) if reads => html(include_str!("page.html")),
        ("/healthz", _) if reads => healthz(&app.feed)?,
        // The default probe of some load balancers.
        ("/" | "/healthz", _) if request.method() == Method::OPTIONS => healthz(&app.feed)?,
        ("/" | "/healthz", _) => return Err(Problem::method_not_allowed("GET, HEAD, OPTIONS")),
        ("/topics", _) => return Err(Problem::method_not_allowed("GET, HEAD")),
        // A POST that asks for an upgrade is neither a publish nor a handshake.
        (_, Some(topic)) if request.method() == Method::POST && !upgrades => {
            publish(&app.feed, app.server.publish_limits(), topic, request).await?
        }
        (_, Some(_)) => return Err(Problem::method_not_allowed("GET, HEAD, POST")),
        _ => return Err(Problem::not_found(&path)),
    };
    Ok((response, None))
}

/// Put your authentication here. It is called before any route, and admits everything. Let `/healthz` pass, because a
/// load balancer has no token. Which topics a session may publish or subscribe to is decided in `commands.rs`.
fn admit<B>(_request: &Request<B>) -> Result<(), Problem> {
    Ok(())
}

/// Answers a handshake. The path and the query are checked before the 101, so that a client can read
/// why it is refused.
fn open<B>(
    app: &App,
    names: Option<&str>,
    mut request: Request<B>,
) -> Result<(Answer, Option<Opening>), Problem> {
    let query = Query::of(request.uri());
    let after = query.get("after")?.unwrap_or(After::Latest);
    let newest = query.get::<Newest>("newest")?.is_some();
    let topics = names
        .map(str::parse)
        .transpose()
        .map_err(Problem::bad_request)?;
    let heartbeat = query.get::<NonZeroU16>("heartbeat")?;
    let mut switching_protocols = handshake::answer(&request, SUBPROTOCOL)?;
    *switching_protocols.extensions_mut() = SPELLING.clone();
    let opening = Opening {
        upgrade: upgrade::on(&mut request),
        subscription: topics.map(|topics| (topics, after, newest)),
        heartbeat: heartbeat.map(|seconds| Duration::from_secs(seconds.get().into())),
        // Taken before the 101 is sent, so that the slots are never exceeded.
        slot: app.sessions.slot(),
    };
    Ok((switching_protocols, Some(opening)))
}
