//! From a request of the page to its answer.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use common::{Problem, Query};
use futures_util::future::{join_all, try_join_all};
use http_body_util::{Either, Full, combinators::UnsyncBoxBody};
use hyper::{Method, Request, Response, body::Incoming};
use serde_json::json;
use sse::stream::{AnswerBody, body};

use super::{Lane, Stage};
use crate::Technique;

/// An answer of known length, or the events for as long as the page is open.
type Answer = Response<AnswerBody>;

pub(super) async fn route(
    stage: Arc<Stage>,
    request: Request<Incoming>,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
    let answered = answer(&stage, &request).await;
    let mut response = answered.unwrap_or_else(|problem| problem.into_response().map(Either::Left));
    stage.browsers.finish(None, &mut response);
    Ok(response.map(body))
}

async fn answer(stage: &Stage, request: &Request<Incoming>) -> Result<Answer, Problem> {
    let posts = request.method() == Method::POST;
    // Pages of other origins must not press these buttons.
    stage.browsers.check(request, posts)?;
    let path = request.uri().path();
    if posts {
        press(stage, path, Query::of(request.uri())).await?;
        return Ok(Response::new(Either::Left(Full::default())));
    }
    match path.strip_prefix("/topics/") {
        Some(topics) => stage.streams.subscribe(topics, request),
        None if path == "/" => Ok(common::html(include_str!("page.html")).map(Either::Left)),
        None => Err(Problem::not_found(path)),
    }
}

async fn press(stage: &Stage, path: &str, query: Query<'_>) -> Result<(), Problem> {
    match path {
        "/publish" => publish(stage, query).await,
        _ => control(stage, path, query).await,
    }
}

/// Publishes to all five at the same time.
async fn publish(stage: &Stage, query: Query<'_>) -> Result<(), Problem> {
    let count: Option<u8> = query.get("count")?;
    for _ in 0..count.unwrap_or(1) {
        let number = stage.published.fetch_add(1, Relaxed) + 1;
        let told = json!({ "number": number });
        stage.log.tell("publish", told).await;
        join_all(stage.lanes.iter().map(|lane| lane.publish(number))).await;
    }
    Ok(())
}

/// What a button does to one lane, or to all.
async fn control(stage: &Stage, path: &str, query: Query<'_>) -> Result<(), Problem> {
    let one: Option<Technique> = query.get("lane")?;
    let chosen = |lane: &&Lane| one.is_none_or(|one| one == lane.technique);
    let lanes = stage.lanes.iter().filter(chosen);
    let button = path.trim_start_matches('/');
    let done = try_join_all(lanes.map(|lane| lane.control(button))).await;
    match done.map_err(|error| Problem::unavailable(error, 1))?[..] {
        [true, ..] => Ok(()),
        _ => Err(Problem::not_found(path)),
    }
}
