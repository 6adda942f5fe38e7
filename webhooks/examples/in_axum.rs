//! The sender as a background task of an axum app. `POST /orders` publishes, and the task of `send.rs` delivers.
//! `WEBHOOK_SECRET=whsec_… cargo run -p webhooks --example in_axum -- 127.0.0.1:8003 https://example.com/webhook`
//!
//! To copy it: copy `send.rs` as its head says. Add this file up to `main` as a module, put `use crate::send;` in the
//! place of `mod send`, and replace `common::` by `crate::feed::`.
//!
//! How an axum app receives webhooks is in `receive_in_axum.rs`.

use std::time::Duration;

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use common::{Data, Draft, Feed};
use tokio::{net::TcpListener, time::timeout};

#[allow(dead_code, reason = "it is also a program")]
#[path = "send.rs"]
pub mod send;

use send::Sender;

const TOPIC: &str = "orders";
const DRAIN: Duration = Duration::from_secs(10);

/// Your part: publish where something happens.
async fn order(State(feed): State<Feed>, body: Bytes) -> Result<String, StatusCode> {
    let data = Data::json(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    let kind = "order.created".parse().expect("constant type is valid");
    let topic = TOPIC.parse().expect("constant topic is valid");
    let published = feed.publish(topic, Draft { kind, data }).await;
    let published = published.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok(published.id.to_string())
}

/// Serves until `shutdown`. An order that waits then gets its last attempt, within `DRAIN`. If that fails, the order
/// is lost, and its id is logged. To keep such orders, use [`webhooks::run`] with a feed in a file.
pub async fn serve(
    listener: TcpListener,
    feed: Feed,
    sender: Sender,
    shutdown: impl Future<Output = ()>,
) {
    let drain = sender.drain.clone();
    let mut draining = drain.subscribe();
    let topics = TOPIC.parse().expect("constant topic is valid");
    let sending = tokio::spawn(sender.run(feed.clone(), topics, feed.head().into()));
    let app = Router::new().route("/orders", post(order));
    let server = axum::serve(listener, app.with_state(feed.clone()));
    let server = server.with_graceful_shutdown(async move { drop(draining.changed().await) });
    let server = tokio::spawn(server.into_future());
    shutdown.await;
    drain.send_replace(true);
    let ended = async {
        let _ = server.await; // It never fails.
        feed.close(); // Only now, because orders were accepted until here.
        let _ = sending.await;
    };
    if timeout(DRAIN, ended).await.is_err() {
        eprintln!("attempts took longer than {DRAIN:?}: their orders are lost");
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, url, ..] = arguments.as_slice() else {
        return Err("give the address to listen on, and the URL to call".into());
    };
    let sender = Sender::to(url, &send::secret()?, send::guard())?;
    let listener = TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let feed = Feed::new(common::Retention::default());
    serve(listener, feed, sender, common::shutdown_signal()).await;
    Ok(())
}
