//! The page: publish, and watch the message arrive through five techniques side by side.
//!
//! Every message goes to all five servers, each its own process with a feed in memory. Each lane
//! is a client that reconnects. The page reads snapshots from an event stream; its buttons are POSTs.

mod lane;
mod route;

use std::{io, net::SocketAddr, path::Path, pin::pin, sync::Arc, time::Duration};

use common::Browsers;
use futures_util::{Stream, future::join_all, stream};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{interval, sleep},
};

use self::lane::Lane;
use crate::Technique;

/// Messages that each feed keeps: few, so that one burst trims what a paused client has not read.
const RETAIN: usize = 50;
/// Messages of that burst.
const BURST: usize = RETAIN + 10;
/// The most messages a second that the slider allows.
const MAX_RATE: u32 = 50;
/// How long a connection may be idle, or take for a request's head.
const IDLE: Duration = Duration::from_secs(30);

/// What every connection shares.
struct Stage {
    browsers: Browsers,
    lanes: Vec<Lane>,
    /// Messages a second.
    rate: watch::Sender<u32>,
}

impl Stage {
    /// Publishes to all five at the same time.
    async fn publish(&self, count: usize) {
        for _ in 0..count {
            join_all(self.lanes.iter().map(Lane::publish)).await;
        }
    }

    /// Publishes at the rate of the slider.
    async fn publish_on(&self) {
        let mut rate = self.rate.subscribe();
        loop {
            let per_second = *rate.borrow_and_update();
            let gap = Duration::from_secs(1) / per_second.max(1);
            tokio::select! {
                () = sleep(gap), if per_second > 0 => self.publish(1).await,
                changed = rate.changed() => if changed.is_err() { return },
            }
        }
    }

    fn lane(&self, technique: Technique) -> Option<&Lane> {
        self.lanes.iter().find(|lane| lane.technique == technique)
    }
}

/// Starts the five servers, run by `program`, which is this command, and serves the page on `listen`
/// until a signal.
///
/// # Errors
/// If the address is taken, or a server does not start.
pub async fn run(program: &Path, listen: SocketAddr) -> io::Result<()> {
    let mut shutdown = pin!(common::shutdown_signal());
    let mut lanes = Vec::new();
    for technique in Technique::ALL {
        lanes.push(Lane::start(program, technique).await?);
    }
    // Last, so that the page works as soon as its address is printed.
    let listener = common::listen(listen).await?;
    let stage = Arc::new(Stage {
        browsers: Browsers::new(Vec::new(), listener.local_addr()?, ""),
        lanes,
        rate: watch::Sender::new(0),
    });
    // Dropped at shutdown, it ends all tasks: nothing here has to be drained.
    let mut tasks = JoinSet::new();
    let publishing = stage.clone();
    tasks.spawn(async move { publishing.publish_on().await });
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            Some(_) = tasks.join_next() => {}
            Ok((stream, _)) = listener.accept() => {
                tasks.spawn(connection(stream, stage.clone()));
            }
        }
    }
}

async fn connection(stream: TcpStream, stage: Arc<Stage>) {
    let service = service_fn(|request| route::route(stage.clone(), request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service);
    // It fails only when the browser is gone.
    let _ = served.await;
}

/// All lanes, five times a second, as an event stream. Whole snapshots, because then a page that
/// reconnects needs no history.
fn snapshots(stage: Arc<Stage>) -> impl Stream<Item = String> {
    let ticks = interval(Duration::from_millis(200));
    stream::unfold((stage, ticks), async |(stage, mut ticks)| {
        ticks.tick().await;
        let lanes: Vec<_> = stage.lanes.iter().map(Lane::shown).collect();
        let json = serde_json::json!({ "rate": *stage.rate.borrow(), "lanes": lanes });
        Some((format!("data: {json}\n\n"), (stage, ticks)))
    })
}
