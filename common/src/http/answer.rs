//! The two answers that are the same in every server: its page and its health.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response,
    header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue},
};

use super::Problem;
use crate::feed::Feed;

/// No other page may lay this one under the user's clicks.
const NO_FRAMES: HeaderValue = HeaderValue::from_static("frame-ancestors 'none'");

/// Answers `GET /` with the browser's half of the technique.
pub fn html(page: &'static str) -> Response<Full<Bytes>> {
    let mut response = text("text/html; charset=utf-8", page);
    response
        .headers_mut()
        .insert(CONTENT_SECURITY_POLICY, NO_FRAMES);
    response
}

/// Answers `GET /healthz`: the server serves, and its feed takes messages.
///
/// # Errors
/// 503 if the feed cannot take messages.
pub fn healthz(feed: &Feed) -> Result<Response<Full<Bytes>>, Problem> {
    feed.health()?;
    Ok(text("text/plain; charset=utf-8", "ok\n"))
}

fn text(content_type: &'static str, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
