//! The accept loop, one connection, and the drain.
//!
//! It differs from the other members' in one thing: a connection may go on as a session. hyper
//! considers it done then, and its graceful shutdown does not know of it; so the same task goes on
//! with the session, which is thereby in the same limit and the same drain.

use std::{
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{Drained, StallGuard};
use futures_util::FutureExt;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinError, JoinSet},
    time::{sleep, timeout_at},
};
use tracing::{debug, error, info, warn};

use crate::{
    App,
    route::{self, Opening},
    session::Session,
    socket::Socket,
    takeover,
};

/// How long to wait when the system has no descriptor or memory for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The longest request head in bytes: more is hyper's 431. hyper buffers as much of an answer.
const MAX_HEAD: usize = 16 * 1024;

/// Serves until `shutdown` resolves, then closes the listener, tells every subscriber by closing
/// the feed, and waits for what is in flight.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    shutdown: impl Future<Output = ()>,
) -> Drained {
    let (drain, draining) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => log_panic(ended),
            stream = accept(&listener), if connections.len() < app.config.connections() => {
                connections.spawn(connection(stream, app.clone(), draining.clone()));
            }
        }
    }
    drop(listener); // Newcomers are refused before anyone is sent away.
    app.feed.close();
    drain.send_replace(true);
    drained(connections, app.config.drain).await
}

/// The next connection. Errors are the system's or a client's that is gone already: neither ends
/// the server.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Small blocks leave at once. It fails only on a socket that is closed already.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                warn!(%error, "cannot accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection from its first byte to its last.
///
/// Differs from the other members' `serve.rs`: it may go on as a session.
pub(crate) fn connection(
    stream: TcpStream,
    app: Arc<App>,
    mut draining: watch::Receiver<bool>,
) -> impl Future<Output = ()> {
    // Boxed, so that hyper's room is free again once the session is open.
    let opening: Pin<Box<dyn Future<Output = _> + Send>> = if app.config.takeover {
        Box::pin(takeover::without_hyper(stream, app, draining.clone()))
    } else {
        Box::pin(with_hyper(stream, app, draining.clone()))
    };
    opening.then(|mut session| async move {
        // Used where it lies: what is moved has room in the future twice.
        if let Some(session) = &mut session {
            let ending = session.live(&mut draining).await;
            session.end(ending).await;
        }
    })
}

/// The connection as long as it is hyper's. Some if it goes on as a session.
///
/// Differs from the other members' `serve.rs`: it returns what it upgraded.
async fn with_hyper(
    stream: TcpStream,
    app: Arc<App>,
    mut draining: watch::Receiver<bool>,
) -> Option<Session<StallGuard<TcpStream>>> {
    let io = TokioIo::new(StallGuard::new(stream, app.config.stall));
    // The route knows what the session is to be: through here it tells.
    let opening = Mutex::new(None);
    let service = service_fn(|request| route::route(app.clone(), &opening, request));
    let mut connection = pin!(http(&app).serve_connection(io, service).with_upgrades());
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
    let opening = opening
        .lock()
        .expect("nothing panics under this lock")
        .take();
    upgraded(&app, opening?).await
}

async fn upgraded(app: &Arc<App>, opening: Opening) -> Option<Session<StallGuard<TcpStream>>> {
    let Opening {
        upgrade,
        asked,
        limits,
        place,
    } = opening;
    let upgraded = upgrade.await;
    let upgraded = upgraded.inspect_err(|error| debug!(%error, "connection ended"));
    let parts = upgraded
        .ok()?
        .downcast::<TokioIo<StallGuard<TcpStream>>>()
        .expect("it is the io that hyper was given");
    let socket = Socket::new(parts.io.into_inner(), &parts.read_buf, limits);
    Some(Session::new(app, socket, asked, place))
}

/// hyper's server side of HTTP/1, with every limit that it has.
pub(crate) fn http(app: &App) -> http1::Builder {
    let mut http = http1::Builder::new();
    // Without a timer hyper's limit on slow heads is silently off. The same limit is its
    // keep-alive idle timer.
    http.timer(TokioTimer::new())
        .header_read_timeout(app.config.read_timeout)
        .max_buf_size(MAX_HEAD);
    http
}

/// Waits until every connection has ended, and cuts those that have not after `limit`.
async fn drained(mut connections: JoinSet<()>, limit: Duration) -> Drained {
    let deadline = tokio::time::Instant::now() + limit;
    let open = connections.len();
    while let Ok(Some(ended)) = timeout_at(deadline, connections.join_next()).await {
        log_panic(ended);
    }
    let cut = connections.len();
    connections.shutdown().await;
    info!(finished = open - cut, cut, "drained");
    Drained {
        finished: open - cut,
        cut,
    }
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        error!(%error, "a connection's task failed");
    }
}
