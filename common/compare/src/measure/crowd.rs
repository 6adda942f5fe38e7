//! Many clients: what they weigh while they wait, and how long until all are back.

use std::{io, net::SocketAddr, sync::atomic::Ordering::Relaxed, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc::UnboundedReceiver,
    time::{Instant, sleep, timeout},
};

use super::{Bench, Run};
use crate::{
    Follower, Heard, Knobs, Process, Publisher, Row, Subscription, Technique, report::Figure,
};

/// Servers whose memory is measured, as far as `Scale::total` goes: two of them also without their
/// takeover.
pub(super) const KINDS: usize = 7;
/// Connections that are made at one time.
const AT_ONE_TIME: usize = 100;
/// How often a receiver asks after its endpoint.
const CHECK: Duration = Duration::from_secs(1);
/// How long a client may take to come back.
const PATIENCE: Duration = Duration::from_secs(30);

impl Bench {
    /// Memory per waiting client, with and without the takeover.
    pub(super) async fn memory(&self, run: &mut Run) -> io::Result<()> {
        for technique in Technique::ALL {
            self.memory_of(technique, true, run).await?;
            if has_takeover(technique) {
                self.memory_of(technique, false, run).await?;
            }
        }
        Ok(())
    }

    async fn memory_of(
        &self,
        technique: Technique,
        takeover: bool,
        run: &mut Run,
    ) -> io::Result<()> {
        let knobs = Knobs {
            takeover,
            max_subscribers: 12_000,
            ..Knobs::default()
        };
        let server = self.server(technique, knobs).await?;
        // The first clients pay for what is made once.
        let mut waiting = waiting(technique, server.addr(), 20).await?;
        let Some(empty) = settled(&server).await else {
            return Ok(());
        };
        let before = waiting.len();
        for &clients in self.scale.waiting {
            if clients + 256 > self.descriptors {
                break;
            }
            while waiting.len() < before + clients {
                let missing = before + clients - waiting.len();
                let count = missing.min(AT_ONE_TIME);
                waiting.extend(self::waiting(technique, server.addr(), count).await?);
                self.done.fetch_add(count, Relaxed);
            }
            let used = settled(&server).await.unwrap_or(empty);
            let each = used.saturating_sub(empty) as f64 / clients as f64;
            let figure = Figure::memory(clients, takeover).expect("these are the sizes");
            for row in Row::ALL.iter().filter(|row| row.technique == technique) {
                run.note(*row, figure, each);
            }
        }
        Ok(())
    }

    /// A restart as a deployment does it: drain, start, and everybody comes back by itself.
    pub(super) async fn restarts(&self, run: &mut Run) -> io::Result<()> {
        for row in super::LOADED {
            let seconds = self.restart(row).await?.as_secs_f64();
            run.note(row, Figure::Restart, seconds);
        }
        Ok(())
    }

    async fn restart(&self, row: Row) -> io::Result<Duration> {
        let mut server = self.server(row.technique, Knobs::default()).await?;
        let mut clients = Vec::new();
        for _ in 0..self.scale.crowd {
            let to = Subscription {
                interval: row.interval(),
                ..Subscription::new(server.addr(), "crowd")
            };
            clients.push(Follower::start(row.technique, to, CHECK).await?);
        }
        for (follower, _) in &mut clients {
            if !row.polls() {
                follower.reaches(crate::State::Open).await;
            }
        }
        publish(&server, "before").await?;
        for (_, hearing) in &mut clients {
            hears(hearing, "before", row).await?;
        }
        let started = Instant::now();
        server.restart().await?;
        if row.technique == Technique::Webhooks {
            // An endpoint begins at the feed's head: all have to be there again.
            sleep(CHECK).await;
        }
        self.back(&server, &mut clients, row).await?;
        Ok(started.elapsed())
    }

    /// Publishes once, and for those who begin later again.
    async fn back(
        &self,
        server: &Process,
        clients: &mut [(Follower, UnboundedReceiver<Heard>)],
        row: Row,
    ) -> io::Result<()> {
        publish(server, "after").await?;
        for (_, hearing) in clients {
            while timeout(CHECK / 4, hears(hearing, "after", row))
                .await
                .is_err()
            {
                publish(server, "after").await?;
            }
            self.done.fetch_add(1, Relaxed);
        }
        Ok(())
    }
}

/// Whether the member's clients can leave hyper.
fn has_takeover(technique: Technique) -> bool {
    matches!(technique, Technique::LongPolling | Technique::Sse)
}

async fn publish(server: &Process, word: &str) -> io::Result<()> {
    let mut publisher = Publisher::new(server.addr());
    publisher.publish("crowd", &json!(word)).await.map(drop)
}

async fn hears(hearing: &mut UnboundedReceiver<Heard>, word: &str, row: Row) -> io::Result<()> {
    let heard = async {
        loop {
            match hearing.recv().await {
                Some(Heard::Message(message)) if message.data == word => return Ok(()),
                Some(_) => {}
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    };
    let nothing = || io::Error::other(format!("{row}: a client did not hear {word:?}"));
    timeout(PATIENCE, heard).await.map_err(|_| nothing())?
}

/// Bare sockets, so that this process has room for ten thousand; endpoints have none.
async fn waiting(
    technique: Technique,
    server: SocketAddr,
    count: usize,
) -> io::Result<Vec<Option<TcpStream>>> {
    let one = || async move {
        match technique {
            Technique::Webhooks => register(server).await.map(|()| None),
            _ => wait(technique, server).await.map(Some),
        }
    };
    let all = (0..count).map(|_| one());
    let all = futures_util::future::join_all(all).await;
    all.into_iter().collect()
}

async fn wait(technique: Technique, server: SocketAddr) -> io::Result<TcpStream> {
    // An answer before it says that the server has the request.
    let first = format!("GET /healthz HTTP/1.1\r\nHost: {server}\r\n\r\n");
    let fields = match technique {
        // Between two polls: the connection is kept, and nothing is asked.
        Technique::ShortPolling => None,
        Technique::Websockets => Some(concat!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        )),
        _ => Some(""),
    };
    let request = fields.map_or(String::new(), |fields| {
        let path = "/topics/crowd?after=latest";
        format!("GET {path} HTTP/1.1\r\nHost: {server}\r\n{fields}\r\n")
    });
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all((first + &request).as_bytes()).await?;
    if stream.read(&mut [0; 1_024]).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(stream)
}

/// Nothing is published, so nobody is ever called.
async fn register(server: SocketAddr) -> io::Result<()> {
    let body = r#"{"url":"http://127.0.0.1:9/","topics":["crowd"]}"#;
    let request = format!(
        "POST /endpoints HTTP/1.1\r\nHost: {server}\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    match answer.starts_with("HTTP/1.1 201") {
        true => Ok(()),
        false => Err(io::Error::other(format!("not registered: {answer}"))),
    }
}

/// The server's memory once it changes no more.
async fn settled(server: &Process) -> Option<u64> {
    let mut last = server.resident()?;
    for _ in 0..20 {
        sleep(Duration::from_millis(100)).await;
        let now = server.resident()?;
        if now.abs_diff(last) < 16 << 10 {
            return Some(now);
        }
        last = now;
    }
    Some(last)
}
