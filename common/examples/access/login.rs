//! A login, and a page that shows what a browser sees when it is admitted, refused, and when its token ends.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::header,
    response::Response,
    routing::{get, post},
};
use common::{Problem, html};
use serde::Deserialize;

use super::Access;

const MAX_BODY: usize = 1_024;

/// What the page sends. Yours also has a password, or the answer of an identity provider. It does not let the user
/// choose the topics.
#[derive(Deserialize)]
struct Login {
    sub: String,
    topics: String,
    seconds: u64,
}

/// `GET /` and `POST /login`, which need no token. The page listens by `technique`, which is `EventSource`, `fetch` or
/// `WebSocket`. It expects the guarded routes beside it, at `/topics/` and `/tickets`.
pub fn routes(access: Arc<Access>, technique: &str) -> Router {
    let page = include_str!("page.html").replace("TECHNIQUE", technique);
    let page: &'static str = page.leak(); // once, for as long as the program runs
    let router = Router::new().route("/", get(async move || html::<Body>(page)));
    router.route("/login", post(login)).with_state(access)
}

async fn login(State(access): State<Arc<Access>>, request: Request) -> Response {
    let answer = log_in(&access, request).await;
    answer.unwrap_or_else(Problem::into_response)
}

/// The cookie is for requests of this page. The token in the body is for clients that put it elsewhere: a site that
/// needs only the cookie leaves it out, so that no script can read it.
async fn log_in(access: &Access, request: Request) -> Result<Response, Problem> {
    // A page of another site must not log the user in as somebody else.
    access.browsers.check(&request, true)?;
    let body = to_bytes(request.into_body(), MAX_BODY).await;
    let body = body.map_err(Problem::bad_request)?;
    let login: Login = serde_json::from_slice(&body).map_err(Problem::bad_request)?;
    let token = access.token_for(&login.sub, &login.topics, login.seconds);
    let cookie = format!("token={token}; HttpOnly; Secure; SameSite=Strict; Path=/");
    let response = Response::builder()
        .header(header::CACHE_CONTROL, "no-store")
        .header(header::SET_COOKIE, cookie)
        .body(Body::from(format!("{{\"token\":\"{token}\"}}")));
    Ok(response.expect("a token is header text"))
}
