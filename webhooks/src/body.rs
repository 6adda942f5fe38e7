//! The body of a request that has to be JSON, within its limits.

use std::{pin::pin, time::Duration};

use bytes::{Bytes, BytesMut};
use common::{Problem, PublishLimits};
use http_body_util::BodyExt;
use hyper::{
    Request, StatusCode,
    body::{Body, Incoming},
    header::{self, HeaderMap, HeaderValue},
};
use tokio::time::timeout;

/// A body over the limit is read on and thrown away up to this size, so that the client comes to
/// reading the answer.
const DISCARD_BYTES: usize = 1 << 20;
/// And for so long.
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// The whole body, byte for byte.
///
/// # Errors
/// 415 if it is not said to be JSON (which also keeps out what a browser's form may send without a
/// preflight), 413 if it is too long, 408 if it takes too long.
pub(crate) async fn json(
    request: Request<Incoming>,
    limits: PublishLimits,
) -> Result<Bytes, Problem> {
    if !is_json(request.headers()) {
        let detail = "Content-Type is not application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let expects = request.headers().contains_key(header::EXPECT);
    let mut body = pin!(request.into_body());
    if expects && body.size_hint().lower() > limits.max_message as u64 {
        // Whoever waits for 100 (Continue) has not sent the body, and now will not.
        return Err(too_large(limits));
    }
    let whole = collect(&mut body, limits.max_message);
    match timeout(limits.body_timeout, whole).await {
        Ok(Ok(Some(whole))) => Ok(whole),
        Ok(Ok(None)) => {
            // Either limit may end it; the answer is the same.
            let _ = timeout(DISCARD_TIME, collect(&mut body, DISCARD_BYTES)).await;
            Err(too_large(limits))
        }
        Ok(Err(error)) => Err(Problem::bad_request(format!("the body broke off: {error}"))),
        Err(_) => Err(too_slow(limits)),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    let essence = value.and_then(|value| value.to_str().ok()?.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// The body up to its end, or `None` as soon as it is over `max` bytes.
async fn collect(
    body: &mut (impl Body<Data = Bytes, Error = hyper::Error> + Unpin),
    max: usize,
) -> hyper::Result<Option<Bytes>> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        whole.extend_from_slice(&frame?.into_data().unwrap_or_default());
        if whole.len() > max {
            return Ok(None);
        }
    }
    Ok(Some(whole.freeze()))
}

fn too_large(limits: PublishLimits) -> Problem {
    let detail = format!("the body is over {} bytes", limits.max_message);
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

fn too_slow(limits: PublishLimits) -> Problem {
    let seconds = limits.body_timeout.as_secs_f64();
    let detail = format!("the body took longer than {seconds} s");
    Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
        .with(header::CONNECTION, HeaderValue::from_static("close"))
}
