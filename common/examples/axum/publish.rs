//! `POST /topics/{topic}` in an axum `Router`: publishing over HTTP, for the examples `in_axum.rs` of the members.

use std::time::Duration;

use axum::{Router, extract::Request, extract::State, response::Response, routing::post};
use common::{Feed, Problem, PublishLimits, publish};

/// What a publisher may send.
pub const LIMITS: PublishLimits = PublishLimits {
    max_message: 65_536,
    body_timeout: Duration::from_secs(30),
};

/// The route. Merge it with those of a technique.
pub fn router(feed: Feed, limits: PublishLimits) -> Router {
    let router = Router::new().route("/topics/{*topics}", post(publish_one));
    router.with_state((feed, limits))
}

async fn publish_one(
    State((feed, limits)): State<(Feed, PublishLimits)>,
    request: Request,
) -> Response {
    // As it was sent: axum's `Path` would decode it.
    let path = request.uri().path().to_owned();
    let topic = path.strip_prefix("/topics/").unwrap_or_default();
    let answer = publish(&feed, limits, topic, request).await;
    answer.unwrap_or_else(Problem::into_response)
}
