//! From request to answer.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use common::{After, Problem, Query, publish};
use http_body_util::{Either, Full};
use hyper::{
    Method, Request, Response,
    body::{Body, Incoming},
    header::{self, HeaderMap, HeaderValue},
};
use tracing::info;

use crate::{
    App, event,
    stream::{self, EventBody, Subscriber, Subscription},
};

/// An answer that is all there, or one that goes on.
pub(crate) type Answer = Either<Full<Bytes>, Subscriber>;

/// The answer as hyper writes it.
pub(crate) fn body(answer: Answer) -> Either<Full<Bytes>, EventBody> {
    match answer {
        Either::Left(whole) => Either::Left(whole),
        Either::Right(subscriber) => Either::Right(stream::body(subscriber)),
    }
}

/// Answers one request.
pub(crate) async fn route(
    app: Arc<App>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let allowed_origin = app.browsers.allowed_origin(request.headers());
    let answered = answer(&app, request).await;
    let mut response = answered.unwrap_or_else(|problem| problem.into_response().map(Either::Left));
    app.browsers.finish(allowed_origin, &mut response);
    Ok(response)
}

async fn answer(app: &Arc<App>, request: Request<Incoming>) -> Result<Response<Answer>, Problem> {
    app.browsers
        .check(&request, request.method() == Method::POST)?;
    // Before `admit`: a browser asks this without credentials.
    if let Some(preflight) = app.browsers.preflight(&request) {
        return Ok(preflight.map(Either::Left));
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
        (_, Some(topics)) if reads => subscribe(app, topics, &request),
        (_, Some(topic)) if request.method() == Method::POST => {
            Ok(
                publish(&app.feed, app.config.publish_limits(), topic, request)
                    .await?
                    .map(Either::Left),
            )
        }
        (_, Some(_)) => Err(Problem::method_not_allowed("GET, HEAD, POST")),
        _ => Err(Problem::not_found(&path)),
    }
}

/// The place for authentication and authorization: called before any route, admits everything.
fn admit<B>(_request: &Request<B>) -> Result<(), Problem> {
    Ok(())
}

fn subscribe<B>(
    app: &Arc<App>,
    topics: &str,
    request: &Request<B>,
) -> Result<Response<Answer>, Problem> {
    let subscription = Subscription {
        topics: topics.parse().map_err(Problem::bad_request)?,
        after: after(request)?,
        heartbeat: Query::of(request.uri())
            .get("heartbeat")?
            .unwrap_or_default(),
    };
    let body = if request.method() == Method::HEAD {
        Either::Left(Full::default())
    } else if let Ok(place) = app.subscribers.clone().try_acquire_owned() {
        Either::Right(Subscriber::new(app, subscription, place))
    } else {
        info!("a stream is refused: at the subscriber limit");
        // Any status but 200 would end a browser's EventSource for good.
        Either::Left(Full::from(event::refusal(
            "at the subscriber limit",
            stream::jittered(app.config.retry),
        )))
    };
    let mut response = Response::new(body);
    event_stream_fields(response.headers_mut());
    Ok(response)
}

/// `Last-Event-ID`, which is what a browser sends when it reconnects, or else `after=`.
fn after<B>(request: &Request<B>) -> Result<After, Problem> {
    let queried = Query::of(request.uri()).get("after")?;
    let last_event_id = request
        .headers()
        .get("last-event-id")
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    match last_event_id.filter(|id| !id.is_empty()) {
        Some(id) => Ok(After::lenient(&id)),
        None => Ok(queried.unwrap_or(After::Latest)),
    }
}

/// What keeps caches and proxies from holding events back.
fn event_stream_fields(headers: &mut HeaderMap) {
    let fields = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store, no-transform"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"), // nginx
        (header::HeaderName::from_static("incremental"), "?1"), // draft-ietf-httpbis-incremental
    ];
    headers.extend(fields.map(|(name, value)| (name, HeaderValue::from_static(value))));
}

fn text(content_type: &'static str, body: &'static str) -> Response<Answer> {
    let mut response = Response::new(Either::Left(Full::from(body)));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
