//! From request to answer.

use std::{convert::Infallible, fmt::Display, future::ready, pin::Pin, sync::Arc};

use bytes::Bytes;
use common::{
    Browsers, Feed, Pieces, Problem, ServerConfig, expect_no_body, healthz, html, publish,
};
use http_body_util::Empty;
use hyper::{
    Method, Request, Response,
    body::{Body, Incoming},
};

use crate::wait::Polls;

/// What every connection shares.
pub(crate) struct App {
    pub(crate) feed: Feed,
    pub(crate) polls: Polls,
    pub(crate) browsers: Browsers,
    pub(crate) server: ServerConfig,
    /// Whether clients wait without hyper's buffers.
    pub(crate) takeover: bool,
}

/// Answers one request. A poll is parsed and its request dropped before the wait, because a request
/// shares hyper's buffer and would keep all of it in memory.
pub(crate) fn route(
    app: Arc<App>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Pieces>, Infallible>> {
    let allowed_origin = app.browsers.allowed_origin(request.headers());
    let answer = answer(&app, request);
    async move {
        let answered = match answer {
            Ok(answer) => answer.await,
            Err(problem) => Err(problem),
        };
        let mut response = answered.unwrap_or_else(Problem::into_response);
        app.browsers.finish(allowed_origin, &mut response);
        Ok(response)
    }
}

/// The future of an answer. Each kind is boxed by itself, so that a waiting poll does not reserve the
/// memory of a publish.
type LateAnswer = Pin<Box<dyn Future<Output = Result<Response<Pieces>, Problem>> + Send>>;

fn answer<B>(app: &Arc<App>, mut request: Request<B>) -> Result<LateAnswer, Problem>
where
    B: Body<Data = Bytes, Error: Display + Send> + Unpin + Send + 'static,
{
    app.browsers
        .check(&request, request.method() == Method::POST)?;
    // Before `admit`: a browser sends a preflight without credentials.
    if let Some(preflight) = app.browsers.preflight(&request) {
        return Ok(now(preflight));
    }
    admit(&request)?;
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads && !request.body().is_end_stream() {
        let app = app.clone();
        return Ok(Box::pin(async move {
            expect_no_body(&mut request, app.server.publish_limits()).await?;
            answer(&app, request.map(|_| Empty::new()))?.await
        }));
    }
    let path = request.uri().path();
    match (path, path.strip_prefix("/topics/")) {
        ("/", _) if reads => Ok(now(html(include_str!("page.html")))),
        ("/healthz", _) if reads => Ok(now(healthz(&app.feed)?)),
        // The default probe of some load balancers.
        ("/" | "/healthz", _) if request.method() == Method::OPTIONS => {
            Ok(now(healthz(&app.feed)?))
        }
        ("/" | "/healthz", _) => Err(Problem::method_not_allowed("GET, HEAD, OPTIONS")),
        (_, Some(topics)) if reads => {
            let (mut poll, app) = (app.polls.parse(topics, &request)?, app.clone());
            Ok(Box::pin(async move { app.polls.answer(&mut poll).await }))
        }
        (_, Some(topic)) if request.method() == Method::POST => {
            let (app, topic) = (app.clone(), topic.to_owned());
            Ok(Box::pin(async move {
                publish(&app.feed, app.server.publish_limits(), &topic, request).await
            }))
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

fn now(response: Response<Pieces>) -> LateAnswer {
    Box::pin(ready(Ok(response)))
}
