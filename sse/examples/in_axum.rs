//! An event stream in an axum app: resume, heartbeat and drain, by the files of this crate's copy set.
//! `cargo run -p sse --example sse_in_axum -- 127.0.0.1:8005`
//!
//! To copy it: `cargo run -p copy -- common feed sse DIR`. Add this file up to `mod publish` as a module, and
//! replace `sse::` by `crate::`. And in `main`:
//!
//! ```ignore
//! // Each technique has its own path, as in `common/feed.js`. Merged, their routes overlap, and axum panics.
//! let app = Router::new().nest("/sse", sse_in_axum::router(feed.clone()));
//! // How your handlers publish:
//! feed.publish("news".parse()?, Draft::new(Data::text("…"))).await?;
//! let mut terminate = signal(SignalKind::terminate())?; // systemd, Docker and Kubernetes send SIGTERM
//! let shutdown = async { tokio::select! { _ = terminate.recv() => {}, _ = ctrl_c() => {} } };
//! // One `serve` is enough for several techniques. With websockets take theirs, because it also ends the sessions.
//! sse_in_axum::serve(listener, app, feed, shutdown).await;
//! ```
//!
//! Crates: `axum = { version = "0.8", default-features = false, features = ["http1", "tokio"] }` ·
//! `tokio = { version = "1", features = ["macros", "net", "rt-multi-thread", "signal", "sync", "time"] }`
//!
//! What the crate's own server has, and this does not:
//! - The takeover: each stream keeps two buffers of hyper. For many clients, depend on `sse` and `common` in
//!   place of the copies, and start [`sse::run`] on its own listener in a task of your app. It takes the same `Feed`.
//! - What `axum::serve` itself leaves out: a write timeout, closing slow heads, a connection limit, the `Origin`
//!   check. `common/examples/axum/serve.rs` serves the same router with all of them.

use std::{sync::Arc, time::Duration};

use axum::{
    Router, body::Body, extract::Request, extract::State, response::Response, routing::get,
};
use common::Feed;
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

/// The routes of the technique.
pub fn router(feed: Feed) -> Router {
    let streams = Arc::new(Streams::new(feed, STREAMS));
    let router = Router::new().route("/topics/{*topics}", get(subscribe));
    router.with_state(streams)
}

async fn subscribe(State(streams): State<Arc<Streams>>, request: Request) -> Response {
    match streams.subscribe(topics(&request), &request) {
        Ok(answer) => answer.map(|answer| Body::new(body(answer))),
        Err(problem) => problem.into_response(),
    }
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
