//! A chat on plain hyper: a session without the rest of this server, and `typing`, a message that is not stored.
//! `cargo run -p websockets --example chat -- 127.0.0.1:8004`
//!
//! `new WebSocket("ws://127.0.0.1:8004/topics/room")` enters a room. Its messages are a topic of the feed.
//! `{"typing":{}}` reaches the other sessions that are in the room now, as `{"typing":{"topic":"room"}}`.
//!
//! It runs on the copy sets `websockets` and `websockets protocol`. From `common` it also uses `Browsers`, `prepare`,
//! `accept_failed` and `shutdown_signal`. What the crate's own server has, and this does not: a limit on connections that
//! are not sessions yet (`serve.rs`), all other paths, `?newest=` and `?heartbeat=` (`route.rs`).
//!
//! Crates, with those of the copy sets: `http-body-util = "0.1"` · `hyper = { version = "1", features = ["http1", "server"] }` ·
//! `hyper-util = { version = "0.1", features = ["tokio"] }` · `tokio = { version = "1", features = ["net", "rt-multi-thread", "signal"] }`

use std::{
    convert::Infallible, env, error::Error, future::ready, pin::pin, sync::Arc, time::Duration,
};

use bytes::Bytes;
use common::{
    After, Browsers, Feed, Problem, Query, Retention, StallGuard, Topic, accept_failed, prepare,
    shutdown_signal,
};
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::Incoming,
    server::conn::http1,
    service::service_fn,
    upgrade::{self, OnUpgrade},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{broadcast, watch},
    time::timeout,
};
use websockets::{
    close::Ending,
    frames::{Limits, TEXT, push_frame},
    handshake,
    protocol::SUBPROTOCOL,
    session::{Session, Sessions, Subprotocol},
    socket::Socket,
    subscriptions::Subscriptions,
};

const SESSIONS: usize = 10_000;
const PING: Duration = Duration::from_secs(20);
const AGE: Duration = Duration::from_secs(3_600);
const DRAIN: Duration = Duration::from_secs(10);
const STALL: Duration = Duration::from_secs(30);
const LIMITS: Limits = Limits {
    message: 65_536,
    fragments: 1_024,
};
/// How many `typing` messages a session may be behind. It skips older ones.
const BEHIND: usize = 16;

/// What all connections share.
#[derive(Clone)]
struct App {
    feed: Feed,
    typing: broadcast::Sender<Typing>,
    sessions: Arc<Sessions>,
    browsers: Arc<Browsers>,
    draining: watch::Receiver<bool>,
}

/// Serves until `shutdown`. Then each session gets its last news and close code 1012.
///
/// # Errors
/// If the listener has no address.
pub async fn serve(
    listener: TcpListener,
    feed: Feed,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let (drain, draining) = watch::channel(false);
    let app = App {
        feed,
        typing: broadcast::Sender::new(BEHIND),
        sessions: Arc::new(Sessions::new(SESSIONS, PING, AGE, DRAIN)),
        browsers: Arc::new(Browsers::new(Vec::new(), listener.local_addr()?, "")),
        draining,
    };
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(tokio::spawn(connection(stream, app.clone()))),
                Err(error) => accept_failed(error).await,
            }
        }
    }
    drop(listener);
    drain.send_replace(true);
    drop(app); // It holds a receiver, and `closed` waits for all of them.
    let _ = timeout(DRAIN, drain.closed()).await; // The rest is cut when the program ends.
    Ok(())
}

/// HTTP, until the connection ends or a handshake takes it over.
async fn connection(stream: TcpStream, app: App) {
    prepare(&stream, STALL);
    let mut draining = app.draining.clone();
    let io = TokioIo::new(StallGuard::new(stream, STALL));
    let service = service_fn(|request| {
        let answer = enter(&app, request).unwrap_or_else(Problem::into_response);
        ready(Ok::<_, Infallible>(answer))
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()); // Without it, slow heads are never closed.
    let mut http = pin!(http.serve_connection(io, service).with_upgrades());
    tokio::select! {
        _ = http.as_mut() => {}
        _ = draining.changed() => {
            http.as_mut().graceful_shutdown();
            let _ = http.await;
        }
    }
}

fn enter(app: &App, mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Problem> {
    // A browser lets any page open a websocket, with your users' cookies.
    app.browsers.check(&request, true)?;
    let path = request.uri().path();
    let Some(room) = path.strip_prefix("/topics/") else {
        return Err(Problem::not_found(path));
    };
    let room: Topic = room.parse().map_err(Problem::bad_request)?;
    let after = Query::of(request.uri()).get("after")?;
    let switching_protocols = handshake::answer(&request, SUBPROTOCOL)?;
    let session = session(
        app.clone(),
        upgrade::on(&mut request),
        room,
        after.unwrap_or(After::Latest),
    );
    tokio::spawn(session);
    Ok(switching_protocols)
}

async fn session(app: App, upgrade: OnUpgrade, room: Topic, after: After) {
    // It fails if the client left before it got the 101.
    let Ok(upgraded) = upgrade.await else { return };
    let mut socket = Socket::new(TokioIo::new(upgraded), b"", LIMITS);
    let mut chat = Chat {
        stored: Subscriptions::new(app.feed),
        me: rand::random(),
        others: app.typing.subscribe(),
        typing: app.typing,
        room: room.clone(),
    };
    let slot = app.sessions.slot();
    if slot.is_some() {
        let subscribed = chat.stored.open(room.into(), after, false);
        socket.push(TEXT, subscribed.as_bytes());
    }
    let mut draining = app.draining;
    // Without a slot the session ends at once, with code 1013.
    let mut session = Session::new(app.sessions, slot, socket, chat, None);
    let _ = session.run(&mut draining).await; // A peer that accepts no data is dropped all the same.
}

/// The subprotocol of the feed, and one command more.
struct Chat {
    stored: Subscriptions,
    room: Topic,
    /// The number of this session, because it does not hear itself.
    me: u64,
    typing: broadcast::Sender<Typing>,
    others: broadcast::Receiver<Typing>,
}

/// The number of the session that types, and its room.
type Typing = (u64, Topic);

/// Whether it is `{"typing":{}}`. With a login, add the user's name to the frame that the others get. Do not take it
/// from the command.
fn is_typing(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|command| command == json!({"typing": {}}))
}

impl Subprotocol for Chat {
    async fn handle(&mut self, text: &str) -> Option<String> {
        if !is_typing(text) {
            return self.stored.handle(text).await;
        }
        let _ = self.typing.send((self.me, self.room.clone())); // There is a receiver: `others`.
        None
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, Ending> {
        // Both futures are cancel-safe: the one that is dropped loses nothing.
        tokio::select! {
            news = self.stored.next() => news,
            () = other_types(&mut self.others, self.me, &self.room) => {
                let text = format!(r#"{{"typing":{{"topic":"{}"}}}}"#, self.room);
                let mut frame = Vec::new();
                push_frame(TEXT, text.as_bytes(), &mut frame);
                Ok(Some(frame))
            }
        }
    }

    async fn heartbeat(&mut self) -> Option<String> {
        self.stored.heartbeat().await
    }
}

/// Waits until another session in the room types.
async fn other_types(others: &mut broadcast::Receiver<Typing>, me: u64, room: &Topic) {
    loop {
        // An error says that this session was slow and skipped some. They are out of date anyway.
        if let Ok((session, topic)) = others.recv().await
            && session != me
            && topic == *room
        {
            return;
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let address = env::args().nth(1).ok_or("give IP:PORT to listen on")?;
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    serve(listener, Feed::new(Retention::default()), shutdown_signal()).await
}
