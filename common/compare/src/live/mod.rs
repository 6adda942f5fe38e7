//! The page: publish, and watch the message arrive through five techniques side by side.
//!
//! Every message goes to all five servers, each its own process with a feed in memory. Each lane
//! is a client that reconnects, behind a wire that reports every byte. The page reads these reports
//! from an event stream and draws them. Its buttons are POSTs.

mod lane;
mod log;
mod route;
mod wire;

use std::{
    io,
    net::SocketAddr,
    path::Path,
    pin::pin,
    sync::{Arc, atomic::AtomicU64},
};

use common::Browsers;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use sse::stream::{StreamLimits, Streams};
use tokio::{net::TcpStream, task::JoinSet};

use self::{lane::Lane, log::Log};
use crate::{Technique, socket::accept};

/// Messages that each feed keeps. Few, so that a burst trims what a paused client has not read.
const RETAIN: usize = 50;

/// What every connection shares.
struct Stage {
    browsers: Browsers,
    lanes: Vec<Lane>,
    /// How many messages were published.
    published: AtomicU64,
    log: Log,
    /// Streams of the log, for browsers.
    streams: Arc<Streams>,
}

/// Starts the five servers, and serves the page on `listen` until a signal. `program` is this command: it
/// runs the servers.
///
/// # Errors
/// If the address is taken, or a server does not start.
pub async fn run(program: &Path, listen: SocketAddr) -> io::Result<()> {
    let mut shutdown = pin!(common::shutdown_signal());
    let log = Log::new();
    let mut lanes = Vec::new();
    for technique in Technique::ALL {
        lanes.push(Lane::start(program, technique, &log).await?);
    }
    // Last, so that the page works as soon as its address is printed.
    let listener = common::listen(listen).await?;
    let stage = Arc::new(Stage {
        browsers: Browsers::new(Vec::new(), listener.local_addr()?, ""),
        lanes,
        published: AtomicU64::new(0),
        streams: Arc::new(Streams::new(log.feed.handle(), limits())),
        log,
    });
    // Dropped at shutdown, it ends all tasks: nothing here has to be drained.
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            Some(_) = tasks.join_next() => {}
            stream = accept(&listener) => drop(tasks.spawn(connection(stream, stage.clone()))),
        }
    }
}

/// The limits of the sse server.
fn limits() -> StreamLimits {
    let defaults = sse::Config::default();
    StreamLimits {
        streams: defaults.max_subscribers,
        heartbeat: defaults.heartbeat,
        retry: defaults.retry,
        age: defaults.max_age,
        drain: defaults.server.drain,
    }
}

async fn connection(stream: TcpStream, stage: Arc<Stage>) {
    let service = service_fn(|request| route::route(stage.clone(), request));
    // A timer, because hyper's limit on the time of a head needs one.
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    // It fails only when the browser is gone.
    let _ = served.await;
}
