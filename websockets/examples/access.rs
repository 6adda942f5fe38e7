//! A websocket with access control: tokens, cookies, tickets, rights on topics for each command. A session ends when
//! its token ends. `cargo run -p websockets --example websockets_access -- 127.0.0.1:8004` prints a token for an hour.
//! Its page at `/` logs in. In a browser:
//! `new WebSocket("ws://127.0.0.1:8004/topics/news.a", ["feed.v1.json", "bearer.TOKEN"])`
//!
//! The session is the same as in `in_axum.rs`. A page cannot see why a handshake is refused, so it gets
//! the 101 and a close code: 4401 for a token that is not valid, 4403 for a topic that it may not read.
//!
//! To copy it, depend on the package `common`, as the head of `common/examples/axum/serve.rs` says. Copy the folder
//! `access`, the file `publish.rs`, and `in_axum.rs` as its head says. Add this file up to `main` as a module that uses
//! these copies, and replace `websockets::` by `crate::`.

use std::{
    env,
    error::Error,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    extract::{Request, State},
    response::Response,
    routing::get,
};
use common::{Browsers, Feed, Problem, Retention, StallGuard, shutdown_signal};
use hyper::StatusCode;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};
use websockets::{
    close::{Ending, close},
    frames::TEXT,
    handshake,
    protocol::SUBPROTOCOL,
    session::{Session, Sessions, Subprotocol},
    socket::Socket,
    subscriptions::Subscriptions,
};

#[path = "../../common/examples/access/mod.rs"]
pub mod access;
#[allow(dead_code, unreachable_pub, reason = "its routes are not used here")]
#[path = "in_axum.rs"]
pub mod in_axum;

use access::{Access, Grant, guarded, login};
use in_axum::{LIMITS, STALL, publish, wanted};

/// A revoked client is disconnected after this time.
const RECHECK: Duration = Duration::from_secs(15);

#[derive(Clone)]
struct App {
    feed: Feed,
    access: Arc<Access>,
    sessions: Arc<Sessions>,
    draining: watch::Receiver<bool>,
}

/// The routes of the technique, with publishing and tickets over HTTP, and a page that logs in. Sessions end when
/// `draining` changes.
pub fn router(feed: Feed, access: Arc<Access>, draining: watch::Receiver<bool>) -> Router {
    let publishing = publish::router(feed.clone(), publish::LIMITS);
    let over_http = guarded(access.clone(), publishing);
    let page = login::routes(access.clone(), "WebSocket");
    // Not behind the guard: its refusals are answers of HTTP, which a page cannot see.
    let router = Router::new().route("/topics/{*topics}", get(open));
    let router = router.with_state(App {
        feed,
        access,
        sessions: Arc::new(in_axum::sessions()),
        draining,
    });
    router.merge(over_http).merge(page)
}

async fn open(State(app): State<App>, request: Request) -> Response {
    let answer = upgrade(app, request);
    answer.unwrap_or_else(Problem::into_response)
}

fn upgrade(app: App, mut request: Request) -> Result<Response, Problem> {
    let (topics, after, newest, heartbeat) = wanted(request.uri())?;
    let admitted = match app.access.admit(&request) {
        Ok(grant) => grant.may_read(&topics).map(|()| grant),
        Err(problem) if problem.status == StatusCode::UNAUTHORIZED => Err(problem),
        // Neither a foreign page nor a wrong parameter gets a session.
        Err(problem) => return Err(problem),
    };
    let switching_protocols = handshake::answer(&request, SUBPROTOCOL)?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let connection = StallGuard::new(TokioIo::new(upgraded), STALL);
        let mut socket = Socket::new(connection, b"", LIMITS);
        let grant = match admitted {
            Ok(grant) => grant,
            Err(problem) => return drop(close(&mut socket, refusal(problem.status)).await),
        };
        let slot = app.sessions.slot();
        let mut subprotocol = Guarded {
            inner: Subscriptions::new(app.feed),
            access: app.access,
            grant,
        };
        if slot.is_some() {
            let subscribed = subprotocol.inner.open(topics, after, newest);
            socket.push(TEXT, subscribed.as_bytes());
        }
        let mut draining = app.draining;
        let mut session = Session::new(app.sessions, slot, socket, subprotocol, heartbeat);
        let _ = session.run(&mut draining).await;
    });
    Ok(switching_protocols)
}

