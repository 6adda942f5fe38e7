//! Upgrades, and reads frames.

use std::io;

use futures_util::{SinkExt, StreamExt, stream::try_unfold};
use serde::Deserialize;
use serde_json::json;
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite};

use super::{Client, Gap, Heard, Message, News, Subscription, http::connect};
use crate::traffic::Counted;

/// The members of a frame that matter here. A frame has one of them, or another.
#[derive(Debug, Deserialize)]
struct Frame {
    message: Option<Message>,
    gap: Option<Gap>,
}

pub(super) async fn open(to: Subscription) -> io::Result<Client> {
    let socket = connect(to.server, &to.traffic).await?;
    // The upgrade is a request too.
    to.traffic.request();
    let url = format!("ws://{}{}", to.server, to.path(""));
    let (stream, _) = client_async(url, socket).await.map_err(io::Error::other)?;
    Ok(try_unfold((stream, to.acknowledges), next).boxed())
}

/// The connection, and whether the client says that it has a message.
type Socket = (WebSocketStream<Counted>, bool);

/// `None` if the connection has ended.
async fn next((mut stream, acknowledges): Socket) -> io::Result<Option<(News, Socket)>> {
    while let Some(message) = stream.next().await {
        let tungstenite::Message::Text(text) = message.map_err(io::Error::other)? else {
            continue;
        };
        let Some(news) = news(serde_json::from_str(&text)?) else {
            continue;
        };
        if acknowledges && let [Heard::Message(message)] = &news.heard[..] {
            let received = json!({ "received": { "id": message.id } }).to_string();
            let sent = stream.send(received.into()).await;
            sent.map_err(io::Error::other)?;
        }
        return Ok(Some((news, (stream, acknowledges))));
    }
    Ok(None)
}

fn news(frame: Frame) -> Option<News> {
    let message = frame.message.map(|message| News {
        after: message.id.clone(),
        heard: vec![Heard::Message(message)],
    });
    message.or_else(|| {
        frame.gap.map(|gap| News {
            after: gap.resumed.clone(),
            heard: vec![Heard::Gap(gap)],
        })
    })
}
