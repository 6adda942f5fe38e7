//! Upgrades, and reads frames.

use std::io;

use futures_util::{SinkExt, StreamExt, stream::try_unfold};
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite};

use super::{Client, Gap, Heard, Message, News, Subscription};
use crate::socket::{Counted, connect};

struct WebSocket {
    stream: WebSocketStream<Counted>,
    to: Subscription,
}

/// The members of a frame that matter here. A frame has one of them, or another.
#[derive(Debug, Deserialize)]
struct Frame {
    message: Option<Message>,
    gap: Option<Gap>,
    heartbeat: Option<Heartbeat>,
}

/// The position after everything that there was.
#[derive(Debug, Deserialize)]
struct Heartbeat {
    next: String,
}

pub(super) async fn open(to: Subscription) -> io::Result<Client> {
    let socket = timeout(to.patience, connect(to.server, &to.traffic)).await??;
    // The upgrade is a request too.
    to.traffic.request();
    let url = format!("ws://{}{}", to.server, to.path(""));
    let upgraded = timeout(to.patience, client_async(url, socket)).await?;
    let (stream, _) = upgraded.map_err(io::Error::other)?;
    Ok(try_unfold(WebSocket { stream, to }, WebSocket::next).boxed())
}

impl WebSocket {
    /// `None` if the connection has ended.
    async fn next(mut self) -> io::Result<Option<(News, Self)>> {
        while let Some(message) = timeout(self.to.patience, self.stream.next()).await? {
            let tungstenite::Message::Text(text) = message.map_err(io::Error::other)? else {
                continue;
            };
            if let Some(news) = news(serde_json::from_str(&text)?) {
                self.acknowledge(&news).await?;
                return Ok(Some((news, self)));
            }
        }
        Ok(None)
    }

    async fn acknowledge(&mut self, news: &News) -> io::Result<()> {
        if let [Heard::Message(message)] = &news.heard[..]
            && self.to.acknowledges
        {
            let received = json!({ "received": { "id": message.id } }).to_string();
            let sent = self.stream.send(received.into()).await;
            sent.map_err(io::Error::other)?;
        }
        Ok(())
    }
}

fn news(frame: Frame) -> Option<News> {
    let (heard, after) = match (frame.message, frame.gap, frame.heartbeat) {
        (Some(message), ..) => (vec![Heard::Message(message.clone())], message.id),
        (_, Some(gap), _) => (vec![Heard::Gap(gap.clone())], gap.resumed),
        (.., Some(heartbeat)) => (Vec::new(), heartbeat.next),
        _ => return None,
    };
    Some(News { heard, after })
}
