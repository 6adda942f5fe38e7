//! The accept loop, one connection, and the drain.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use common::{Activity, Busy, Connections, Drained, StallGuard, accept_failed, peer_span, prepare};
use futures_util::TryFutureExt;
use http_body_util::{Either, combinators::UnsyncBoxBody};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tracing::debug;

use crate::{
    route::{App, route},
    stream::{self, AnswerBody},
    takeover,
};

/// Serves until `shutdown` resolves. Then it closes the listener, ends every stream by closing the
/// feed, and waits for what is in flight.
pub(crate) async fn serve(
    listener: TcpListener,
    mut connections: Connections,
    app: Arc<App>,
    shutdown: impl Future<Output = ()>,
) -> Drained {
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = connections.changed() => {}
            socket = accept(&listener, app.server.stall), if connections.has_room() => {
                open(socket, app.clone(), &mut connections);
            }
        }
    }
    drop(listener); // Newcomers are refused before any client is disconnected.
    app.feed.close();
    connections.drain(app.server.drain).await
}

/// The next connection. Cancel-safe: dropping the future loses no connection.
async fn accept(listener: &TcpListener, stall: Duration) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                prepare(&socket, stall);
                return socket;
            }
            Err(error) => accept_failed(error).await,
        }
    }
}

fn open(socket: TcpStream, app: Arc<App>, connections: &mut Connections) {
    let _span = peer_span(&socket).entered();
    let (activity, draining) = (connections.activity(), connections.draining());
    if let Some(groups) = app.groups.clone() {
        let connection = takeover::connection(socket, app, groups, activity.clone(), draining);
        connections.spawn(activity, connection);
    } else {
        connections.spawn(
            activity.clone(),
            connection(socket, app, activity, draining),
        );
    }
}

/// One connection from its first byte to its last. A stream is a response body that hyper polls.
async fn connection(
    socket: TcpStream,
    app: Arc<App>,
    activity: Activity,
    mut draining: watch::Receiver<bool>,
) {
    let io = TokioIo::new(StallGuard::new(socket, app.server.stall));
    let service = service_fn(|mut request| {
        let busy = activity.busy_with(&mut request);
        route(app.clone(), request).map_ok(|answer| answer.map(|answer| body(busy, answer)))
    });
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

/// The body for hyper. A stream is the last answer on its connection, and keeps it busy until it ends.
fn body(busy: Busy, answer: AnswerBody) -> UnsyncBoxBody<Bytes, Infallible> {
    if let Either::Right(_) = answer {
        busy.to_the_end();
    }
    stream::body(answer)
}
