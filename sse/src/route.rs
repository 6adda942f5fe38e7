//! From request to answer.

use std::{convert::Infallible, sync::Arc};

use common::{Browsers, Feed, Problem, ServerConfig, expect_no_body, healthz, html, publish};
use http_body_util::Either;
use hyper::{Method, Request, Response, body::Incoming};

use crate::{
    stream::{AnswerBody, Streams},
    takeover::Groups,
};

/// What every connection shares.
pub(crate) struct App {
    pub(crate) feed: Feed,
    pub(crate) streams: Arc<Streams>,
    pub(crate) browsers: Browsers,
    pub(crate) server: ServerConfig,
    /// The open streams that were taken out of hyper wait here. `None` is plain hyper.
    pub(crate) groups: Option<Arc<Groups>>,
}

/// Answers one request.
pub(crate) async fn route(
    app: Arc<App>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let allowed_origin = app.browsers.allowed_origin(request.headers());
    let answered = answer(&app, request).await;
    let mut response = answered.unwrap_or_else(|problem| problem.into_response().map(Either::Left));
    app.browsers.finish(allowed_origin, &mut response);
    Ok(response)
}

async fn answer(
    app: &App,
    mut request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Problem> {
    app.browsers
        .check(&request, request.method() == Method::POST)?;
    // Before `admit`: a browser sends a preflight without credentials.
    if let Some(preflight) = app.browsers.preflight(&request) {
        return Ok(preflight.map(Either::Left));
    }
    admit(&request)?;
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads {
        expect_no_body(&mut request, app.server.publish_limits()).await?;
    }
    let path = request.uri().path().to_owned();
    let whole = match (path.as_str(), path.strip_prefix("/topics/")) {
        ("/", _) if reads => html(include_str!("page.html")),
        ("/healthz", _) if reads => healthz(&app.feed)?,
        // The default probe of some load balancers.
        ("/" | "/healthz", _) if request.method() == Method::OPTIONS => healthz(&app.feed)?,
        ("/" | "/healthz", _) => return Err(Problem::method_not_allowed("GET, HEAD, OPTIONS")),
        (_, Some(topics)) if reads => return app.streams.subscribe(topics, &request),
        (_, Some(topic)) if request.method() == Method::POST => {
            publish(&app.feed, app.server.publish_limits(), topic, request).await?
        }
        (_, Some(_)) => return Err(Problem::method_not_allowed("GET, HEAD, POST")),
        _ => return Err(Problem::not_found(&path)),
    };
    Ok(whole.map(Either::Left))
}

/// Put authentication and authorization here. It is called before any route, and admits everything. Let `/healthz`
/// pass, because a load balancer has no token.
fn admit<B>(_request: &Request<B>) -> Result<(), Problem> {
    Ok(())
}
