//! `POST /topics/{topic}`: the one way to publish, the same in all five servers.

use std::{
    fmt::Display,
    pin::{Pin, pin},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{
    Request, Response, StatusCode,
    body::Body,
    header::{self, HeaderValue},
};
use tokio::time::timeout;

use super::{Activity, Problem, Query, fair_timeout};
use crate::feed::{Data, Draft, Feed, IdempotencyKey, Published, Topic};

/// An oversized body is drained up to this many bytes, so that the client can read the answer. Most
/// clients read nothing before they have sent everything.
const DISCARD_BYTES: usize = 1 << 20;
/// An oversized body is drained for at most this time.
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// What a publisher may send.
#[derive(Debug, Clone, Copy)]
pub struct PublishLimits {
    /// The largest body, in bytes.
    pub max_message: usize,
    /// How long the body may take after the head.
    pub body_timeout: Duration,
}

/// Publishes the request's body to `topic` and answers `201 {"id":"…","duplicate":false}`.
///
/// With `Content-Type: application/json` the body is the data. Any other body is UTF-8 text and
/// becomes a JSON string. `?type=` sets the message's type. A repeat with the same
/// `Idempotency-Key` returns the first id.
///
/// # Errors
/// 400 for an invalid topic, type, key or body; 408 for a slow body; 413 for an oversized one; 422
/// for a key that was used for another message; 503 if the feed cannot take the message.
pub async fn publish<B, A>(
    feed: &Feed,
    limits: PublishLimits,
    topic: &str,
    request: Request<B>,
) -> Result<Response<A>, Problem>
where
    B: Body<Data = Bytes, Error: Display>,
    A: From<String>,
{
    let topic: Topic = topic.parse().map_err(Problem::bad_request)?;
    let kind = Query::of(request.uri()).get("type")?.unwrap_or_default();
    // Everything that the head decides comes before the body, which may be large or slow.
    let key = idempotency_key(&request)?;
    let is_json = is_json(&request);
    let body = read_body(request, limits).await?;
    let data = if is_json {
        Data::json(&body)
    } else {
        Data::utf8_text(&body)
    };
    let draft = Draft {
        kind,
        data: data.map_err(Problem::bad_request)?,
    };
    let published = feed.publish_once(topic, draft, key).await?;
    Ok(created(&published))
}

/// The request's `Idempotency-Key`, if it has one.
///
/// # Errors
/// 400 if it is repeated or invalid.
pub fn idempotency_key<B>(request: &Request<B>) -> Result<Option<IdempotencyKey>, Problem> {
    let mut values = request.headers().get_all("idempotency-key").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Problem::bad_request("Idempotency-Key is repeated"));
    }
    // A value that is not text becomes an empty key, which is invalid, so the request is refused.
    let text = value.to_str().unwrap_or_default();
    // Some clients write it as a structured field, `"K"`, and others without the quotes (RFC 8941 §3.3.3).
    let unquoted = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    let key = unquoted.unwrap_or(text).parse();
    key.map(Some).map_err(Problem::bad_request)
}

/// Whether the body's media type is `application/json`, with any parameters.
pub fn is_json<B>(request: &Request<B>) -> bool {
    let value = request.headers().get(header::CONTENT_TYPE);
    let text = value.and_then(|value| value.to_str().ok());
    let essence = text.and_then(|text| text.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// Checks that the body is empty. An empty one may be chunked: then its end is read.
///
/// # Errors
/// 400 if the body is not empty, or does not end in time.
pub async fn expect_no_body<B>(
    request: &mut Request<B>,
    limits: PublishLimits,
) -> Result<(), Problem>
where
    B: Body<Data = Bytes> + Unpin,
{
    if request.body().is_end_stream() {
        return Ok(());
    }
    // The client has to act. Until then its connection can be closed for a new one.
    let _idle = request.extensions().get().map(Activity::idle);
    let body = request.body_mut();
    if body.size_hint().lower() == 0
        && let Ok(None) = fair_timeout(limits.body_timeout, body.frame()).await
    {
        return Ok(());
    }
    Err(Problem::bad_request("a GET has no body"))
}

/// Reads the whole body, within the limits. An oversized one is drained first, see `DISCARD_BYTES`.
///
/// # Errors
/// 400 if the body breaks off, 408 if it takes too long, 413 if it is too large.
pub async fn read_body<B>(request: Request<B>, limits: PublishLimits) -> Result<Bytes, Problem>
where
    B: Body<Data = Bytes, Error: Display>,
{
    // Until the body is here, the connection may have to make room for another.
    let _idle = request.extensions().get().map(Activity::idle);
    let expects_continue = request.headers().contains_key(header::EXPECT);
    let mut body = pin!(request.into_body());
    if expects_continue && body.size_hint().lower() > limits.max_message as u64 {
        return Err(too_large(body, true, limits).await);
    }
    let read = read_up_to(limits.max_message, body.as_mut());
    match fair_timeout(limits.body_timeout, read).await {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => Err(too_large(body, false, limits).await),
        Ok(Err(error)) => Err(Problem::bad_request(format!(
            "the body ended early: {error}"
        ))),
        Err(_) => {
            let seconds = limits.body_timeout.as_secs_f64();
            Err(too_slow(format!("the body took longer than {seconds} s")))
        }
    }
}

/// The whole body, or `None` once it is larger than `max`.
async fn read_up_to<B>(max: usize, mut body: Pin<&mut B>) -> Result<Option<Bytes>, B::Error>
where
    B: Body<Data = Bytes>,
{
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        read.extend_from_slice(&frame?.into_data().unwrap_or_default());
        if read.len() > max {
            return Ok(None);
        }
    }
    Ok(Some(read.freeze()))
}

/// The answer to an oversized body: 413, after draining it, see `DISCARD_BYTES`. A client that
/// `expects_continue` waits for a 100 before it sends the body, so there is nothing to drain.
pub async fn too_large<B>(
    body: Pin<&mut B>,
    expects_continue: bool,
    limits: PublishLimits,
) -> Problem
where
    B: Body<Data = Bytes>,
{
    if !expects_continue {
        // Ignored: the answer is 413 whether the body ended or the drain reached a limit.
        let _ = timeout(DISCARD_TIME, discard(body)).await;
    }
    let detail = format!("the body is over {} bytes", limits.max_message);
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

async fn discard<B: Body<Data = Bytes>>(mut body: Pin<&mut B>) {
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, Bytes::len);
        if discarded > DISCARD_BYTES {
            return;
        }
    }
}

/// The answer to a slow body: 408. It closes the connection, as RFC 9110 §15.5.9 advises: the rest is not
/// waited for.
pub fn too_slow(detail: String) -> Problem {
    Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
        .with(header::CONNECTION, HeaderValue::from_static("close"))
}

fn created<A: From<String>>(published: &Published) -> Response<A> {
    let (id, duplicate) = (published.id, published.duplicate);
    let body = format!("{{\"id\":\"{id}\",\"duplicate\":{duplicate}}}");
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::CREATED;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