fn refusal(status: StatusCode) -> Ending {
    match status {
        StatusCode::UNAUTHORIZED => Ending::Ours(4401.into(), "the token is not valid"),
        _ => Ending::Ours(4403.into(), "the token does not allow these topics"),
    }
}

/// The subprotocol, for one grant.
struct Guarded {
    inner: Subscriptions,
    access: Arc<Access>,
    grant: Grant,
}

impl Subprotocol for Guarded {
    async fn handle(&mut self, text: &str) -> Option<String> {
        // Also here: a session that does not read its answers is not asked for news.
        if self.access.check(&self.grant).is_err() {
            let error = json!({"error": {"status": 401, "detail": "the token is not valid"}});
            return Some(error.to_string());
        }
        match check(&self.grant, text) {
            Ok(()) => self.inner.handle(text).await,
            Err(error) => Some(error.to_string()),
        }
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, Ending> {
        tokio::select! {
            biased; // The grant is checked before each page.
            () = self.access.ended(&self.grant) => Err(refusal(StatusCode::UNAUTHORIZED)),
            news = self.inner.next() => news,
        }
    }

    async fn heartbeat(&mut self) -> Option<String> {
        self.inner.heartbeat().await
    }
}

/// All commands, with the parts that need a right. A command that is added to the subprotocol is refused until it is
/// added here.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Command {
    Publish(Publish),
    Subscribe(Subscribe),
    /// These need no right.
    Unsubscribe(IgnoredAny),
    Received(IgnoredAny),
    Ping(IgnoredAny),
}

/// No topic counts as one that is not a topic, so that the error has the command's `ref`.
#[derive(Deserialize)]
struct Publish {
    #[serde(default)]
    topic: String,
    #[serde(default)]
    r#ref: Value,
}

#[derive(Deserialize)]
struct Subscribe {
    #[serde(default)]
    topics: Vec<String>,
    #[serde(default)]
    r#ref: Value,
}

/// The `error` frame for a command without the right to its topics. Text that cannot be parsed here is refused,
/// because the subprotocol might parse it in another way.
fn check(grant: &Grant, text: &str) -> Result<(), Value> {
    let command: Command = serde_json::from_str(text)
        .map_err(|_| json!({"error": {"status": 400, "detail": "this is not a command"}}))?;
    let (reference, checked) = match command {
        Command::Publish(Publish { topic, r#ref }) => (r#ref, may_publish(grant, &topic)),
        Command::Subscribe(Subscribe { topics, r#ref }) => (r#ref, may_read(grant, &topics)),
        Command::Unsubscribe(_) | Command::Received(_) | Command::Ping(_) => return Ok(()),
    };
    checked.map_err(|problem| {
        let (status, detail) = (problem.status.as_u16(), problem.detail);
        json!({"error": {"ref": reference, "status": status, "detail": detail}})
    })
}

fn may_publish(grant: &Grant, topic: &str) -> Result<(), Problem> {
    grant.may_publish(&topic.parse().map_err(Problem::bad_request)?)
}

fn may_read(grant: &Grant, topics: &[String]) -> Result<(), Problem> {
    grant.may_read(&topics.join(",").parse().map_err(Problem::bad_request)?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).ok_or("give IP:PORT to listen on")?;
    let listener = TcpListener::bind(address).await?;
    let browsers = Browsers::new(Vec::new(), listener.local_addr()?, "");
    // Read your key from a file or a variable: with a random one, no token survives a restart.
    let access = Access::new(&rand::random(), browsers, RECHECK, SystemTime::now);
    println!("token {}", access.token_for("you", "news.*", 3_600));
    println!("listening on http://{}", listener.local_addr()?);
    let (feed, access) = (Feed::new(Retention::default()), Arc::new(access));
    let router = |draining| router(feed, access, draining);
    in_axum::serve(listener, router, shutdown_signal()).await;
    Ok(())
}
