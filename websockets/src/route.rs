//! From request to answer.

use std::{
    convert::Infallible,
    num::NonZeroU16,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use common::{After, Problem, Query, publish};
use http_body_util::Full;
use hyper::{
    Method, Request, Response,
    body::{Body, Incoming},
    header::{self, HeaderValue},
    upgrade::{self, OnUpgrade},
};
use tokio::sync::OwnedSemaphorePermit;

use crate::{App, handshake, session::Asked, socket::Limits};

/// Frames that a message may come in.
const MAX_FRAGMENTS: u32 = 1_024;
/// What the tests of the protocol send to /echo: messages of 16 MiB, in frames of 64 bytes.
const ECHO: Limits = Limits {
    message: 16 * 1024 * 1024,
    fragments: 262_144 + 1, // an empty one may end the message
};

/// A session that begins when the 101 is written.
pub(crate) struct Opening {
    /// For those who let hyper write it.
    pub(crate) upgrade: OnUpgrade,
    pub(crate) asked: Asked,
    pub(crate) limits: Limits,
    /// Freed when the session ends, however it ends. None is free: the session ends at once. A page
    /// cannot see a refusal before the upgrade.
    pub(crate) place: Option<OwnedSemaphorePermit>,
}

/// Answers one request. A session that it opens is left in `opening`.
pub(crate) async fn route(
    app: Arc<App>,
    opening: &Mutex<Option<Opening>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let allowed_origin = app.browsers.allowed_origin(request.headers());
    let answered = answer(&app, opening, request).await;
    let mut response = answered.unwrap_or_else(Problem::into_response);
    app.browsers.finish(allowed_origin, &mut response);
    Ok(response)
}

async fn answer(
    app: &Arc<App>,
    opening: &Mutex<Option<Opening>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Problem> {
    let upgrades = handshake::is_asked(request.headers());
    app.browsers
        .check(&request, upgrades || request.method() == Method::POST)?;
    // Before `admit`: a browser asks this without credentials.
    if let Some(preflight) = app.browsers.preflight(&request) {
        return Ok(preflight);
    }
    admit(&request)?;
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads && !request.body().is_end_stream() {
        return Err(Problem::bad_request("a GET has no body"));
    }
    let path = request.uri().path().to_owned();
    match (path.as_str(), path.strip_prefix("/topics/")) {
        ("/", _) if reads => Ok(text("text/html; charset=utf-8", include_str!("page.html"))),
        ("/healthz", _) if reads => {
            app.feed.health()?;
            Ok(text("text/plain; charset=utf-8", "ok\n"))
        }
        ("/" | "/healthz", _) => Err(Problem::method_not_allowed("GET, HEAD")),
        ("/topics", _) if reads => open(app, opening, feed(None, &request)?, request),
        (_, Some(topics)) if reads => open(app, opening, feed(Some(topics), &request)?, request),
        ("/echo", _) if reads && app.config.echo => open(app, opening, Asked::Echo, request),
        (_, Some(topic)) if request.method() == Method::POST && !upgrades => {
            publish(&app.feed, app.config.publish_limits(), topic, request).await
        }
        (_, Some(_)) => Err(Problem::method_not_allowed("GET, HEAD, POST")),
        ("/topics", _) => Err(Problem::method_not_allowed("GET, HEAD")),
        _ => Err(Problem::not_found(&path)),
    }
}

/// The place for authentication: called before any route, admits everything. What a session may publish
/// and subscribe to is judged by its commands.
fn admit<B>(_request: &Request<B>) -> Result<(), Problem> {
    Ok(())
}

/// Without `topics` the session opens unsubscribed.
fn feed<B>(topics: Option<&str>, request: &Request<B>) -> Result<Asked, Problem> {
    let query = Query::of(request.uri());
    let after = query.get("after")?.unwrap_or(After::Latest);
    let topics = topics.map(str::parse).transpose();
    Ok(Asked::Feed {
        subscription: topics
            .map_err(Problem::bad_request)?
            .map(|topics| (topics, after)),
        heartbeat: query.get::<NonZeroU16>("heartbeat")?,
    })
}

/// Upgrades.
fn open(
    app: &App,
    opening: &Mutex<Option<Opening>>,
    asked: Asked,
    mut request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Problem> {
    let switching = handshake::answer(&request)?;
    let limits = match asked {
        Asked::Echo => ECHO,
        Asked::Feed { .. } => Limits {
            message: app.config.max_message,
            fragments: MAX_FRAGMENTS,
        },
    };
    *opening.lock().expect("nothing panics under this lock") = Some(Opening {
        upgrade: upgrade::on(&mut request),
        asked,
        limits,
        place: app.subscribers.clone().try_acquire_owned().ok(),
    });
    Ok(switching)
}

fn text(content_type: &'static str, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
