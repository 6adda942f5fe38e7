//! A conditional poll in an axum app: 304 without news, by the files of this crate's copy set.
//! `cargo run -p short-polling --example short_polling_in_axum -- 127.0.0.1:8001`
//!
//! To copy it: run `compare -- copy short-polling src` and `copy common feed src`, and write the `lib.rs` that the first one
//! prints. Here replace `short_polling::` and `common::` by the name of your crate. Only publishing over HTTP and
//! `shutdown_signal` are not in those sets: remove `publish_one`, publish with
//! `feed.publish(topic, Draft::new(Data::text("…")))`, and shut down with `tokio::signal::ctrl_c()`.
//!
//! What the crate's own server has, and this does not:
//! - The takeover: an idle connection keeps two buffers of hyper. For many clients, start
//!   [`short_polling::run`] on its own listener in a task of your app. It takes the same `Feed`.
//! - What `axum::serve` itself leaves out: a write timeout, closing slow heads, a connection limit, the `Origin`
//!   check. `common/examples/axum/serve.rs` serves the same router with all of them.

use std::{env, error::Error, sync::Arc, time::Duration};

use axum::{
    Router, body::Body, extract::Request, extract::State, response::Response, routing::get,
};
use common::{Feed, Problem, PublishLimits, Retention, publish, shutdown_signal};
use short_polling::{hint::Hint, poll::Polls};
use tokio::{
    net::TcpListener,
    sync::oneshot,
    time::{Instant, timeout},
};

/// How often a client should poll, and how long your server or proxy keeps an idle connection.
const HINT: Hint = Hint {
    interval: Duration::from_secs(5),
    idle: Duration::from_secs(75),
};
const DRAIN: Duration = Duration::from_secs(10);
const PUBLISHING: PublishLimits = PublishLimits {
    max_message: 65_536,
    body_timeout: Duration::from_secs(30),
};

type App = (Arc<Polls>, PublishLimits);

/// The routes of the technique. Merge them into your own router.
pub fn router(feed: Feed, limits: PublishLimits) -> Router {
    let (hint, started) = (HINT, Instant::now());
    let polls = Arc::new(Polls {
        feed,
        hint,
        started,
    });
    let topics = get(poll).post(publish_one);
    let router = Router::new().route("/topics/{*topics}", topics);
    router.with_state((polls, limits))
}

async fn poll(State((polls, _)): State<App>, request: Request) -> Response {
    let request = request.map(drop); // It is borrowed across an await, and axum's body is not `Sync`.
    let answer = polls.answer(topics(&request), &request).await;
    answer.unwrap_or_else(Problem::into_response).map(Body::new)
}

async fn publish_one(State((polls, limits)): State<App>, request: Request) -> Response {
    let topic = topics(&request).to_owned();
    let answer = publish(&polls.feed, limits, &topic, request).await;
    answer.unwrap_or_else(Problem::into_response)
}

/// The topics as they were sent. axum's `Path` would decode `%2C`, and `Topics` would decode the result once more.
fn topics<B>(request: &Request<B>) -> &str {
    let path = request.uri().path();
    path.strip_prefix("/topics/").unwrap_or_default()
}

/// Serves until `shutdown`. The time limit is for a client that does not read: without it axum would wait for
/// ever.
pub async fn serve(listener: TcpListener, feed: Feed, shutdown: impl Future<Output = ()>) {
    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, router(feed.clone(), PUBLISHING));
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
    serve(listener, feed, shutdown_signal()).await;
    Ok(())
}
