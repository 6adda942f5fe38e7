//! One of the five, on a free port and with a feed of its own.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use common::{Drained, Feed, Retention};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::Technique;

/// A server in a task of its own. Dropped without [`Server::stop`], it drains unattended.
#[derive(Debug)]
pub struct Server {
    technique: Technique,
    addr: SocketAddr,
    shutdown: oneshot::Sender<()>,
    task: JoinHandle<io::Result<Drained>>,
}

impl Server {
    /// Starts `technique`'s server on loopback.
    ///
    /// # Errors
    /// If there is no port to be had.
    pub async fn start(technique: Technique) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let (shutdown, asked) = oneshot::channel();
        let task = tokio::spawn(serve(technique, listener, async { drop(asked.await) }));
        Ok(Self {
            technique,
            addr,
            shutdown,
            task,
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Has it drain.
    ///
    /// # Errors
    /// If it failed, or had to cut a connection.
    pub async fn stop(self) -> io::Result<()> {
        // Gone already, it tells why.
        let _ = self.shutdown.send(());
        let drained = self.task.await??;
        if drained.cut > 0 {
            let technique = self.technique;
            return Err(io::Error::other(format!("{technique}: {drained:?}")));
        }
        Ok(())
    }
}

/// The server with the knobs' defaults; the sender of webhooks is allowed to call this machine.
async fn serve(
    technique: Technique,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> io::Result<Drained> {
    let feed = Feed::new(Retention::default());
    match technique {
        Technique::ShortPolling => {
            short_polling::run(listener, feed, short_polling::Config::default(), shutdown).await
        }
        Technique::LongPolling => {
            long_polling::run(listener, feed, long_polling::Config::default(), shutdown).await
        }
        Technique::Webhooks => {
            let config = webhooks::Config {
                allow_http: true,
                allow_loopback: true,
                ..webhooks::Config::default()
            };
            webhooks::run(listener, feed, config, shutdown).await
        }
        Technique::Websockets => {
            websockets::run(listener, feed, websockets::Config::default(), shutdown).await
        }
        Technique::Sse => sse::run(listener, feed, sse::Config::default(), shutdown).await,
    }
}
