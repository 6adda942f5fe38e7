//! An event stream with access control: tokens, cookies, tickets, rights on topics. A stream ends when its token ends.
//! `cargo run -p sse --example sse_access -- 127.0.0.1:8005` prints a token for an hour.
//! Its page at `/` logs in.

use std::{
    env,
    error::Error,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::Router;
use common::{Browsers, Feed, Retention, shutdown_signal};
use tokio::net::TcpListener;

#[path = "../../common/examples/access/mod.rs"]
pub mod access;
#[allow(dead_code, unreachable_pub, reason = "only its routes are used here")]
#[path = "in_axum.rs"]
pub mod in_axum;

use access::{Access, guarded, login};
use in_axum::publish;

/// A revoked client is disconnected after this time.
const RECHECK: Duration = Duration::from_secs(15);

/// The routes of the technique behind the guard, and a page that logs in.
pub fn router(feed: Feed, access: Arc<Access>) -> Router {
    let publishing = publish::router(feed.clone(), publish::LIMITS);
    let guarded = guarded(access.clone(), in_axum::router(feed).merge(publishing));
    guarded.merge(login::routes(access, "EventSource"))
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
    let feed = Feed::new(Retention::default());
    let app = router(feed.clone(), Arc::new(access));
    in_axum::serve(listener, app, feed, shutdown_signal()).await;
    Ok(())
}
