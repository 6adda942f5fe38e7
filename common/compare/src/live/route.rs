//! From a request of the page to its answer.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use clap::ValueEnum;
use common::{Problem, Query};
use futures_util::{Stream, future::join_all, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response,
    body::{Frame, Incoming},
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use serde_json::json;
use tokio::time::interval;

use super::{Lane, Stage};
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
    match request.uri().path() {
        path if posts => {
            order(stage, path, Query::of(request.uri())).await?;
            Ok(Response::new(Full::default().boxed_unsync()))
        }
        "/" => Ok(common::html(include_str!("page.html")).map(BodyExt::boxed_unsync)),
        "/lanes" => Ok(lanes(stage.clone())),
        path => Err(Problem::not_found(path)),
    }
}

/// What the buttons do.
async fn order(stage: &Stage, path: &str, query: Query<'_>) -> Result<(), Problem> {
    match path {
        "/publish" => {
            let count: Option<u8> = query.get("count")?;
            for _ in 0..count.unwrap_or(1) {
                // To all five at the same time.
                join_all(stage.lanes.iter().map(Lane::publish)).await;
            }
        }
        "/pause" => lane(stage, query)?.follower.pause(true),
        "/resume" => lane(stage, query)?.follower.pause(false),
        "/restart" => {
            // The server's feed is in memory, so a new epoch begins.
            let restarted = lane(stage, query)?.process.lock().await.restart().await;
            restarted.map_err(|error| Problem::unavailable(error, 1))?;
        }
        _ => return Err(Problem::not_found(path)),
    }
    Ok(())
}

fn lane<'a>(stage: &'a Stage, query: Query<'_>) -> Result<&'a Lane, Problem> {
    let name: String = query.get("lane")?.unwrap_or_default();
    let technique = Technique::from_str(&name, false).ok();
    let mut lanes = stage.lanes.iter();
    let lane = lanes.find(|lane| Some(lane.technique) == technique);
    lane.ok_or_else(|| Problem::bad_request(format!("no lane is named {name:?}")))
}

fn lanes(stage: Arc<Stage>) -> Answer {
    let body = StreamBody::new(snapshots(stage)).boxed_unsync();
    Response::builder()
        .header(CONTENT_TYPE, "text/event-stream")
        .header(CACHE_CONTROL, "no-store")
        .body(body)
        .expect("the constants are valid fields")
}

/// All lanes, five times a second, as an event stream. Whole snapshots, because then a page that
/// reconnects needs no history.
fn snapshots(stage: Arc<Stage>) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
    let ticks = interval(Duration::from_millis(200));
    stream::unfold((stage, ticks), async |(stage, mut ticks)| {
        ticks.tick().await;
        let lanes: Vec<_> = stage.lanes.iter().map(Lane::shown).collect();
        let block = format!("data: {}\n\n", json!({ "lanes": lanes }));
        Some((Ok(Frame::data(block.into())), (stage, ticks)))
    })
}
