//! The accept loop, one connection, and its upgrade.
//!
//! A connection may become a session. hyper is then done with it, and hyper's graceful shutdown does not
//! reach it. So the same task runs the session, under the same limit and in the same drain.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use common::{Activity, Busy, Connections, Drained, StallGuard, accept_failed, peer_span, prepare};
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, service::service_fn, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tracing::{debug, info};

use crate::{
    close::Stalled,
    frames::{Limits, TEXT},
    route::{App, Opening, route},
    session::Session,
    socket::Socket,
    subscriptions::Subscriptions,
};

/// The most frames of one message. Each costs the server some work, even an empty one.
const MAX_FRAGMENTS: u32 = 1_024;

type Stream = StallGuard<TcpStream>;

/// Serves until `shutdown` resolves, then closes the listener and waits for what is in flight.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    shutdown: impl Future<Output = ()>,
) -> Drained {
    let limit = app.server.connections(app.sessions.max);
    let mut connections = Connections::new(limit);
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = connections.changed() => {}
            stream = accept(&listener, app.server.stall), if connections.has_room() => {
                let _span = peer_span(&stream).entered();
                let (activity, draining) = (connections.activity(), connections.draining());
                let connection = connection(stream, app.clone(), activity.clone(), draining);
                connections.spawn(activity, connection);
            }
        }
    }
    drop(listener); // Newcomers are refused before any client is disconnected.
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

/// One connection from its first byte to its last.
fn connection(
    stream: TcpStream,
    app: Arc<App>,
    activity: Activity,
    mut draining: watch::Receiver<bool>,
) -> impl Future<Output = ()> {
    // Boxed, so that hyper's memory is freed before the session runs.
    let http = Box::pin(until_session(stream, app, activity, draining.clone()));
    async move {
        // Borrowed, not moved: a value that is moved across an await is stored twice
        // (rust-lang/rust#62958).
        if let Some(session) = &mut http.await
            && session.run(&mut draining).await == Err(Stalled)
        {
            info!("reset a peer that accepted no data");
            // Otherwise the kernel would keep the unsent bytes. Fails only on a socket that is closed.
            let _ = session.get_ref().get_ref().set_zero_linger();
        }
    }
}

/// Serves HTTP until the connection ends, or until a request upgrades it to a session.
async fn until_session(
    stream: TcpStream,
    app: Arc<App>,
    activity: Activity,
    mut draining: watch::Receiver<bool>,
) -> Option<Session<Stream, Subscriptions>> {
    // The service stores here what the 101 opens, because hyper passes on only the connection.
    let opened = Mutex::new(None);
    let service = service_fn(|request| answer(&app, &activity, &opened, request));
    let io = TokioIo::new(StallGuard::new(stream, app.server.stall));
    let http = app.server.http1();
    // In a block, because hyper's connection must be gone before the upgrade is awaited. Without a 101 the
    // upgrade fails only then.
    let served = {
        // Without `with_upgrades` hyper would close the connection after the 101.
        let mut connection = pin!(http.serve_connection(io, service).with_upgrades());
        tokio::select! {
            served = connection.as_mut() => served,
            _ = draining.changed() => {
                // Answers a request that has begun, and closes.
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    let _ = served.inspect_err(log);
    let (mut opening, busy) = opened.lock().expect(UNPOISONED).take()?;
    // Fails if the client left before it got the 101.
    let upgraded = (&mut opening.upgrade).await.inspect_err(log).ok()?;
    match opening.slot {
        Some(_) => busy.to_the_end(),
        // A refused client may take seconds to close. Idle until then, its connection can be closed for
        // a new one.
        None => drop(busy),
    }
    Some(session(&app, upgraded, opening))
}

async fn answer(
    app: &App,
    activity: &Activity,
    opened: &Mutex<Option<(Opening, Busy)>>,
    mut request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let busy = activity.busy_with(&mut request);
    let (response, opening) = route(app, request).await;
    *opened.lock().expect(UNPOISONED) = opening.map(|opening| (opening, busy));
    Ok(response)
}

const UNPOISONED: &str = "nothing panics under this lock";

/// The session on the connection that hyper hands over once the 101 is written. HTTP ends here. From now on
/// the subprotocol says what the frames mean.
fn session(app: &App, upgraded: Upgraded, opening: Opening) -> Session<Stream, Subscriptions> {
    // hyper has boxed the stream. The session needs its own type back, to be able to reset it.
    let parts = upgraded
        .downcast::<TokioIo<Stream>>()
        .expect("this is the type that hyper was given");
    let limits = Limits {
        message: app.server.max_message,
        fragments: MAX_FRAGMENTS,
    };
    // `read_buf` holds what came after the request: the first frames of a client that did not wait.
    let mut socket = Socket::new(parts.io.into_inner(), &parts.read_buf, limits);
    let mut subscriptions = Subscriptions::new(app.feed.clone());
    if let Some((topics, after, newest)) = opening.subscription
        && opening.slot.is_some()
    {
        let subscribed = subscriptions.open(topics, after, newest);
        socket.push(TEXT, subscribed.as_bytes());
    }
    let (sessions, slot) = (app.sessions.clone(), opening.slot);
    Session::new(sessions, slot, socket, subscriptions, opening.heartbeat)
}

fn log(error: &hyper::Error) {
    debug!(%error, "connection ended");
}

#[cfg(test)]
mod tests {
    use common::{Feed, Retention};

    use super::*;
    use crate::Config;

    #[tokio::test]
    async fn what_a_session_keeps_of_its_connection_is_small() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let feed = Feed::new(Retention::default());
        let app = App::new(feed, Config::default(), &listener).unwrap();
        let connections = Connections::new(1);
        let (activity, draining) = (connections.activity(), connections.draining());
        let size = size_of_val(&connection(stream, Arc::new(app), activity, draining));
        // Ten thousand of them are open.
        assert!(size <= 920, "{size} bytes");
    }
}
