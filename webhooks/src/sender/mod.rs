//! The sender: it signs each message and POSTs it to the endpoints.
//!
//! Read in this order: `deliver.rs` is one attempt, with `guard.rs` (which addresses it may call), `lane.rs`
//! and `tls.rs` (its connection). `ledger.rs` decides what an endpoint gets and when, `push.rs` is the loop
//! that does it, `places.rs` limits its attempts, and `store.rs` keeps its state. `endpoint.rs` is one
//! endpoint, `endpoints.rs` manages all of them, and `route.rs` is the management over HTTP. `config.rs` has the
//! knobs.

use std::{io, sync::Arc};

use common::{Browsers, Drained, Feed, metrics};
use tokio::net::TcpListener;

pub use self::config::Config;
use self::{endpoints::Endpoints, push::Outbound, route::App, store::Store};
use crate::serve::serve;

mod config;
pub mod deliver;
mod endpoint;
mod endpoints;
pub mod guard;
pub mod lane;
mod ledger;
mod places;
mod push;
mod route;
mod steady;
mod store;
#[cfg(test)]
#[path = "tests/timers.rs"]
mod timers;
pub mod tls;

/// Sends what is published to `feed`, and serves the management of the endpoints on `listener`, until
/// `shutdown` resolves. Then it starts no attempt, and finishes those in flight within
/// `config.server.drain`.
///
/// # Errors
/// If the listener has no address, or the feed's file cannot be read. Also if accepted work was lost: with
/// a feed in memory, messages that an endpoint has not received by the end never arrive. The error counts
/// them, waiting retries included, and `main` turns it into exit code 1.
pub async fn run(
    listener: TcpListener,
    feed: Feed,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> io::Result<Drained> {
    let store = Store::open(&feed).await?;
    let server = config.server.clone();
    let outbound = Outbound::new(config, feed.handle(), store, listener.local_addr().ok());
    let endpoints = Arc::new(Endpoints::open(outbound).await?);
    let scraped = endpoints.clone();
    let gauges = move || scraped.gauges();
    let _metrics = metrics(&server, &feed, &["attempts"], gauges).await?;
    let served = feed.handle(); // closed at the drain, while attempts in flight still use `feed`
    let origins = server.allow_origin.clone();
    let app = Arc::new(App {
        endpoints: endpoints.clone(),
        feed: served.clone(),
        browsers: Browsers::new(origins, listener.local_addr()?, ""),
        limits: server.publish_limits(),
    });
    let route = move |request| route::route(app.clone(), request);
    let shutdown = async {
        shutdown.await;
        endpoints.stop();
    };
    let http = server.http1();
    let serving = serve(listener, &served, server, http, route, shutdown);
    let ended = async { (serving.await, endpoints.drained().await) };
    // Lost deliveries are counted last, because until then a publisher could still get a 201.
    let (drained, lost) = tokio::select! {
        ended = ended => ended,
        never = endpoints.keep_pinned() => match never {},
    };
    match lost {
        0 => Ok(drained),
        lost => Err(io::Error::other(Lost(lost))),
    }
}

/// The number of deliveries of accepted messages that were lost: not delivered, and not dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("deliveries lost because the feed is in memory: {0}")]
pub struct Lost(pub usize);
