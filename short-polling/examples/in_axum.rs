//! A conditional poll in an axum app: 304 without news, by the files of this crate's copy set.
//! `cargo run -p short-polling --example short_polling_in_axum -- 127.0.0.1:8001`
//!
//! To copy it: `cargo run -p copy -- common feed short-polling DIR`. Add this file up to `mod publish` as a module, and
//! replace `short_polling::` by `crate::`. And in `main`:
//!
//! ```ignore
//! // Each technique has its own path, as in `common/feed.js`. Merged, their routes overlap, and axum panics.
//! let app = Router::new().nest("/short", short_polling_in_axum::router(feed.clone()));
//! // How your handlers publish:
//! feed.publish("news".parse()?, Draft::new(Data::text("…"))).await?;
//! let mut terminate = signal(SignalKind::terminate())?; // systemd, Docker and Kubernetes send SIGTERM
//! let shutdown = async { tokio::select! { _ = terminate.recv() => {}, _ = ctrl_c() => {} } };
//! // One `serve` is enough for several techniques. With websockets take theirs, because it also ends the sessions.
//! short_polling_in_axum::serve(listener, app, feed, shutdown).await;
//! ```
//!
//! Crates: `axum = { version = "0.8", default-features = false, features = ["http1", "tokio"] }` ·
//! `tokio = { version = "1", features = ["macros", "net", "rt-multi-thread", "signal", "sync", "time"] }`
//!
//! What the crate's own server has, and this does not:
//! - The takeover: an idle connection keeps two buffers of hyper. For many clients, depend on
//!   `short-polling` and `common` in place of the copies, and start [`short_polling::run`] on its own listener in a
//!   task of your app. It takes the same `Feed`.
//! - What `axum::serve` itself leaves out: a write timeout, closing slow heads, a connection limit, the `Origin`
//!   check. `common/examples/axum/serve.rs` serves the same router with all of them.

use std::{sync::Arc, time::Duration};

use axum::{
    Router, body::Body, extract::Request, extract::State, response::Response, routing::get,
};
use common::{Feed, Problem};
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

/// The routes of the technique.
pub fn router(feed: Feed) -> Router {
    let (hint, started) = (HINT, Instant::now());
    let polls = Arc::new(Polls {
        feed,
        hint,
        started,
    });
    let router = Router::new().route("/topics/{*topics}", get(poll));
    router.with_state(polls)
}

async fn poll(State(polls): State<Arc<Polls>>, request: Request) -> Response {
    let request = request.map(drop); // It is borrowed across an await, and axum's body is not `Sync`.
    let answer = polls.answer(topics(&request), &request).await;
    answer.unwrap_or_else(Problem::into_response).map(Body::new)
}

/// The topics as they were sent. axum's `Path` would decode `%2C`, and `Topics` would decode the result once more.
fn topics<B>(request: &Request<B>) -> &str {
    let path = request.uri().path();
    path.strip_prefix("/topics/").unwrap_or_default()
}

/// Serves until `shutdown`. The time limit is for a client that does not read: without it axum would wait for
/// ever.
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
    let _ = timeout(DRAIN, server).await; // The time is up, or all have left. The server never fails.
}

#[path = "../../common/examples/axum/publish.rs"]
pub mod publish;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).ok_or("give IP:PORT to listen on")?;
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let feed = Feed::new(common::Retention::default());
    let app = router(feed.clone()).merge(publish::router(feed.clone(), publish::LIMITS));
    serve(listener, app, feed, common::shutdown_signal()).await;
    Ok(())
}
