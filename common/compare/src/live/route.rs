//! From a request of the page to its answer.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use clap::ValueEnum;
use common::{Problem, Query};
use futures_util::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response,
    body::{Frame, Incoming},
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};

use super::{BURST, Lane, MAX_RATE, Stage, snapshots};
use crate::Technique;

/// An answer of known length, or the snapshots for as long as the page is open.
type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

pub(super) async fn route(
    stage: Arc<Stage>,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let answered = answer(&stage, &request).await;
    let mut response =
        answered.unwrap_or_else(|problem| problem.into_response().map(BodyExt::boxed_unsync));
    stage.browsers.finish(None, &mut response);
    Ok(response)
}

async fn answer(stage: &Arc<Stage>, request: &Request<Incoming>) -> Result<Answer, Problem> {
    let posts = request.method() == Method::POST;
    // Pages of other origins must not press these buttons.
    stage.browsers.check(request, posts)?;
    let path = request.uri().path();
    match (path, posts) {
        ("/", false) => Ok(whole("text/html; charset=utf-8", include_str!("page.html"))),
        ("/lanes", false) => Ok(lanes(stage.clone())),
        (_, false) => Err(Problem::not_found(path)),
        (_, true) => {
            order(stage, path, Query::of(request.uri())).await?;
            Ok(whole("text/plain; charset=utf-8", "done\n"))
        }
    }
}

/// What the buttons do.
async fn order(stage: &Stage, path: &str, query: Query<'_>) -> Result<(), Problem> {
    match path {
        "/publish" => stage.publish(1).await,
        "/trim" => stage.publish(BURST).await,
        "/rate" => {
            let rate: u32 = query.get("per-second")?.unwrap_or_default();
            stage.rate.send_replace(rate.min(MAX_RATE));
        }
        "/pause" | "/resume" => {
            let lane = lane(stage, &query)?;
            lane.pause(path == "/pause");
        }
        "/restart" => {
            let restarted = lane(stage, &query)?.restart().await;
            restarted.map_err(|error| Problem::unavailable(error.to_string(), 1))?;
        }
        _ => return Err(Problem::not_found(path)),
    }
    Ok(())
}

fn lane<'a>(stage: &'a Stage, query: &Query<'_>) -> Result<&'a Lane, Problem> {
    let name: String = query.get("lane")?.unwrap_or_default();
    let technique = Technique::from_str(&name, false).ok();
    let lane = technique.and_then(|technique| stage.lane(technique));
    lane.ok_or_else(|| Problem::bad_request(format!("no lane is named {name:?}")))
}

fn whole(kind: &'static str, text: &'static str) -> Answer {
    with_type(kind, Full::from(text).boxed_unsync())
}

fn lanes(stage: Arc<Stage>) -> Answer {
    let blocks = snapshots(stage).map(|block| Ok(Frame::data(block.into())));
    with_type("text/event-stream", StreamBody::new(blocks).boxed_unsync())
}

fn with_type(kind: &'static str, body: UnsyncBoxBody<Bytes, Infallible>) -> Answer {
    let mut response = Response::new(body);
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
