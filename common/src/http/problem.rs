//! Errors as `application/problem+json` (RFC 9457).

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use serde_json::json;

/// Why a request is refused: a status, and a detail that names the offending part.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{status}: {detail}")]
pub struct Problem {
    /// The answer's status.
    pub status: StatusCode,
    /// One sentence for the person who reads it.
    pub detail: String,
    /// Fields that belong to the status, such as `Allow` with 405.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem without further header fields.
    pub fn new(status: StatusCode, detail: impl ToString) -> Self {
        Self {
            status,
            detail: detail.to_string(),
            headers: Vec::new(),
        }
    }

    /// 400: the request itself is wrong.
    pub fn bad_request(detail: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 404: no such path.
    pub fn not_found(path: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("nothing is at {path}"))
    }

    /// 405: the path takes other methods, those in `allow`.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("this path takes {allow}"),
        )
        .with(hyper::header::ALLOW, HeaderValue::from_static(allow))
    }

    /// 503: the client may try again after this many seconds.
    pub fn unavailable(detail: impl ToString, retry_after: u64) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
            .with(hyper::header::RETRY_AFTER, retry_after.into())
    }

    /// Adds a header field.
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The answer: a JSON object with `type`, `title`, `status` and `detail`.
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let body = json!({"type": "about:blank", "title": title, "status": self.status.as_u16(), "detail": self.detail});
        let mut response = Response::new(Full::from(body.to_string()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        response.headers_mut().extend(self.headers);
        response
    }
}

/// How long a client that was refused for now should wait, in seconds: 5 to 10 at random, so that
/// clients do not come back together.
pub fn retry_after() -> u64 {
    rand::random_range(5..=10)
}
