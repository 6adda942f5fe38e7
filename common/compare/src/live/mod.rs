//! The page: publish, and watch the message arrive through five techniques side by side.
//!
//! Every message goes to all five servers, each a process of its own with a feed in memory, and each
//! lane is a client that goes on whatever happens. What the page shows it gets as an event stream of
//! snapshots; what its buttons do are POSTs.

mod lane;
mod route;

use std::{io, net::SocketAddr, path::Path, pin::pin, sync::Arc, time::Duration};

use common::Browsers;
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

/// Messages that each feed keeps: few, so that one burst trims what a paused client has not had.
const RETAIN: usize = 50;
/// What the burst is.
const BURST: usize = RETAIN + 10;
/// The most messages a second that the slider asks for.
const MAX_RATE: u32 = 50;
/// How long a connection may take for a request's head, and stay idle.
const IDLE: Duration = Duration::from_secs(30);

/// What every connection shares.
pub(crate) struct Stage {
    browsers: Browsers,
    lanes: Vec<Lane>,
    /// Messages a second.
    rate: watch::Sender<u32>,
}

impl Stage {
    /// To all five at the same time.
    async fn publish(&self, count: usize) {
        for _ in 0..count {
            let all = self.lanes.iter().map(Lane::publish);
            futures_util::future::join_all(all).await;
        }
    }

    /// Publishes at the rate that is asked for.
    async fn publish_on(&self) {
        let mut rate = self.rate.subscribe();
        loop {
            let per_second = *rate.borrow_and_update();
            let due = async {
                match per_second {
                    0 => std::future::pending().await,
                    _ => sleep(Duration::from_secs(1) / per_second).await,
                }
            };
            tokio::select! {
                () = due => self.publish(1).await,
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
    // Only now: whoever reads the address finds everything there.
    let listener = common::listen(listen).await?;
    let stage = Arc::new(Stage {
        browsers: Browsers::new(Vec::new(), listener.local_addr()?, ""),
        lanes,
        rate: watch::Sender::new(0),
    });
    let mut tasks = JoinSet::new();
    tasks.spawn({
        let stage = stage.clone();
        async move { stage.publish_on().await }
    });
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
    // A browser that is gone is all that can happen here.
    let _ = served.await;
}

/// What the page sees, again and again.
fn snapshots(stage: Arc<Stage>) -> impl futures_util::Stream<Item = String> {
    let ticks = interval(Duration::from_millis(200));
    futures_util::stream::unfold((stage, ticks), async |(stage, mut ticks)| {
        ticks.tick().await;
        let lanes: Vec<_> = stage.lanes.iter().map(Lane::shown).collect();
        let json = serde_json::json!({ "rate": *stage.rate.borrow(), "lanes": lanes });
        Some((format!("data: {json}\n\n"), (stage, ticks)))
    })
}
