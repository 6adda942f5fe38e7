//! From request to answer.

use std::sync::Arc;

use bytes::Bytes;
use common::{
    Browsers, Feed, Pieces, Problem, PublishLimits, Query, healthz, html, idempotency_key, is_json,
    publish, read_body,
};

use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Incoming},
    header::{self, HeaderValue},
};

use super::{endpoint::Endpoint, endpoints::Endpoints, push::OPERATOR};
use crate::serve::{Answer, json, reads};

/// What every connection shares.
pub(super) struct App {
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) feed: Feed,
    pub(super) browsers: Browsers,
    pub(super) limits: PublishLimits,
}

/// Answers one request.
pub(super) async fn route(app: Arc<App>, request: Request<Incoming>) -> Answer {
    let allowed_origin = app.browsers.allowed_origin(request.headers());
    let answered = answer(&app, request).await;
    let mut response = answered.unwrap_or_else(Problem::into_response);
    app.browsers.finish(allowed_origin, &mut response);
    Ok(response)
}

/// Unlike in the other servers, a GET of a topic does not subscribe: a client registers an endpoint.
async fn answer(app: &App, request: Request<Incoming>) -> Result<Response<Pieces>, Problem> {
    let path = request.uri().path().to_owned();
    let safe = reads(&request) || request.method() == Method::OPTIONS;
    app.browsers.check(&request, !safe)?;
    // Before `admit`: a browser sends a preflight without credentials.
    if let Some(preflight) = app.browsers.preflight(&request) {
        return Ok(preflight);
    }
    admit(&request)?;
    if reads(&request) && !request.body().is_end_stream() {
        return Err(Problem::bad_request("a GET has no body"));
    }
    match path.as_str() {
        "/" if reads(&request) => Ok(html(include_str!("page.html"))),
        "/healthz" if safe => healthz(&app.feed),
        "/healthz" => Err(Problem::method_not_allowed("GET, HEAD, OPTIONS")),
        "/" => Err(Problem::method_not_allowed("GET, HEAD")),
        path => match path.strip_prefix("/topics/") {
            Some(topic) => take(app, topic, request).await,
            None => endpoints(app, path, request).await,
        },
    }
}

/// The place for authentication and authorization. It is called before any route, and admits everything.
fn admit<B>(_request: &Request<B>) -> Result<(), Problem> {
    Ok(())
}

/// Publishes, unless the disk budget is used up or the topic is the sender's own.
async fn take(
    app: &App,
    topic: &str,
    request: Request<Incoming>,
) -> Result<Response<Pieces>, Problem> {
    if request.method() != Method::POST {
        return Err(Problem::method_not_allowed("POST"));
    }
    if topic == OPERATOR {
        let detail = format!("only the sender publishes to {OPERATOR}");
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    app.endpoints.check_disk()?;
    publish(&app.feed, app.limits, topic, request).await
}

/// `/endpoints` and the paths below it.
async fn endpoints(
    app: &App,
    path: &str,
    request: Request<Incoming>,
) -> Result<Response<Pieces>, Problem> {
    match path.strip_prefix("/endpoints") {
        Some("") if request.method() == Method::POST => register(app, request).await,
        Some("") if reads(&request) => Ok(list(&app.endpoints)),
        Some("") => Err(Problem::method_not_allowed("GET, HEAD, POST")),
        Some(rest) if rest.starts_with('/') => one(app, &rest[1..], request).await,
        _ => Err(Problem::not_found(path)),
    }
}

fn list(endpoints: &Endpoints) -> Response<Pieces> {
    let all = endpoints.list();
    let all: Vec<String> = all.iter().map(|endpoint| endpoint.to_json(None)).collect();
    json(
        StatusCode::OK,
        format!("{{\"endpoints\":[{}]}}", all.join(",")),
    )
}

async fn register(app: &App, request: Request<Incoming>) -> Result<Response<Pieces>, Problem> {
    let key = idempotency_key(&request)?;
    let body = read_json(app, request).await?;
    let registered = app.endpoints.register(&body, key).await?;
    let endpoint = registered.endpoint;
    let status = match registered.is_repeat {
        true => StatusCode::OK,
        false => StatusCode::CREATED,
    };
    let mut response = json(status, endpoint.to_json(endpoint.secret()));
    let location = format!("/endpoints/{}", endpoint.id);
    let location = HeaderValue::try_from(location).expect("an endpoint's id is header text");
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// `/endpoints/{id}` and what is below.
async fn one(
    app: &App,
    rest: &str,
    request: Request<Incoming>,
) -> Result<Response<Pieces>, Problem> {
    let (id, part) = rest.split_once('/').unwrap_or((rest, ""));
    let path = request.uri().path().to_owned();
    let missing = || Problem::not_found(&path);
    let endpoint = app.endpoints.find(id).ok_or_else(missing)?;
    match part {
        "" if rest.ends_with('/') => Err(missing()),
        "" if reads(&request) => Ok(shown(&endpoint, None)),
        "" if request.method() == Method::DELETE => {
            app.endpoints.remove(&endpoint).await?;
            let mut response = Response::default();
            *response.status_mut() = StatusCode::NO_CONTENT;
            Ok(response)
        }
        "" if request.method() == Method::PATCH => {
            let body = read_json(app, request).await?;
            let endpoint = app.endpoints.patch(&endpoint, &body).await?;
            Ok(shown(&endpoint, None))
        }
        "" => Err(Problem::method_not_allowed("DELETE, GET, HEAD, PATCH")),
        "deliveries" if reads(&request) => {
            let before = Query::of(request.uri()).get("before")?;
            let deliveries = app.endpoints.deliveries(&endpoint, before).await?;
            Ok(json(StatusCode::OK, deliveries))
        }
        "deliveries" => Err(Problem::method_not_allowed("GET, HEAD")),
        _ => act(app, &endpoint, part, request).await,
    }
}

/// The POST requests below an endpoint.
async fn act(
    app: &App,
    endpoint: &Endpoint,
    part: &str,
    request: Request<Incoming>,
) -> Result<Response<Pieces>, Problem> {
    let dead = part.strip_prefix("dead/");
    let dead = dead.and_then(|rest| rest.strip_suffix("/retry"));
    if dead.is_none() && !matches!(part, "enable" | "replay" | "rotate" | "test") {
        return Err(Problem::not_found(request.uri().path()));
    }
    if request.method() != Method::POST {
        return Err(Problem::method_not_allowed("POST"));
    }
    let body = read_json(app, request).await?;
    let endpoint = match (part, dead) {
        (_, Some(id)) => app.endpoints.retry(endpoint, id, &body).await?,
        ("enable", _) => app.endpoints.enable(endpoint, &body).await?,
        ("test", _) => {
            return Ok(json(
                StatusCode::OK,
                app.endpoints.test(endpoint, &body).await?,
            ));
        }
        ("replay", _) => app.endpoints.replay(endpoint, &body).await?,
        _ => {
            let (endpoint, secret) = app.endpoints.rotate(endpoint, &body).await?;
            return Ok(shown(&endpoint, Some(secret)));
        }
    };
    Ok(shown(&endpoint, None))
}

fn shown(endpoint: &Endpoint, secret: Option<String>) -> Response<Pieces> {
    json(StatusCode::OK, endpoint.to_json(secret))
}

/// The whole body of a request that says it is JSON. Requiring the media type also stops a browser's form,
/// which needs no preflight.
async fn read_json(app: &App, request: Request<Incoming>) -> Result<Bytes, Problem> {
    if !is_json(&request) {
        let detail = "Content-Type is not application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    read_body(request, app.limits).await
}
