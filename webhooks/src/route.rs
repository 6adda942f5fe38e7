//! From request to answer. What both programs have in common is here; each then has its own routes.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use common::{Problem, Query, is_json, publish, read_body};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Incoming},
    header::{self, HeaderValue},
};

use crate::{App, Program, endpoint::Endpoint, endpoints::Endpoints, pull::Pull};

/// Answers one request.
pub(crate) async fn route(
    app: Arc<App>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let allowed_origin = app.browsers.allowed_origin(request.headers());
    let answered = answer(&app, request).await;
    let mut response = answered.unwrap_or_else(Problem::into_response);
    app.browsers.finish(allowed_origin, &mut response);
    Ok(response)
}

async fn answer(app: &App, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Problem> {
    let path = request.uri().path().to_owned();
    if !app.program.is_signed(&path) {
        let safe = reads(&request) || request.method() == Method::OPTIONS;
        app.browsers.check(&request, !safe)?;
    }
    // Before `admit`: a browser asks this without credentials.
    if let Some(preflight) = app.browsers.preflight(&request) {
        return Ok(preflight);
    }
    admit(&request)?;
    if reads(&request) && !request.body().is_end_stream() {
        return Err(Problem::bad_request("a GET has no body"));
    }
    match (path.as_str(), &app.program) {
        ("/", program) if reads(&request) => Ok(text("text/html; charset=utf-8", program.page())),
        ("/healthz", _) if reads(&request) => {
            app.feed.health()?;
            Ok(text("text/plain; charset=utf-8", "ok\n"))
        }
        ("/" | "/healthz", _) => Err(Problem::method_not_allowed("GET, HEAD")),
        (path, Program::Receiver(receiver)) => receiver.answer(app, path, request).await,
        (path, Program::Sender(endpoints)) => sender(app, endpoints, path, request).await,
    }
}

/// The place for authentication and authorization: called before any route, admits everything.
fn admit<B>(_request: &Request<B>) -> Result<(), Problem> {
    Ok(())
}

/// The sender's own routes. Nobody subscribes by a GET: to subscribe is to register an endpoint.
async fn sender(
    app: &App,
    endpoints: &Arc<Endpoints>,
    path: &str,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Problem> {
    let posts = request.method() == Method::POST;
    if let Some(topic) = path.strip_prefix("/topics/") {
        if !posts {
            return Err(Problem::method_not_allowed("POST"));
        }
        endpoints.check_disk()?;
        return publish(&app.feed, app.config.publish_limits(), topic, request).await;
    }
    match path.strip_prefix("/endpoints") {
        Some("") if posts => register(app, endpoints, request).await,
        Some("") if reads(&request) => {
            let list = endpoints.list();
            let list: Vec<_> = list.iter().map(|endpoint| endpoint.to_json(None)).collect();
            let list = format!("{{\"endpoints\":[{}]}}", list.join(","));
            Ok(json(StatusCode::OK, list))
        }
        Some("") => Err(Problem::method_not_allowed("GET, HEAD, POST")),
        Some(rest) if rest.starts_with('/') => one(app, endpoints, &rest[1..], request).await,
        _ => Err(Problem::not_found(path)),
    }
}

async fn register(
    app: &App,
    endpoints: &Arc<Endpoints>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Problem> {
    let body = read_json(app, request).await?;
    let (endpoint, secret) = endpoints.register(&body).await?;
    let mut response = json(StatusCode::CREATED, endpoint.to_json(Some(secret)));
    let location = format!("/endpoints/{}", endpoint.id);
    let location = HeaderValue::try_from(location).expect("an endpoint's id is header text");
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// `/endpoints/{id}` and what is below.
async fn one(
    app: &App,
    endpoints: &Arc<Endpoints>,
    rest: &str,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Problem> {
    let (id, part) = rest.split_once('/').unwrap_or((rest, ""));
    let path = request.uri().path().to_owned();
    let missing = || Problem::not_found(&path);
    let endpoint = endpoints.find(id).ok_or_else(missing)?;
    match part {
        "" if rest.ends_with('/') => Err(missing()),
        "" if reads(&request) => Ok(shown(&endpoint, None)),
        "" if request.method() == Method::DELETE => {
            endpoints.remove(&endpoint).await?;
            let mut response = Response::default();
            *response.status_mut() = StatusCode::NO_CONTENT;
            Ok(response)
        }
        "" if request.method() == Method::PATCH => {
            let body = read_json(app, request).await?;
            let endpoint = endpoints.patch(&endpoint, &body).await?;
            Ok(shown(&endpoint, None))
        }
        "" => Err(Problem::method_not_allowed("DELETE, GET, HEAD, PATCH")),
        "deliveries" if reads(&request) => {
            let before = Query::of(request.uri()).get("before")?;
            let deliveries = endpoints.deliveries(&endpoint, before).await?;
            Ok(json(StatusCode::OK, deliveries))
        }
        "messages" if reads(&request) => {
            let pull = Pull::parse(endpoint.clone(), request.uri())?;
            let page = endpoints.pull(pull, &endpoint, &app.feed).await?;
            Ok(json(StatusCode::OK, page.to_json()))
        }
        "deliveries" | "messages" => Err(Problem::method_not_allowed("GET, HEAD")),
        _ => act(app, endpoints, &endpoint, part, request).await,
    }
}

/// What is asked of an endpoint by a POST.
async fn act(
    app: &App,
    endpoints: &Arc<Endpoints>,
    endpoint: &Endpoint,
    part: &str,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Problem> {
    let dead = part.strip_prefix("dead/");
    let dead = dead.and_then(|rest| rest.strip_suffix("/retry"));
    if dead.is_none() && !matches!(part, "enable" | "replay" | "rotate") {
        return Err(Problem::not_found(request.uri().path()));
    }
    if request.method() != Method::POST {
        return Err(Problem::method_not_allowed("POST"));
    }
    let body = read_json(app, request).await?;
    let endpoint = match (part, dead) {
        (_, Some(id)) => endpoints.retry(endpoint, id, &body).await?,
        ("enable", _) => endpoints.enable(endpoint, &body).await?,
        ("replay", _) => endpoints.replay(endpoint, &body).await?,
        _ => {
            let (endpoint, secret) = endpoints.rotate(endpoint, &body).await?;
            return Ok(shown(&endpoint, Some(secret)));
        }
    };
    Ok(shown(&endpoint, None))
}

fn shown(endpoint: &Endpoint, secret: Option<String>) -> Response<Full<Bytes>> {
    json(StatusCode::OK, endpoint.to_json(secret))
}

/// The whole body, byte for byte, of a request that says it is JSON. To insist on that also keeps out
/// what a browser's form may send without a preflight.
pub(crate) async fn read_json(app: &App, request: Request<Incoming>) -> Result<Bytes, Problem> {
    if !is_json(&request) {
        let detail = "Content-Type is not application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    read_body(request, app.config.publish_limits()).await
}

/// Whether the request only reads.
pub(crate) fn reads<B>(request: &Request<B>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
}

pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.into()));
    *response.status_mut() = status;
    let fields = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"), // it changes by itself
    ];
    let fields = fields.map(|(name, value)| (name, HeaderValue::from_static(value)));
    response.headers_mut().extend(fields);
    response
}

fn text(content_type: &'static str, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
