//! `POST /topics/{topic}`: the one way to publish, the same in all five servers.

use std::{fmt::Display, pin::pin, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::Body,
    header::{self, HeaderValue},
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Problem, Query, problem::retry_after};
use crate::feed::{Data, Draft, Feed, FeedError, IdempotencyKey, Topic};

/// A body over the limit is read on and thrown away up to this size, so that the client comes to
/// reading the answer.
const DISCARD_BYTES: usize = 1 << 20;
/// And for so long.
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// What a publisher may send.
#[derive(Debug, Clone, Copy)]
pub struct PublishLimits {
    /// Bytes of body.
    pub max_message: usize,
    /// From the head to the body's end.
    pub body_timeout: Duration,
}

/// Publishes the request's body to `topic` and answers `201 {"id":"…","duplicate":false}`.
///
/// With `Content-Type: application/json` the body is the data; any other body is UTF-8 text and
/// becomes a JSON string. `?type=` names the message's type. With `Idempotency-Key` the same
/// request again answers the first id.
///
/// # Errors
/// 400 for a topic, type, key or body that is none; 408 for a body that takes too long; 413 for one
/// that is too long; 422 for a key that was used for another message; 503 where the feed cannot
/// take it.
pub async fn publish<B>(
    feed: &Feed,
    limits: PublishLimits,
    topic: &str,
    request: Request<B>,
) -> Result<Response<Full<Bytes>>, Problem>
where
    B: Body<Data = Bytes, Error: Display>,
{
    let topic: Topic = topic.parse().map_err(Problem::bad_request)?;
    let kind = Query::of(request.uri()).get("type")?.unwrap_or_default();
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
    let published = match key {
        None => feed.publish(topic, draft).await?,
        Some(key) => feed.publish_once(topic, draft, key).await?,
    };
    let body = format!(
        "{{\"id\":\"{}\",\"duplicate\":{}}}",
        published.id, published.duplicate
    );
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = StatusCode::CREATED;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    Ok(response)
}

fn idempotency_key<B>(request: &Request<B>) -> Result<Option<IdempotencyKey>, Problem> {
    let mut values = request.headers().get_all("idempotency-key").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Problem::bad_request("Idempotency-Key is repeated"));
    }
    value
        .to_str()
        .unwrap_or_default()
        .parse()
        .map(Some)
        .map_err(Problem::bad_request)
}

/// Whether the body's media type is `application/json`, whatever its parameters.
pub fn is_json<B>(request: &Request<B>) -> bool {
    let value = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// The whole body, within its limits.
///
/// # Errors
/// 400 if it breaks off, 408 if it takes too long, 413 if it is too long.
pub async fn read_body<B>(request: Request<B>, limits: PublishLimits) -> Result<Bytes, Problem>
where
    B: Body<Data = Bytes, Error: Display>,
{
    let expects = request.headers().contains_key(header::EXPECT);
    let mut body = pin!(request.into_body());
    let too_large = || {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is over {} bytes", limits.max_message),
        )
    };
    if expects && body.size_hint().lower() > limits.max_message as u64 {
        // Whoever waits for 100 (Continue) has not sent the body, and now will not.
        return Err(too_large());
    }
    let deadline = Instant::now() + limits.body_timeout;
    let mut read = BytesMut::new();
    loop {
        let frame = timeout_at(deadline, body.frame())
            .await
            .map_err(|_| too_slow(limits))?;
        let Some(frame) = frame else {
            return Ok(read.freeze());
        };
        let frame =
            frame.map_err(|error| Problem::bad_request(format!("the body broke off: {error}")))?;
        read.extend_from_slice(&frame.into_data().unwrap_or_default());
        if read.len() > limits.max_message {
            // Either limit may end it; the answer is the same.
            let _ = timeout(DISCARD_TIME, discard(body)).await;
            return Err(too_large());
        }
    }
}

impl From<FeedError> for Problem {
    fn from(error: FeedError) -> Self {
        match error {
            FeedError::KeyReused(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, error),
            error => Self::unavailable(error, retry_after()),
        }
    }
}

async fn discard<B: Body<Data = Bytes>>(mut body: std::pin::Pin<&mut B>) {
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, Bytes::len);
        if discarded > DISCARD_BYTES {
            return;
        }
    }
}

fn too_slow(limits: PublishLimits) -> Problem {
    let detail = format!(
        "the body took longer than {} s",
        limits.body_timeout.as_secs_f64()
    );
    Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
        .with(header::CONNECTION, HeaderValue::from_static("close"))
}
