//! The wire between a client and a server. It reports what passes, and it can be cut or slowed down.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Instant, sleep},
};

use super::log::Log;
use crate::socket::accept;

/// The most bytes that are passed on, and reported, at one time.
const CHUNK: usize = 16 * 1_024;
/// How long a slow reader takes for one chunk.
const SLOW: Duration = Duration::from_secs(2);

/// What a wire does with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Passes,
    /// Connections break, and no new one is made.
    Cut,
    /// The client reads slowly.
    Slow,
}

/// A wire, for as long as this process runs.
#[derive(Clone)]
pub(super) struct Wire {
    /// The address of the far end.
    pub(super) to: SocketAddr,
    /// The end that connects and the end that accepts: `client` or `server`.
    pub(super) ends: [&'static str; 2],
    pub(super) mode: watch::Receiver<Mode>,
    pub(super) log: Arc<Log>,
}

impl Wire {
    /// Listens in place of the far end. Returns the address.
    pub(super) async fn listen(self) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        tokio::spawn(async move {
            for number in 1_u64.. {
                let near = accept(&listener).await;
                tokio::spawn(self.clone().connection(near, number));
            }
        });
        Ok(addr)
    }

    async fn connection(self, near: TcpStream, number: u64) {
        let mut mode = self.mode.clone();
        let cut = mode.borrow_and_update().eq(&Mode::Cut);
        let far = TcpStream::connect(self.to).await;
        let (Ok(far), false) = (far, cut) else {
            let told = json!({ "from": self.ends[0] });
            return self.log.tell("refused", told).await;
        };
        let told = json!({ "connection": number });
        self.log.tell("open", told.clone()).await;
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = far.into_split();
        let [near_end, far_end] = self.ends;
        // The end of one direction ends both: none of these clients and servers half-closes.
        let reason = tokio::select! {
            _ = self.pass(number, near_end, near_read, far_write) => "close",
            _ = self.pass(number, far_end, far_read, near_write) => "close",
            _ = mode.wait_for(|mode| *mode == Mode::Cut) => "broken",
        };
        self.log.tell(reason, told).await;
    }

    /// Passes on what `from` sends, until it ends.
    async fn pass(
        &self,
        number: u64,
        from: &str,
        mut source: impl AsyncRead + Unpin,
        mut target: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let bytes = match source.read(&mut buffer).await? {
                0 => return Ok(()),
                count => &buffer[..count],
            };
            let sent = Instant::now();
            if from == "server" && *self.mode.borrow() == Mode::Slow {
                sleep(SLOW).await;
            }
            // A character for each byte, because WebSocket frames are not text.
            let text: String = bytes.iter().copied().map(char::from).collect();
            let took = sent.elapsed().as_secs_f64() * 1_000.0;
            let told = json!({ "connection": number, "from": from, "took": took, "text": text });
            // Logged first, because what it causes at the other end must come after it in the log.
            self.log.tell("bytes", told).await;
            target.write_all(bytes).await?;
        }
    }
}
