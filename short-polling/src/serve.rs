//! The accept loop, one connection, and the drain.

use std::{pin::pin, sync::Arc};

use common::{Connections, Drained, StallGuard, accept_failed, serve_unbuffered};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tracing::debug;

use crate::route::{App, route};

/// Serves until `shutdown` resolves, then closes the listener and waits for what is in flight.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    shutdown: impl Future<Output = ()>,
) -> Drained {
    // There are no subscribers: a client that does not ask is nothing but an open connection.
    let mut connections = Connections::new(app.server.connections(0));
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = connections.ended() => {}
            stream = accept(&listener), if connections.has_room() => {
                open(stream, app.clone(), &mut connections);
            }
        }
    }
    drop(listener); // Newcomers are refused before any client is disconnected.
    app.feed.close();
    connections.drain(app.server.drain).await
}

/// The next connection. It may be dropped and called again: nothing is lost.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Small answers leave at once. It fails only on a socket that is closed already.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(error) => accept_failed(error).await,
        }
    }
}

fn open(stream: TcpStream, app: Arc<App>, connections: &mut Connections) {
    let draining = connections.draining();
    if app.takeover {
        connections.spawn(unbuffered(stream, app, draining));
    } else {
        connections.spawn(connection(stream, app, draining));
    }
}

/// One connection from its first byte to its last.
async fn connection(stream: TcpStream, app: Arc<App>, mut draining: watch::Receiver<bool>) {
    let io = TokioIo::new(StallGuard::new(stream, app.server.stall));
    let service = service_fn(|request| route(app.clone(), request));
    let mut connection = pin!(app.server.http1().serve_connection(io, service));
    let served = tokio::select! {
        served = connection.as_mut() => served,
        _ = draining.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        debug!(%error, "connection ended");
    }
}

/// The same on the same wire, but between two polls a connection has no hyper, and so none of its
/// buffers. An addition: without it, the server is complete.
fn unbuffered(
    stream: TcpStream,
    app: Arc<App>,
    draining: watch::Receiver<bool>,
) -> impl Future<Output = ()> {
    let timeouts = app.server.timeouts();
    let http = |app: &Arc<App>| app.server.http1();
    // Boxed, so that an idle connection does not hold the room of an answer.
    let route = |app, request| Box::pin(route(app, request));
    serve_unbuffered(stream, timeouts, draining, app, http, route)
}
