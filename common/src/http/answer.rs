//! The two answers that are the same in every server, its page and its health.

use hyper::{
    Response,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue},
};

use super::Problem;
use crate::feed::Feed;

/// No other site may show this page in a frame and trick the user into clicking it (clickjacking).
const NO_FRAMES: HeaderValue = HeaderValue::from_static("frame-ancestors 'none'");

/// Answers `GET /` with the technique's page. `no-cache`: a browser checks for a new version at each load,
/// but may still keep the page for its back button, which `no-store` would prevent.
pub fn html<B: From<&'static str>>(page: &'static str) -> Response<B> {
    let mut response = text("text/html; charset=utf-8", "no-cache", page);
    response
        .headers_mut()
        .insert(CONTENT_SECURITY_POLICY, NO_FRAMES);
    response
}

/// Answers `GET /healthz`, and OPTIONS, which some load balancers send by default. 200 means that the
/// server runs and its feed accepts messages. `no-store`: a cached 200 would hide a server that is down.
///
/// # Errors
/// 503 if the feed cannot take messages.
pub fn healthz<B: From<&'static str>>(feed: &Feed) -> Result<Response<B>, Problem> {
    feed.health()?;
    Ok(text("text/plain; charset=utf-8", "no-store", "ok\n"))
}

fn text<B: From<&'static str>>(
    content_type: &'static str,
    cache_control: &'static str,
    body: &'static str,
) -> Response<B> {
    let mut response = Response::new(body.into());
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static(cache_control));
    response
}
