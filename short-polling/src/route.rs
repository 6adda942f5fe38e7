//! From request to answer.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use common::{Problem, publish};
use http_body_util::Full;
use hyper::{
    Method, Request, Response,
    body::{Body, Incoming},
    header::{self, HeaderValue},
};

use crate::{App, poll};

/// Every answer is all there at once.
pub(crate) type AnswerBody = Full<Bytes>;

/// Answers one request.
pub(crate) async fn route(
    app: Arc<App>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let allowed_origin = app.browsers.allowed_origin(request.headers());
    let answered = answer(&app, request).await;
    let mut response = answered.unwrap_or_else(Problem::into_response);
    app.browsers.finish(allowed_origin, &mut response);
    Ok(response)
}

async fn answer(
    app: &Arc<App>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Problem> {
    app.browsers
        .check(&request, request.method() == Method::POST)?;
    // Before `admit`: a browser asks this without credentials.
    if let Some(preflight) = app.browsers.preflight(&request) {
        return Ok(preflight);
    }
    admit(&request)?;
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads && !request.body().is_end_stream() {
        return Err(Problem::bad_request("a GET has no body"));
    }
    let path = request.uri().path();
    match (path, path.strip_prefix("/topics/")) {
        ("/", _) if reads => Ok(text("text/html; charset=utf-8", include_str!("page.html"))),
        ("/healthz", _) if reads => {
            app.feed.health()?;
            Ok(text("text/plain; charset=utf-8", "ok\n"))
        }
        ("/" | "/healthz", _) => Err(Problem::method_not_allowed("GET, HEAD")),
        (_, Some(topics)) if reads => poll::poll(app, topics, &request).await,
        (_, Some(topic)) if request.method() == Method::POST => {
            let topic = topic.to_owned();
            publish(
                &app.feed,
                app.config.server.publish_limits(),
                &topic,
                request,
            )
            .await
        }
        (_, Some(_)) => Err(Problem::method_not_allowed("GET, HEAD, POST")),
        _ => Err(Problem::not_found(path)),
    }
}

/// The place for authentication and authorization: called before any route, admits everything.
fn admit<B>(_request: &Request<B>) -> Result<(), Problem> {
    Ok(())
}

fn text(content_type: &'static str, body: &'static str) -> Response<AnswerBody> {
    let mut response = Response::new(Full::from(body));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
