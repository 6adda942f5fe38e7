//! Errors as `application/problem+json` (RFC 9457).

use hyper::{
    Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue},
};
use serde_json::json;

/// The longest detail, in characters. It may repeat a part of the request, which may be of any length.
const MAX_DETAIL: usize = 300;

/// Why a request is refused: a status, and a detail that names what is wrong.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{status}: {detail}")]
pub struct Problem {
    /// The answer's status.
    pub status: StatusCode,
    /// One sentence for the person who reads it.
    pub detail: String,
    /// Header fields that belong to the status, such as `Allow` with 405.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem without further header fields.
    pub fn new(status: StatusCode, detail: impl ToString) -> Self {
        let detail = detail.to_string();
        Self {
            status,
            detail: detail.chars().take(MAX_DETAIL).collect(),
            headers: Vec::new(),
        }
    }

    /// 400: the request itself is wrong.
    pub fn bad_request(detail: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 404: no such path.
    pub fn not_found(path: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("nothing is at {path:.100}"))
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

    /// The answer: a JSON object with `type`, `title`, `status` and `detail`. `no-store`, because the cause
    /// may be gone a moment later.
    pub fn into_response<B: From<String>>(self) -> Response<B> {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let body = json!({"type": "about:blank", "title": title, "status": self.status.as_u16(), "detail": self.detail});
        let mut response = Response::new(body.to_string().into());
        *response.status_mut() = self.status;
        let fields = response.headers_mut();
        fields.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        fields.extend(self.headers);
        response
    }
}

/// How long a client should wait after a 503, in seconds. Random, 5 to 10, so that clients do not all
/// return at once.
pub fn retry_after() -> u64 {
    rand::random_range(5..=10)
}
