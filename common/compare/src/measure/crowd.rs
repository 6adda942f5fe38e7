//! Many clients: the memory of each while it waits, and the time until all are back after a restart.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::future::try_join_all;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc::UnboundedReceiver,
    time::{Instant, sleep, timeout},
};

use super::{Bench, LOADED, Run, subscription};
use crate::{Follower, Heard, Knobs, Process, Publisher, Row, State, Technique, report::Figure};

/// Connections that are opened at one time.
const AT_ONE_TIME: usize = 100;
/// How often a receiver asks after its endpoint.
const CHECK: Duration = Duration::from_secs(1);
/// How long a client may take to come back.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client that comes back by itself, and what it hears.
type Returning = (Follower, UnboundedReceiver<Heard>);

impl Bench {
    /// Memory per waiting client, with and without the takeover.
    pub(super) async fn memory(&self, run: &mut Run) -> io::Result<()> {
        for technique in Technique::ALL {
            self.memory_of(technique, true, run).await?;
            if matches!(technique, Technique::LongPolling | Technique::Sse) {
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
        // The first clients pay for what is allocated once.
        let _first = waiting(technique, server.addr(), 20).await?;
        let Some(empty) = settled(&server).await else {
            return Ok(());
        };
        let mut clients = Vec::new();
        for &count in self.scale.waiting {
            if count + 256 > self.descriptors {
                break;
            }
            while clients.len() < count {
                let missing = (count - clients.len()).min(AT_ONE_TIME);
                clients.extend(waiting(technique, server.addr(), missing).await?);
            }
            let used = settled(&server).await.unwrap_or(empty);
            let each = used.saturating_sub(empty) as f64 / count as f64;
            let figure = Figure::memory(count, takeover).expect("it has a figure of this size");
            for row in Row::ALL.iter().filter(|row| row.technique == technique) {
                run.note(*row, figure, each);
            }
        }
        Ok(())
    }

    /// Restarts as a deployment does: drain, start, and all clients come back by themselves.
    pub(super) async fn restarts(&self, run: &mut Run) -> io::Result<()> {
        for row in LOADED {
            let seconds = self.restart(row).await?.as_secs_f64();
            run.note(row, Figure::Restart, seconds);
        }
        Ok(())
    }

    async fn restart(&self, row: Row) -> io::Result<Duration> {
        let mut server = self.server(row.technique, Knobs::default()).await?;
        let mut clients = Vec::new();
        for _ in 0..self.scale.crowd {
            let to = subscription(row, &server, "crowd");
            clients.push(Follower::start(row.technique, to, CHECK).await?);
        }
        for (follower, _) in &mut clients {
            follower.reaches(State::Open).await;
        }
        publish(&server, "before").await?;
        for (_, hearing) in &mut clients {
            hears(hearing, "before", row).await?;
        }
        let started = Instant::now();
        server.restart().await?;
        if row.technique == Technique::Webhooks {
            // An endpoint begins at the feed's head, so all have to register first.
            sleep(CHECK).await;
        }
        back(&server, &mut clients, row).await?;
        Ok(started.elapsed())
    }
}

/// Waits until each client has a message, which is published again for those that begin later.
async fn back(server: &Process, clients: &mut [Returning], row: Row) -> io::Result<()> {
    publish(server, "after").await?;
    for (_, hearing) in clients {
        while timeout(CHECK / 4, hears(hearing, "after", row))
            .await
            .is_err()
        {
            publish(server, "after").await?;
        }
    }
    Ok(())
}

async fn publish(server: &Process, word: &str) -> io::Result<()> {
    let mut publisher = Publisher::new(server.addr());
    publisher.publish("crowd", &json!(word)).await.map(drop)
}

async fn hears(hearing: &mut UnboundedReceiver<Heard>, word: &str, row: Row) -> io::Result<()> {
    let heard = async {
        while let Some(heard) = hearing.recv().await {
            if matches!(heard, Heard::Message(message) if message.data == word) {
                return Ok(());
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    };
    let nothing = |_| io::Error::other(format!("{row}: a client did not hear {word:?}"));
    timeout(PATIENCE, heard).await.map_err(nothing)?
}

/// Bare sockets, so that this process has room for ten thousand. An endpoint needs none.
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
    try_join_all((0..count).map(|_| one())).await
}

async fn wait(technique: Technique, server: SocketAddr) -> io::Result<TcpStream> {
    // Its answer shows that the server has read the second request too.
    let first = format!("GET /healthz HTTP/1.1\r\nHost: {server}\r\n\r\n");
    let fields = match technique {
        // Between two polls: the connection is kept and idle.
        Technique::ShortPolling => None,
        Technique::Websockets => Some(concat!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        )),
        _ => Some(""),
    };
    let subscribing = fields.map_or(String::new(), |fields| {
        let path = "/topics/crowd?after=latest";
        format!("GET {path} HTTP/1.1\r\nHost: {server}\r\n{fields}\r\n")
    });
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all((first + &subscribing).as_bytes()).await?;
    if stream.read(&mut [0; 1_024]).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(stream)
}

/// Nothing is published, so the address is never called.
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

/// The server's memory, once it has stopped changing.
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
