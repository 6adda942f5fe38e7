//! The accept loop, one connection, and the drain.

use std::{pin::pin, sync::Arc, time::Duration};

use common::{
    Activity, Connections, Drained, StallGuard, accept_failed, peer_span, prepare, serve_unbuffered,
};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tracing::debug;

use crate::route::{App, route};

/// Serves until `shutdown` resolves. Then it closes the listener, answers every waiting poll by
/// closing the feed, and waits for what is in flight.
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
            stream = accept(&listener, app.server.stall), if connections.has_room() => {
                open(stream, app.clone(), &mut connections);
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
            Ok((stream, _)) => {
                prepare(&stream, stall);
                return stream;
            }
            Err(error) => accept_failed(error).await,
        }
    }
}

fn open(stream: TcpStream, app: Arc<App>, connections: &mut Connections) {
    let _span = peer_span(&stream).entered();
    let (activity, draining) = (connections.activity(), connections.draining());
    if app.takeover {
        let connection = unbuffered(stream, app, activity.clone(), draining);
        connections.spawn(activity, connection);
    } else {
        connections.spawn(
            activity.clone(),
            connection(stream, app, activity, draining),
        );
    }
}

/// One connection from its first byte to its last.
async fn connection(
    stream: TcpStream,
    app: Arc<App>,
    activity: Activity,
    mut draining: watch::Receiver<bool>,
) {
    let io = TokioIo::new(StallGuard::new(stream, app.server.stall));
    let service =
        service_fn(|request| activity.serve(request, |request| route(app.clone(), request)));
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

/// The same bytes on the wire, but while a client waits or is idle it has no hyper connection, and so
/// no buffers. Optional: with `connection` alone the server is complete.
fn unbuffered(
    stream: TcpStream,
    app: Arc<App>,
    activity: Activity,
    draining: watch::Receiver<bool>,
) -> impl Future<Output = ()> {
    let (timeouts, settings) = (app.server.timeouts(), app.clone());
    serve_unbuffered(
        stream,
        timeouts,
        activity,
        draining,
        move || settings.server.http1(),
        move |request| route(app.clone(), request),
    )
}

#[cfg(test)]
mod tests {
    use common::{Feed, Retention};

    use super::*;
    use crate::Config;

    #[tokio::test]
    async fn what_a_connection_keeps_while_it_waits_is_small() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let feed = Feed::new(Retention::default());
        let app = Arc::new(App::new(feed, Config::default(), &listener).unwrap());
        let connections = Connections::new(1);
        let size = size_of_val(&unbuffered(
            stream,
            app,
            connections.activity(),
            connections.draining(),
        ));
        // 480 with rustc 1.95; ten thousand of them are open.
        assert!(size <= 512, "{size} bytes");
    }
}
