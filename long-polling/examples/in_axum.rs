//! A long poll in an axum app: news, deadline or drain, by the files of this crate's copy set.
//! `cargo run -p long-polling --example long_polling_in_axum -- 127.0.0.1:8002`
//!
//! To copy it: run `compare -- copy long-polling src` and `copy common feed src`, and write the `lib.rs` that the first one
//! prints. Here replace `long_polling::` and `common::` by the name of your crate. Only publishing over HTTP and
//! `shutdown_signal` are not in those sets: remove `publish_one`, publish with
//! `feed.publish(topic, Draft::new(Data::text("…")))`, and shut down with `tokio::signal::ctrl_c()`.
//!
//! What the crate's own server has, and this does not:
//! - The takeover: a waiting poll keeps two buffers of hyper, and keeps its slot after a reset. For many clients,
//!   start [`long_polling::run`] on its own listener in a task of your app. It takes the same `Feed`.
//! - What `axum::serve` itself leaves out: a write timeout, closing slow heads, a connection limit, the `Origin`
//!   check. `common/examples/axum/serve.rs` serves the same router with all of them.

use std::{env, error::Error, sync::Arc, time::Duration};

use axum::{
    Router, body::Body, extract::Request, extract::State, response::Response, routing::get,
};
use common::{Feed, Problem, PublishLimits, Retention, publish, shutdown_signal};
use long_polling::wait::Polls;
use tokio::{net::TcpListener, sync::oneshot, time::timeout};

/// How many polls may wait at one time.
const WAITING: usize = 10_000;
/// How long a poll waits, when the request has no `wait=`.
const WAIT: Duration = Duration::from_secs(25);
const DRAIN: Duration = Duration::from_secs(10);
/// What a publisher may send.
pub const PUBLISHING: PublishLimits = PublishLimits {
    max_message: 65_536,
    body_timeout: Duration::from_secs(30),
};

type App = (Feed, Arc<Polls>, PublishLimits);

/// The routes of the technique. Merge them into your own router.
pub fn router(feed: Feed, limits: PublishLimits) -> Router {
    let polls = Arc::new(Polls::new(feed.clone(), WAITING, WAIT));
    let topics = get(poll).post(publish_one);
    let router = Router::new().route("/topics/{*topics}", topics);
    router.with_state((feed, polls, limits))
}

async fn poll(State((_, polls, _)): State<App>, request: Request) -> Response {
    let answer = match polls.parse(topics(&request), &request) {
        Ok(mut poll) => {
            drop(request); // It holds a buffer of hyper, and the wait may be long.
            polls.answer(&mut poll).await
        }
        Err(problem) => Err(problem),
    };
    answer.unwrap_or_else(Problem::into_response).map(Body::new)
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

/// Serves until `shutdown`. Closing the feed answers every wait. The time limit is for a client that
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
