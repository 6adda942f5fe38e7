//! Upgrades and reads frames. hyper makes the handshake; from then on tungstenite reads from and
//! writes to two buffers, and the socket is ours.

use std::io::{self, Read, Write};

use bytes::{Buf, BufMut, BytesMut};
use hyper::{
    Request, StatusCode,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE},
    upgrade,
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tungstenite::{
    handshake::{client::generate_key, derive_accept_key},
    protocol::{Role, WebSocketContext},
};

use super::{Connection, Gap, Heard, Message, Subscription, expect};
use crate::traffic::Counted;

#[derive(Debug)]
pub struct Websocket {
    /// The last position that was told.
    after: String,
    stream: Counted<TcpStream>,
    context: WebSocketContext,
    buffers: Buffers,
}

/// What tungstenite takes for a socket.
#[derive(Debug, Default)]
struct Buffers {
    incoming: BytesMut,
    outgoing: Vec<u8>,
}

/// The members of a frame that matter here; it has one of them or another.
#[derive(Debug, Deserialize)]
struct Frame {
    message: Option<Message>,
    gap: Option<Gap>,
    subscribed: Option<Position>,
    heartbeat: Option<Position>,
}

#[derive(Debug, Deserialize)]
struct Position {
    next: Option<String>,
}

impl Websocket {
    pub(super) async fn open(to: Subscription) -> io::Result<Self> {
        let mut connection = Connection::open(to.server, to.traffic.clone()).await?;
        let key = generate_key();
        let request = Request::get(to.path(""))
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, &key);
        let response = connection.send(request, "").await?;
        expect(
            StatusCode::SWITCHING_PROTOCOLS,
            response.status(),
            &"".into(),
        )?;
        let accept = response.headers().get(SEC_WEBSOCKET_ACCEPT);
        if accept.is_none_or(|accept| *accept != derive_accept_key(key.as_bytes())) {
            return Err(io::Error::other("the answer is to another handshake"));
        }
        let upgraded = upgrade::on(response).await.map_err(io::Error::other)?;
        let parts = upgraded
            .downcast::<TokioIo<Counted<TcpStream>>>()
            .expect("it is the io that hyper was given");
        Ok(Self {
            after: to.after,
            stream: parts.io.into_inner(),
            context: WebSocketContext::new(Role::Client, None),
            buffers: Buffers {
                incoming: BytesMut::from(parts.read_buf),
                outgoing: Vec::new(),
            },
        })
    }

    pub(super) fn after(&self) -> &str {
        &self.after
    }

    pub(super) async fn next(&mut self) -> io::Result<Vec<Heard>> {
        loop {
            let tungstenite::Message::Text(text) = self.read().await? else {
                continue;
            };
            let frame: Frame = serde_json::from_str(&text)?;
            if let Some(message) = frame.message {
                message.id.clone_into(&mut self.after);
                return Ok(vec![Heard::Message(message)]);
            }
            if let Some(gap) = frame.gap {
                return Ok(vec![Heard::Gap(gap)]);
            }
            let position = frame.heartbeat.or(frame.subscribed);
            if let Some(next) = position.and_then(|position| position.next) {
                self.after = next;
            }
        }
    }

    /// Says goodbye, hears it, and waits for the server to close (RFC 6455 §7.1.1).
    pub(super) async fn close(mut self) -> io::Result<()> {
        let closing = self.context.close(&mut self.buffers, None);
        closing.map_err(io::Error::other)?;
        self.write().await?;
        while !self.read().await?.is_close() {}
        while self.stream.read_buf(&mut self.buffers.incoming).await? > 0 {}
        Ok(())
    }

    /// The next message of any kind. Pings are answered on the way.
    async fn read(&mut self) -> io::Result<tungstenite::Message> {
        loop {
            match self.context.read(&mut self.buffers) {
                Ok(message) => return Ok(message),
                Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                }
                Err(error) => return Err(io::Error::other(error)),
            }
            self.write().await?;
            if self.stream.read_buf(&mut self.buffers.incoming).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn write(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.buffers.outgoing).await?;
        self.buffers.outgoing.clear();
        Ok(())
    }
}

impl Read for Buffers {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.incoming.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        (&mut self.incoming).reader().read(buffer)
    }
}

impl Write for Buffers {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.put_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
