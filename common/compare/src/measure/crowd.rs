//! Many clients that wait, and the server's memory for each.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::future::try_join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use super::{Bench, Run};
use crate::{Knobs, Process, Row, Technique, report::Figure};

/// Clients before the memory is read for the first time.
const FIRST: usize = 20;
/// Connections that are opened at one time.
const AT_ONE_TIME: usize = 100;

impl Bench {
    /// Memory per waiting client, with and without the takeover.
    pub(super) async fn memory(&self, run: &mut Run) -> io::Result<()> {
        for technique in Technique::ALL {
            let knobs = Knobs::default();
            self.memory_of(technique, knobs, Figure::Memory, run)
                .await?;
            if !matches!(technique, Technique::Webhooks | Technique::Websockets) {
                let plain = Knobs {
                    takeover: false,
                    ..Knobs::default()
                };
                self.memory_of(technique, plain, Figure::Plain, run).await?;
            }
        }
        Ok(())
    }

    async fn memory_of(
        &self,
        technique: Technique,
        knobs: Knobs,
        figure: Figure,
        run: &mut Run,
    ) -> io::Result<()> {
        let server = self.server(technique, knobs).await?;
        // They pay for what is allocated once: threads, tables, the allocator's first pages.
        let mut clients = waiting(technique, server.addr(), FIRST).await?;
        let empty = settled(&server).await.filter(|_| self.crowd > FIRST);
        let Some(empty) = empty else {
            return Ok(());
        };
        while clients.len() < self.crowd {
            // Not all at once: the listen backlog is bounded.
            let missing = (self.crowd - clients.len()).min(AT_ONE_TIME);
            clients.extend(waiting(technique, server.addr(), missing).await?);
        }
        let used = settled(&server).await.unwrap_or(empty);
        let each = used.saturating_sub(empty) as f64 / (self.crowd - FIRST) as f64;
        for row in Row::ALL.iter().filter(|row| row.technique == technique) {
            run.note(*row, figure, each);
        }
        Ok(())
    }
}

/// Bare sockets, so that this process has room for ten thousand. An endpoint needs none.
async fn waiting(
    technique: Technique,
    server: SocketAddr,
    count: usize,
) -> io::Result<Vec<Option<TcpStream>>> {
    let all = (0..count).map(|_| async {
        match technique {
            Technique::Webhooks => register(server).await.map(|()| None),
            _ => wait(technique, server).await.map(Some),
        }
    });
    try_join_all(all).await
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
