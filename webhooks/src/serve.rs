//! The accept loop, one connection and the drain. Both programs use them, each with its route. The two
//! functions at the end are for both routes.

use std::{convert::Infallible, pin::pin, time::Duration};

use common::{
    Activity, Connections, Drained, Feed, Pieces, ServerConfig, StallGuard, accept_failed,
    peer_span, prepare,
};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tracing::debug;

/// What a route returns to hyper. Never an error, because an error is sent as an answer too.
pub(crate) type Answer = Result<Response<Pieces>, Infallible>;

/// Serves `route` by `http` until `shutdown` resolves. Then closes the listener and waits for the requests in
/// flight.
pub(crate) async fn serve<R, F>(
    listener: TcpListener,
    feed: &Feed,
    config: ServerConfig,
    http: http1::Builder,
    route: R,
    shutdown: impl Future<Output = ()>,
) -> Drained
where
    R: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let mut connections = Connections::new(config.connections(0));
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = connections.changed() => {}
            stream = accept(&listener), if connections.has_room() => {
                let _span = peer_span(&stream).entered();
                let activity = connections.activity();
                let served = connection(
                    stream, config.stall, http.clone(), route.clone(), activity.clone(), connections.draining(),
                );
                connections.spawn(activity, served);
            }
        }
    }
    drop(listener); // Newcomers are refused before any client is disconnected.
    feed.close();
    connections.drain(config.drain).await
}

/// The next connection. Cancel-safe: dropping the future loses no connection.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => accept_failed(error).await,
        }
    }
}

/// One connection from its first byte to its last.
async fn connection<R, F>(
    stream: TcpStream,
    stall: Duration,
    http: http1::Builder,
    route: R,
    activity: Activity,
    mut draining: watch::Receiver<bool>,
) where
    R: Fn(Request<Incoming>) -> F,
    F: Future<Output = Answer>,
{
    prepare(&stream, stall);
    let io = TokioIo::new(StallGuard::new(stream, stall));
    let service = service_fn(|request| activity.serve(request, &route));
    let mut connection = pin!(http.serve_connection(io, service));
    let served = tokio::select! {
        served = connection.as_mut() => served,
        _ = draining.changed() => {
            // Finishes the request in progress, then closes.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        debug!(%error, "connection ended");
    }
}

/// Whether the request only reads.
pub(crate) fn reads<B>(request: &Request<B>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
}

/// A JSON answer. Caches must not keep it, because its content changes.
pub(crate) fn json(status: StatusCode, body: impl Into<Pieces>) -> Response<Pieces> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let fields = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    response.headers_mut().extend(fields);
    response
}
