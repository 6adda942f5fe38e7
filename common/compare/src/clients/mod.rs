//! A small client for each technique. All have the same two verbs: `next` gives what came since
//! the last time, and `close` takes leave, where that takes more than to be dropped.

mod http;
mod long_polling;
mod short_polling;
mod sse;
mod webhooks;
mod websockets;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{Request, StatusCode, header::CONTENT_TYPE};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::webhooks::Receiver;
use self::{
    http::{Connection, Exchanges},
    long_polling::LongPolling,
    short_polling::ShortPolling,
    sse::Sse,
    webhooks::Webhooks,
    websockets::Websocket,
};
use crate::{Technique, traffic::Traffic};

/// What a client needs to know.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// Where to ask, or to register.
    pub server: SocketAddr,
    /// Topics, joined by commas.
    pub topics: String,
    /// Where to begin: a cursor, or `earliest`. An endpoint always begins at the feed's head.
    pub after: String,
    /// Between two polls, where there are any.
    pub interval: Duration,
    /// Whether polls, and a receiver's answers, keep their connection.
    pub keep_alive: bool,
    /// Who is called, where somebody is; `None` begins to listen.
    pub receiver: Option<Arc<Receiver>>,
    /// Counts what the client receives with.
    pub traffic: Arc<Traffic>,
}

impl Subscription {
    /// All messages of `topics` from the first on.
    pub fn new(server: SocketAddr, topics: impl Into<String>) -> Self {
        Self {
            server,
            topics: topics.into(),
            after: "earliest".to_owned(),
            interval: Duration::from_secs(1),
            keep_alive: true,
            receiver: None,
            traffic: Arc::default(),
        }
    }

    fn path(&self, more: &str) -> String {
        format!("/topics/{}?after={}{more}", self.topics, self.after)
    }

    fn exchanges(&self) -> Exchanges {
        Exchanges::new(self.server, self.traffic.clone(), self.keep_alive)
    }
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// Something was published.
    Message(Message),
    /// Something was published that it does not get.
    Gap(Gap),
}

/// A message, as on every wire.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Message {
    /// Its cursor.
    pub id: String,
    /// Where it was published.
    pub topic: String,
    /// What was published.
    pub data: Value,
}

/// A gap, as on every wire: of `topics`, the messages in (`requested`, `resumed`] are not given.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Gap {
    /// `trimmed`, `foreign`, `ahead`.
    pub reason: String,
    /// The topics that lost something.
    pub topics: Vec<String>,
    /// The position that was asked for.
    pub requested: String,
    /// Delivery goes on after this position.
    pub resumed: String,
}

/// A client of one of the five.
#[derive(Debug)]
pub enum Client {
    /// See [`Technique::LongPolling`].
    LongPolling(LongPolling),
    /// See [`Technique::ShortPolling`].
    ShortPolling(ShortPolling),
    /// See [`Technique::Sse`].
    Sse(Sse),
    /// See [`Technique::Webhooks`].
    Webhooks(Webhooks),
    /// See [`Technique::Websockets`].
    Websocket(Websocket),
}

impl Client {
    /// Subscribes. Polls connect, and ask only when they are asked for what is next.
    ///
    /// # Errors
    /// If the server is not there, or refuses.
    pub async fn subscribe(technique: Technique, to: Subscription) -> io::Result<Self> {
        Ok(match technique {
            Technique::ShortPolling => Self::ShortPolling(ShortPolling::open(to).await?),
            Technique::LongPolling => Self::LongPolling(LongPolling::open(to).await?),
            Technique::Webhooks => Self::Webhooks(Webhooks::register(to).await?),
            Technique::Websockets => Self::Websocket(Websocket::open(to).await?),
            Technique::Sse => Self::Sse(Sse::open(to).await?),
        })
    }

    /// What came next, at least one thing. A client whose `next` failed, or was dropped before it
    /// had come back, is done for, and another one goes on from its [`Client::after`]; only that of
    /// webhooks stands being dropped.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn next(&mut self) -> io::Result<Vec<Heard>> {
        match self {
            Self::LongPolling(client) => client.next().await,
            Self::ShortPolling(client) => client.next().await,
            Self::Sse(client) => client.next().await,
            Self::Webhooks(client) => client.next().await,
            Self::Websocket(client) => client.next().await,
        }
    }

    /// The position from which to go on.
    pub fn after(&self) -> &str {
        match self {
            Self::LongPolling(client) => client.after(),
            Self::ShortPolling(client) => client.after(),
            Self::Sse(client) => client.after(),
            Self::Webhooks(client) => client.after(),
            Self::Websocket(client) => client.after(),
        }
    }

    /// What can be heard only by asking: whoever is called does not notice that nobody calls.
    ///
    /// # Errors
    /// If the sender is not there, or does not know the endpoint.
    pub async fn check(&mut self) -> io::Result<Vec<Heard>> {
        match self {
            Self::Webhooks(client) => client.check().await,
            _ => Ok(Vec::new()),
        }
    }

    /// After how long the server wants to be asked again, if it has said so.
    pub fn retry(&self) -> Option<Duration> {
        match self {
            Self::Sse(client) => client.retry(),
            _ => None,
        }
    }

    /// Takes leave. All that was on the wire has been counted then.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn close(self) -> io::Result<()> {
        match self {
            // Nothing is under way between two polls, and a stream has no goodbye but to be dropped.
            Self::LongPolling(_) | Self::ShortPolling(_) | Self::Sse(_) => Ok(()),
            Self::Webhooks(client) => client.close().await,
            Self::Websocket(client) => client.close().await,
        }
    }
}

/// The answer to a poll.
#[derive(Debug, Deserialize)]
struct Page {
    messages: Vec<Message>,
    next: String,
    more: bool,
    gap: Option<Gap>,
}

impl Page {
    /// What it says, and moves the position past it.
    fn turn(self, after: &mut String) -> Vec<Heard> {
        *after = self.next;
        let gap = self.gap.into_iter().map(Heard::Gap);
        gap.chain(self.messages.into_iter().map(Heard::Message))
            .collect()
    }
}

/// Publishes over one connection, which is not counted.
#[derive(Debug)]
pub struct Publisher(Exchanges);

#[derive(Debug, Deserialize)]
struct Published {
    id: String,
}

impl Publisher {
    /// To this server.
    pub fn new(server: SocketAddr) -> Self {
        Self(Exchanges::new(server, Arc::default(), true))
    }

    /// Publishes, and gives the message's id.
    ///
    /// # Errors
    /// If the server is not there, or refuses.
    pub async fn publish(&mut self, topic: &str, data: &Value) -> io::Result<String> {
        let request = Request::post(format!("/topics/{topic}"));
        let request = request.header(CONTENT_TYPE, "application/json");
        let (head, body) = self.0.exchange(request, data.to_string()).await?;
        expect(StatusCode::CREATED, head.status, &body)?;
        let published: Published = serde_json::from_slice(&body)?;
        Ok(published.id)
    }
}

fn expect(expected: StatusCode, came: StatusCode, body: &Bytes) -> io::Result<()> {
    if came == expected {
        return Ok(());
    }
    let body = String::from_utf8_lossy(body);
    Err(io::Error::other(format!("answered {came}: {body}")))
}
