//! The two answers that are the same in every server: its page and its health.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue},
};

use super::Problem;
use crate::feed::Feed;

/// No other page may lay this one under the user's clicks.
const NO_FRAMES: HeaderValue = HeaderValue::from_static("frame-ancestors 'none'");

/// Answers `GET /` with the browser's half of the technique. A browser may keep the page as it left it,
/// but asks for it anew when it is loaded again: `no-store` would forbid both.
pub fn html(page: &'static str) -> Response<Full<Bytes>> {
    let mut response = text("text/html; charset=utf-8", "no-cache", page);
    response
        .headers_mut()
        .insert(CONTENT_SECURITY_POLICY, NO_FRAMES);
    response
}

/// Answers `GET /healthz`, and OPTIONS, which some load balancers ask by default: the server serves, and
/// its feed takes messages. A cache must not say so for a server that is down.
///
/// # Errors
/// 503 if the feed cannot take messages.
pub fn healthz(feed: &Feed) -> Result<Response<Full<Bytes>>, Problem> {
    feed.health()?;
    Ok(text("text/plain; charset=utf-8", "no-store", "ok\n"))
}

fn text(
    content_type: &'static str,
    cache_control: &'static str,
    body: &'static str,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    let fields = [(CONTENT_TYPE, content_type), (CACHE_CONTROL, cache_control)];
    let fields = fields.map(|(name, value)| (name, HeaderValue::from_static(value)));
    response.headers_mut().extend(fields);
    response
}
