//! From request to answer.

use std::{convert::Infallible, fmt::Display, sync::Arc};

use bytes::Bytes;
use common::{
    Browsers, Feed, Pieces, Problem, ServerConfig, expect_no_body, healthz, html, publish,
};
use hyper::{Method, Request, Response, body::Body};

use crate::poll::Polls;

/// What every connection shares.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) server: ServerConfig,
    pub(crate) feed: Feed,
    pub(crate) browsers: Browsers,
    pub(crate) polls: Polls,
    /// Whether a connection has no buffers between two polls.
    pub(crate) takeover: bool,
}

/// Answers one request.
pub(crate) async fn route(
    app: Arc<App>,
    request: Request<impl Body<Data = Bytes, Error: Display> + Unpin>,
) -> Result<Response<Pieces>, Infallible> {
    let allowed_origin = app.browsers.allowed_origin(request.headers());
    let answered = answer(&app, request).await;
    let mut response = answered.unwrap_or_else(Problem::into_response);
    app.browsers.finish(allowed_origin, &mut response);
    Ok(response)
}

async fn answer(
    app: &App,
    mut request: Request<impl Body<Data = Bytes, Error: Display> + Unpin>,
) -> Result<Response<Pieces>, Problem> {
    app.browsers
        .check(&request, request.method() == Method::POST)?;
    // Before `admit`: a browser sends a preflight without credentials.
    if let Some(preflight) = app.browsers.preflight(&request) {
        return Ok(preflight);
    }
    admit(&request)?;
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads {
        expect_no_body(&mut request, app.server.publish_limits()).await?;
    }
    let path = request.uri().path();
    match (path, path.strip_prefix("/topics/")) {
        ("/", _) if reads => Ok(html(include_str!("page.html"))),
        ("/healthz", _) if reads => healthz(&app.feed),
        // The default probe of some load balancers.
        ("/" | "/healthz", _) if request.method() == Method::OPTIONS => healthz(&app.feed),
        ("/" | "/healthz", _) => Err(Problem::method_not_allowed("GET, HEAD, OPTIONS")),
        (_, Some(topics)) if reads => app.polls.answer(topics, &request).await,
        (_, Some(topic)) if request.method() == Method::POST => {
            let topic = topic.to_owned();
            publish(&app.feed, app.server.publish_limits(), &topic, request).await
        }
        (_, Some(_)) => Err(Problem::method_not_allowed("GET, HEAD, POST")),
        _ => Err(Problem::not_found(path)),
    }
}

/// Put authentication and authorization here. It is called before any route, and admits everything. Let `/healthz`
/// pass, because a load balancer has no token.
fn admit<B>(_request: &Request<B>) -> Result<(), Problem> {
    Ok(())
}
