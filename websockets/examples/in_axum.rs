//! A websocket session on axum's connection: close codes, pings, resume and drain, by the files of this crate's
//! copy set. `cargo run -p websockets --example websockets_in_axum -- 127.0.0.1:8004`
//!
//! To copy it: `cargo run -p copy -- websockets protocol DIR`. Add this file up to `mod publish` as a module, and
//! replace `websockets::` by `crate::`. For your own messages, `copy -- websockets DIR` is enough. Then put your own
//! `Subprotocol` in the place of `Subscriptions`: three methods, for example over a `tokio::sync::broadcast` channel.
//! And in `main`:
//!
//! ```ignore
//! // Each technique has its own path, as in `common/feed.js`. Merged, their routes overlap, and axum panics.
//! let app = |draining| Router::new().nest("/websocket", websockets_in_axum::router(feed.clone(), draining));
//! let mut terminate = signal(SignalKind::terminate())?; // systemd, Docker and Kubernetes send SIGTERM
//! let shutdown = async {
//!     tokio::select! { _ = terminate.recv() => {}, _ = ctrl_c() => {} }
//!     feed.close(); // for other techniques in the app: it ends their streams and waits
//! };
//! websockets_in_axum::serve(listener, app, shutdown).await;
//! ```
//!
//! Crates: `axum = { version = "0.8", default-features = false, features = ["http1", "tokio"] }` ·
//! `hyper = { version = "1", features = ["http1", "server"] }` · `hyper-util = { version = "0.1", features = ["tokio"] }` ·
//! `tokio = { version = "1", features = ["macros", "net", "rt-multi-thread", "signal", "sync", "time"] }`
//!
//! `axum::extract::ws` ends the connection without a close code after a reserved bit, invalid UTF-8 or 70,000 bytes
//! (`tests/in_axum.rs`). What the crate's own server has, and this does not:
//! - The `Origin` check: a browser lets any page open a websocket, with your users' cookies.
//! - The paths `/healthz`, and `/topics` for a session that begins without subscriptions.
//! - The spelling of RFC 6455: names of fields are in lower case here. Some old clients refuse that (`spelling.rs`).
//! - What else `axum::serve` leaves out: closing slow heads, a limit on connections that are not sessions yet.
//!   `common/examples/axum/serve.rs` serves the same router with all of them. Await `drain.closed()` after it.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use axum::{Router, extract::Request, extract::State, http::Uri, response::Response, routing::get};
use common::{After, Feed, Newest, Problem, Query, StallGuard, Topics};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::watch, time::timeout};
use websockets::frames::{Limits, TEXT};
use websockets::session::{Session, Sessions};
use websockets::{handshake, protocol::SUBPROTOCOL, socket::Socket, subscriptions::Subscriptions};

const SESSIONS: usize = 10_000;
const PING: Duration = Duration::from_secs(20);
const AGE: Duration = Duration::from_secs(3_600);
const DRAIN: Duration = Duration::from_secs(10);
/// A client that accepts no data is disconnected after this time.
pub const STALL: Duration = Duration::from_secs(30);
/// The largest message of a client, and the most fragments of one.
pub const LIMITS: Limits = Limits {
    message: 65_536,
    fragments: 1_024,
};

/// What the routes share. A session keeps its own receiver until it ends.
type App = (Feed, Arc<Sessions>, watch::Receiver<bool>);

/// The routes of the technique. Sessions end when `draining` changes, and
/// when all have ended, its sender is `closed`.
pub fn router(feed: Feed, draining: watch::Receiver<bool>) -> Router {
    let router = Router::new().route("/topics/{*topics}", get(open));
    router.with_state((feed, Arc::new(sessions()), draining))
}

/// No sessions yet, and the limits that all of them share.
pub fn sessions() -> Sessions {
    Sessions::new(SESSIONS, PING, AGE, DRAIN)
}

async fn open(State(app): State<App>, request: Request) -> Response {
    upgrade(app, request).unwrap_or_else(Problem::into_response)
}

fn upgrade(app: App, mut request: Request) -> Result<Response, Problem> {
    let (feed, sessions, mut draining) = app;
    let (topics, after, newest, heartbeat) = wanted(request.uri())?;
    let switching_protocols = handshake::answer(&request, SUBPROTOCOL)?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        // It fails if the client left before it got the 101.
        let Ok(upgraded) = upgrade.await else { return };
        let connection = StallGuard::new(TokioIo::new(upgraded), STALL);
        let mut socket = Socket::new(connection, b"", LIMITS);
        let mut subscriptions = Subscriptions::new(feed);
        let slot = sessions.slot();
        if slot.is_some() {
            let subscribed = subscriptions.open(topics, after, newest);
            socket.push(TEXT, subscribed.as_bytes());
        }
        // Without a slot the session ends at once, with code 1013.
        let mut session = Session::new(sessions, slot, socket, subscriptions, heartbeat);
        let _ = session.run(&mut draining).await; // A peer that accepts no data is dropped all the same.
    });
    Ok(switching_protocols)
}

/// What the path and the query ask for: topics, where to begin, whether only the newest messages, and heartbeats.
pub fn wanted(uri: &Uri) -> Result<(Topics, After, bool, Option<Duration>), Problem> {
    let query = Query::of(uri);
    let after = query.get("after")?.unwrap_or(After::Latest);
    let newest = query.get::<Newest>("newest")?.is_some();
    let seconds = query.get::<NonZeroU16>("heartbeat")?;
    let heartbeat = seconds.map(|seconds| Duration::from_secs(seconds.get().into()));
    // As they were sent. axum's `Path` would decode `%2C`, and `Topics` would decode the result once more.
    let topics = uri.path().strip_prefix("/topics/").unwrap_or_default();
    let topics = topics.parse().map_err(Problem::bad_request)?;
    Ok((topics, after, newest, heartbeat))
}

/// Serves until `shutdown`. Then each session gets its last news and close code 1012. axum does not wait for that:
/// its connection has ended with the 101. The time limit is for a client that does not read.
pub async fn serve(
    listener: TcpListener,
    router: impl FnOnce(watch::Receiver<bool>) -> Router,
    shutdown: impl Future<Output = ()>,
) {
    let (drain, draining) = watch::channel(false);
    let mut stop = draining.clone();
    let server = axum::serve(listener, router(draining));
    let server = server.with_graceful_shutdown(async move { drop(stop.changed().await) });
    let server = tokio::spawn(server.into_future());
    shutdown.await;
    drain.send_replace(true);
    let ended = async { tokio::join!(server, drain.closed()) };
    let _ = timeout(DRAIN, ended).await; // The time is up, or all have left. The server never fails.
}

#[path = "../../common/examples/axum/publish.rs"]
pub mod publish;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).ok_or("give IP:PORT to listen on")?;
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let feed = Feed::new(common::Retention::default());
    let posts = publish::router(feed.clone(), publish::LIMITS);
    let app = |draining| router(feed, draining).merge(posts);
    serve(listener, app, common::shutdown_signal()).await;
    Ok(())
}
