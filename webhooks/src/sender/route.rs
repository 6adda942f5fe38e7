//! From request to answer.

use std::sync::Arc;

use bytes::Bytes;
use common::{
    Browsers, Feed, Pieces, Problem, PublishLimits, Query, expect_no_body, healthz, html,
    idempotency_key, is_json, publish, read_body,
};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
};

use tracing::Instrument;

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
    let answered = answer(app.clone(), request).await;
    let mut response = answered.unwrap_or_else(Problem::into_response);
    app.browsers.finish(allowed_origin, &mut response);
    Ok(response)
}

/// Unlike in the other servers, a GET of a topic does not subscribe: a client registers an endpoint.
async fn answer(
    app: Arc<App>,
    mut request: Request<Incoming>,
) -> Result<Response<Pieces>, Problem> {
    let path = request.uri().path().to_owned();
    let safe = reads(&request) || request.method() == Method::OPTIONS;
    app.browsers.check(&request, !safe)?;
    // Before `admit`: a browser sends a preflight without credentials.
    if let Some(preflight) = app.browsers.preflight(&request) {
        return Ok(preflight);
    }
    admit(&request)?;
    if reads(&request) {
        expect_no_body(&mut request, app.limits).await?;
    }
    match path.as_str() {
        "/" if reads(&request) => Ok(html(include_str!("page.html"))),
        // OPTIONS is the default probe of some load balancers.
        "/" | "/healthz" if safe => healthz(&app.feed),
        "/" | "/healthz" => Err(Problem::method_not_allowed("GET, HEAD, OPTIONS")),
        path => match path.strip_prefix("/topics/") {
            Some(topic) => take(&app, topic, request).await,
            None => to_its_end(async move { endpoints(&app, request).await }).await,
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

/// Finishes `work` even if the client leaves, because hyper then drops the future of the answer.
async fn to_its_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let work = tokio::spawn(work.in_current_span());
    work.await.expect("the management does not panic")
}

/// `/endpoints` and the paths below it.
async fn endpoints(app: &App, request: Request<Incoming>) -> Result<Response<Pieces>, Problem> {
    let path = request.uri().path().to_owned();
    let missing = || Problem::not_found(&path);
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let ["endpoints", below @ ..] = parts.as_slice() else {
        return Err(missing());
    };
    let [id, part @ ..] = below else {
        return match *request.method() {
            Method::POST => register(app, request).await,
            Method::GET | Method::HEAD => Ok(list(&app.endpoints)),
            _ => Err(Problem::method_not_allowed("GET, HEAD, POST")),
        };
    };
    let endpoint = app.endpoints.find(id).ok_or_else(missing)?;
    let shown = match (part, request.method()) {
        ([], &Method::GET | &Method::HEAD) => endpoint.to_json(None),
        ([], &Method::DELETE) => {
            app.endpoints.remove(&endpoint).await?;
            let mut response = Response::default();
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(response);
        }
        ([], &Method::PATCH) => {
            let body = read_json(app, request).await?;
            app.endpoints.patch(&endpoint, &body).await?
        }
        ([], _) => return Err(Problem::method_not_allowed("DELETE, GET, HEAD, PATCH")),
        (["deliveries"], &Method::GET | &Method::HEAD) => {
            let before = Query::of(request.uri()).get("before")?;
            app.endpoints.deliveries(&endpoint, before).await?
        }
        (["deliveries"], _) => return Err(Problem::method_not_allowed("GET, HEAD")),
        (["enable" | "replay" | "rotate" | "test"] | ["dead", _, "retry"], method) => {
            if method != Method::POST {
                return Err(Problem::method_not_allowed("POST"));
            }
            let body = read_json(app, request).await?;
            act(&app.endpoints, &endpoint, part, &body).await?
        }
        _ => return Err(missing()),
    };
    Ok(json(StatusCode::OK, shown))
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
    let (endpoint, status) = app.endpoints.register(&body, key).await?;
    let mut response = json(status, endpoint.to_json(endpoint.secret()));
    let location = format!("/endpoints/{}", endpoint.id);
    let location = HeaderValue::try_from(location).expect("an endpoint's id is header text");
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// The POST requests below an endpoint.
async fn act(
    endpoints: &Endpoints,
    endpoint: &Endpoint,
    part: &[&str],
    body: &[u8],
) -> Result<String, Problem> {
    match part {
        ["dead", id, _] => endpoints.retry(endpoint, id, body).await,
        ["enable"] => endpoints.enable(endpoint, body).await,
        ["replay"] => endpoints.replay(endpoint, body).await,
        ["test"] => endpoints.test(endpoint, body).await,
        _ => endpoints.rotate(endpoint, body).await,
    }
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
