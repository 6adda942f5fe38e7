//! An event stream in an axum app: resume, heartbeat and drain, by the files of this crate's copy set.
//! `cargo run -p sse --example sse_in_axum -- 127.0.0.1:8005`
//!
//! To copy it: run `compare -- copy sse src` and `copy common feed src`, and write the `lib.rs` that the first one
//! prints. Here replace `sse::` and `common::` by the name of your crate. Only publishing over HTTP and
//! `shutdown_signal` are not in those sets: remove `publish_one`, publish with
//! `feed.publish(topic, Draft::new(Data::text("…")))`, and shut down with `tokio::signal::ctrl_c()`.
//!
//! What the crate's own server has, and this does not:
//! - The takeover: each stream keeps two buffers of hyper. For many clients, start [`sse::run`] on its own listener
//!   in a task of your app. It takes the same `Feed`.
//! - What `axum::serve` itself leaves out: a write timeout, closing slow heads, a connection limit, the `Origin`
//!   check. `common/examples/axum/serve.rs` serves the same router with all of them.

use std::{env, error::Error, sync::Arc, time::Duration};

use axum::{
    Router, body::Body, extract::Request, extract::State, response::Response, routing::get,
};
use common::{Feed, Problem, PublishLimits, Retention, publish, shutdown_signal};
use sse::stream::{StreamLimits, Streams, body};
use tokio::{net::TcpListener, sync::oneshot, time::timeout};

const STREAMS: StreamLimits = StreamLimits {
    streams: 10_000,
    heartbeat: Duration::from_secs(15),
    retry: Duration::from_secs(2),
    age: Duration::from_secs(3_600),
    drain: DRAIN,
};
const DRAIN: Duration = Duration::from_secs(10);
/// What a publisher may send.
pub const PUBLISHING: PublishLimits = PublishLimits {
    max_message: 65_536,
    body_timeout: Duration::from_secs(30),
};

type App = (Feed, Arc<Streams>, PublishLimits);

/// The routes of the technique. Merge them into your own router.
pub fn router(feed: Feed, limits: PublishLimits) -> Router {
    let streams = Arc::new(Streams::new(feed.clone(), STREAMS));
    let topics = get(subscribe).post(publish_one);
    let router = Router::new().route("/topics/{*topics}", topics);
    router.with_state((feed, streams, limits))
}

async fn subscribe(State((_, streams, _)): State<App>, request: Request) -> Response {
    match streams.subscribe(topics(&request), &request) {
        Ok(answer) => answer.map(|answer| Body::new(body(answer))),
        Err(problem) => problem.into_response(),
    }
}

async fn publish_one(State((feed, _, limits)): State<App>, request: Request) -> Response {
    let topic = topics(&request).to_owned();
    let answer = publish(&feed, limits, &topic, request).await;
    answer.unwrap_or_else(Problem::into_response)
}

/// The topics as they were sent. axum's `Path` would decode `%2C`, and `Topics` would decode the result once more.
fn topics(request: &Request) -> &str {
    let path = request.uri().path();
    path.strip_prefix("/topics/").unwrap_or_default()
}

/// Serves until `shutdown`. Closing the feed ends every stream with a last block. The time limit is for a client that
/// does not read: without it axum would wait for ever.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    feed: Feed,
    shutdown: impl Future<Output = ()>,
) {
    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, router);
    let server = server.with_graceful_shutdown(async { drop(stopped.await) });
    let server = tokio::spawn(server.into_future());
    shutdown.await;
    feed.close();
    drop(stop);
    let _ = timeout(DRAIN, server).await; // Too late, or all have left: the server itself never fails.
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).ok_or("where to listen?")?;
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let feed = Feed::new(Retention::default());
    let router = router(feed.clone(), PUBLISHING);
    serve(listener, router, feed, shutdown_signal()).await;
    Ok(())
}
