//! An axum `Router` behind the accept loop of the five servers. It adds what `axum::serve` does not have:
//!
//! | | `axum::serve` | this |
//! | --- | --- | --- |
//! | a head that never ends, a silent connection | kept for ever | closed after `--read-timeout` |
//! | a client that sends no more after its request | cut off | gets its answer |
//! | a client that accepts no data | kept for ever | disconnected after `--stall` |
//! | open connections | no limit | `--max-connections`; the one that was idle longest is closed for a new one |
//! | a page of another site | may publish | 403, or 421 for a rebound name; `--allow-origin` |
//! | the drain | waits for ever | cuts what is left after `--drain` |
//!
//! An upgraded connection, such as a websocket, leaves the connection limit and the drain. Its route has to limit
//! and end it, as `websockets/examples/in_axum.rs` does.
//!
//! The takeover is not here: a waiting client keeps hyper's two buffers of 8 KiB. The takeover needs the sockets
//! before hyper has them, so such a route needs its own listener and the crate's `run`.
//!
//! To copy it, depend on the package `common`: `common = { git = "…" }` with this repository. Copy the techniques without
//! `common feed`, which would be a second feed. In `lib.rs` leave out `feed`, `http` and `extern crate self as common`.
//! The copied files then use the package. And in `main`:
//!
//! ```ignore
//! /// What your app is: `--help` begins with it.
//! #[derive(clap::Parser)]
//! struct Options { #[command(flatten)] server: common::ServerConfig }
//! let config = <Options as clap::Parser>::parse().server;
//! serve::serve(listener, app, feed, config, shutdown).await?;
//! ```
//!
//! Crates: `clap = { version = "4", features = ["derive"] }` · `hyper = { version = "1", features = ["server"] }` ·
//! `hyper-util = { version = "0.1", features = ["service", "tokio"] }`, and those of the example `in_axum.rs`.

use std::{convert::Infallible, io, pin::pin, sync::Arc};

use axum::{Router, body::Body, extract::Request, response::Response};
use common::{
    Activity, Browsers, Connections, Drained, Feed, ServerConfig, StallGuard, accept_failed,
    prepare,
};
use hyper::{Method, body::Incoming, header, service::service_fn};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// What every connection shares.
struct App {
    router: Router,
    browsers: Browsers,
    config: ServerConfig,
}

/// Serves `router` until `shutdown` resolves. Then it closes `feed`, which ends waits and streams, and drains.
///
/// # Errors
/// If the listener has no address.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    feed: Feed,
    config: ServerConfig,
    shutdown: impl Future<Output = ()>,
) -> io::Result<Drained> {
    let drain = config.drain;
    let mut connections = Connections::new(config.connections(10_000));
    let app = Arc::new(App {
        router,
        browsers: config.browsers(&listener, "")?,
        config,
    });
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = connections.changed() => {}
            stream = accept(&listener), if connections.has_room() => {
                let (activity, draining) = (connections.activity(), connections.draining());
                let connection = connection(stream, app.clone(), activity.clone(), draining);
                connections.spawn(activity, connection);
            }
        }
    }
    drop(listener); // Newcomers are refused before any client is disconnected.
    feed.close();
    Ok(connections.drain(drain).await)
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => accept_failed(error).await,
        }
    }
}

/// One connection. Ignores its error: the client has left, or was too slow.
async fn connection(
    stream: TcpStream,
    app: Arc<App>,
    activity: Activity,
    mut draining: watch::Receiver<bool>,
) {
    prepare(&stream, app.config.stall);
    let io = TokioIo::new(StallGuard::new(stream, app.config.stall));
    let service = service_fn(|request| activity.serve(request, |request| answer(&app, request)));
    // With upgrades, for a websocket.
    let http = app.config.http1();
    let mut connection = pin!(http.serve_connection(io, service).with_upgrades());
    tokio::select! {
        _ = connection.as_mut() => {}
        _ = draining.changed() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// Checks the rules for browsers, then calls the router, then adds the fields for browsers.
async fn answer(app: &App, request: hyper::Request<Incoming>) -> Result<Response, Infallible> {
    let allowed_origin = app.browsers.allowed_origin(request.headers());
    let upgrades = request.headers().contains_key(header::UPGRADE);
    let changes = upgrades || request.method() == Method::POST;
    let mut response = match app.browsers.check(&request, changes) {
        Err(problem) => problem.into_response(),
        Ok(()) => match app.browsers.preflight(&request) {
            Some(preflight) => preflight,
            None => routed(app, request.map(Body::new)).await?,
        },
    };
    app.browsers.finish(allowed_origin, &mut response);
    Ok(response)
}

async fn routed(app: &App, request: Request) -> Result<Response, Infallible> {
    use hyper::service::Service;
    TowerToHyperService::new(app.router.clone())
        .call(request)
        .await
}
