//! Upgrades, and reads frames.

use std::io;

use futures_util::StreamExt;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite};

use super::{Gap, Heard, Message, Subscription, http::connect};
use crate::traffic::Counted;

#[derive(Debug)]
pub struct Websocket {
    /// The last position that the server named.
    after: String,
    stream: WebSocketStream<Counted<TcpStream>>,
}

/// The members of a frame that matter here. A frame has one of them, or another.
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
        let socket = connect(to.server, to.traffic.clone()).await?;
        // The upgrade is a request too.
        to.traffic.request();
        let url = format!("ws://{}{}", to.server, to.path(""));
        let (stream, _) = client_async(url, socket).await.map_err(io::Error::other)?;
        Ok(Self {
            after: to.after,
            stream,
        })
    }

    pub(super) fn after(&self) -> &str {
        &self.after
    }

    pub(super) async fn next(&mut self) -> io::Result<Vec<Heard>> {
        loop {
            let Some(message) = self.stream.next().await else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let tungstenite::Message::Text(text) = message.map_err(io::Error::other)? else {
                continue;
            };
            if let Some(heard) = self.take(serde_json::from_str(&text)?) {
                return Ok(vec![heard]);
            }
        }
    }

    fn take(&mut self, frame: Frame) -> Option<Heard> {
        if let Some(message) = frame.message {
            message.id.clone_into(&mut self.after);
            return Some(Heard::Message(message));
        }
        let position = frame.heartbeat.or(frame.subscribed);
        if let Some(next) = position.and_then(|position| position.next) {
            self.after = next;
        }
        frame.gap.map(Heard::Gap)
    }
}
