//! A durable receiver in an axum app, by the files of the copy set *receive*: it verifies a webhook, stores it on disk,
//! answers 200, and then handles it once. Here for GitHub and Stripe, on port 8006, with the effects of `receive.rs`.
//! `GITHUB_WEBHOOK_SECRET=… STRIPE_WEBHOOK_SECRET=whsec_… cargo run -p webhooks --example receive_in_axum`
//!
//! To copy it: `cargo run -p copy -- webhooks receive DIR`. Add this file up to `mod receive` as a module, and replace
//! `webhooks::` by `crate::`. Then write `main` with your own [`Effects`], and merge your routes with those of `router`.
//! A dead event has a row in `SELECT seq, error FROM work WHERE due IS NULL` ([`Inbox::read`]). [`Inbox::retry`]
//! attempts it again.
//!
//! Crates: `axum = { version = "0.8", default-features = false, features = ["http1", "tokio"] }` ·
//! `tokio = { version = "1", features = ["macros", "net", "rt-multi-thread", "sync", "time"] }`
//!
//! What [`webhooks::receiver::run_with`] has, and this does not: a list of the events and their retry over HTTP, the
//! likely cause of a 401 in the log, and limits on slow bodies and on the memory of all bodies.

use std::{io, sync::Arc, time::Duration, time::SystemTime};

use axum::http::{HeaderMap, StatusCode};
use axum::{Router, extract::DefaultBodyLimit, extract::State, routing::post};
use tokio::{net::TcpListener, sync::watch, time::timeout};
use webhooks::receiver::inbox::{Inbox, Stored};
use webhooks::receiver::work::{Attempts, Effects, work};
use webhooks::receiver::{receive::Receiver, source::Rejection};

/// The largest body: GitHub sends up to 25 MiB.
pub const MAX_BODY: usize = 25 << 20;
/// How long the requests and attempts that run may take after `shutdown`.
const DRAIN: Duration = Duration::from_secs(10);

/// A route for each sender that has a secret, such as `/webhook/github`.
pub fn router(receiver: Receiver) -> Router {
    let mut router = Router::new();
    for source in receiver.secrets.enabled() {
        let route = async move |State(receiver): State<Arc<Receiver>>, headers: HeaderMap, body| {
            let stored = receiver.receive(source, &headers, body, SystemTime::now());
            answer(stored.await)
        };
        router = router.route(source.path(), post(route));
    }
    let router = router.layer(DefaultBodyLimit::max(MAX_BODY));
    router.with_state(Arc::new(receiver))
}

/// 200 if the event is on disk, to a repeat too. Otherwise the sender learns only the status.
fn answer(stored: Result<Stored, Rejection>) -> StatusCode {
    let Err(rejection) = stored else {
        return StatusCode::OK;
    };
    eprintln!("a webhook is refused: {rejection:?}");
    rejection.status()
}

/// Serves, and handles events, until `shutdown` or until the disk fails. Events that wait then, or whose attempt takes
/// longer than `DRAIN`, are handled after the next start.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    inbox: Inbox,
    effects: impl Effects,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let mut failure = inbox.failure();
    let (drain, mut draining) = watch::channel(false);
    let (effects, attempts) = (Arc::new(effects), Attempts::default());
    let worker = work(inbox, effects, attempts, SystemTime::now, draining.clone());
    let worker = tokio::spawn(worker);
    let server = axum::serve(listener, app);
    let server = server.with_graceful_shutdown(async move { drop(draining.changed().await) });
    let server = tokio::spawn(server.into_future());
    tokio::select! {
        () = shutdown => {}
        Ok(_) = failure.wait_for(Option::is_some) => {}
    }
    drain.send_replace(true);
    let _ = timeout(DRAIN, async { tokio::join!(server, worker) }).await;
    let failed = failure.borrow().clone();
    failed.map_or(Ok(()), |error| Err(io::Error::other(error)))
}

#[allow(dead_code, reason = "it is also a program")]
#[path = "receive.rs"]
pub mod receive;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let secrets = webhooks::receiver::source::Secrets {
        github: vec![std::env::var("GITHUB_WEBHOOK_SECRET")?.parse()?],
        stripe: vec![std::env::var("STRIPE_WEBHOOK_SECRET")?.parse()?],
        ..Default::default()
    };
    let inbox = Inbox::open("inbox.sqlite".as_ref(), Duration::from_secs(8))?;
    let (secrets, for_work) = (Arc::new(secrets), inbox.clone());
    let app = router(Receiver { secrets, inbox });
    let listener = TcpListener::bind("127.0.0.1:8006").await?;
    println!("listening on http://{}", listener.local_addr()?);
    let shutdown = common::shutdown_signal();
    Ok(serve(listener, app, for_work, receive::Orders, shutdown).await?)
}
