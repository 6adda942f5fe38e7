//! A small client for each technique. All have the same two verbs: `next` returns what came since
//! the last call, and `after` is where another client can resume.

mod http;
mod polling;
mod sse;
mod webhooks;
mod websockets;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{Request, StatusCode, header::CONTENT_TYPE};
use serde::Deserialize;
use serde_json::Value;

pub use self::webhooks::Receiver;
use self::{
    http::Connection, polling::Polling, sse::Sse, webhooks::Webhooks, websockets::Websocket,
};
use crate::{Technique, traffic::Traffic};

/// What a client needs to know.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// Where to ask, or to register.
    pub server: SocketAddr,
    /// Topics, joined by commas.
    pub topics: String,
    /// Where to begin: a cursor, or `earliest`. A webhook endpoint always begins at the feed's head.
    pub after: String,
    /// Between two polls of short polling.
    pub interval: Duration,
    /// What the sender of webhooks calls; `None` starts a new one.
    pub receiver: Option<Arc<Receiver>>,
    /// Counts what the client sends and receives.
    pub traffic: Arc<Traffic>,
}

impl Subscription {
    /// All messages of `topics`, from the earliest.
    pub fn new(server: SocketAddr, topics: impl Into<String>) -> Self {
        Self {
            server,
            topics: topics.into(),
            after: "earliest".to_owned(),
            interval: Duration::from_secs(1),
            receiver: None,
            traffic: Arc::default(),
        }
    }

    fn path(&self, more: &str) -> String {
        format!("/topics/{}?after={}{more}", self.topics, self.after)
    }

    async fn connect(&self) -> io::Result<Connection> {
        Connection::open(self.server, self.traffic.clone()).await
    }
}

/// What a client receives.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// A published message.
    Message(Message),
    /// The range of messages that the client cannot get.
    Gap(Gap),
}

/// A message, as on every wire.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Message {
    /// Its cursor.
    pub id: String,
    /// Where it was published.
    pub topic: String,
    /// What was published.
    pub data: Value,
}

/// A gap, as on every wire: of `topics`, the messages in (`requested`, `resumed`] are missing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Gap {
    /// `trimmed`, `foreign` or `ahead`.
    pub reason: String,
    /// The topics that lost messages.
    pub topics: Vec<String>,
    /// The position that the client asked for.
    pub requested: String,
    /// Delivery continues after this position.
    pub resumed: String,
}

/// A client of one of the five techniques.
#[derive(Debug)]
pub enum Client {
    /// See [`Technique::ShortPolling`] and [`Technique::LongPolling`].
    Polling(Polling),
    /// See [`Technique::Sse`].
    Sse(Sse),
    /// See [`Technique::Webhooks`].
    Webhooks(Webhooks),
    /// See [`Technique::Websockets`]. Boxed, because its state is much larger than that of the others.
    Websocket(Box<Websocket>),
}

impl Client {
    /// Subscribes. The polling clients only connect here; they ask in [`Client::next`].
    ///
    /// # Errors
    /// If the server is not there, or refuses.
    pub async fn subscribe(technique: Technique, to: Subscription) -> io::Result<Self> {
        Ok(match technique {
            Technique::ShortPolling => Self::Polling(Polling::short(to).await?),
            Technique::LongPolling => Self::Polling(Polling::long(to).await?),
            Technique::Webhooks => Self::Webhooks(Webhooks::register(to).await?),
            Technique::Websockets => Self::Websocket(Websocket::open(to).await?.into()),
            Technique::Sse => Self::Sse(Sse::open(to).await?),
        })
    }

    /// Waits for what comes next, and returns at least one thing. Do not use a client again whose
    /// `next` failed or was dropped early: start another after [`Client::after`]. Only the client of
    /// webhooks allows a dropped `next`.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn next(&mut self) -> io::Result<Vec<Heard>> {
        match self {
            Self::Polling(client) => client.next().await,
            Self::Sse(client) => client.next().await,
            Self::Webhooks(client) => client.next().await,
            Self::Websocket(client) => client.next().await,
        }
    }

    /// The position to resume from.
    pub fn after(&self) -> &str {
        match self {
            Self::Polling(client) => client.after(),
            Self::Sse(client) => client.after(),
            Self::Webhooks(client) => client.after(),
            Self::Websocket(client) => client.after(),
        }
    }

    /// Asks the sender of webhooks for gaps: a receiver cannot see that a call is missing.
    ///
    /// # Errors
    /// If the sender is not there, or does not know the endpoint.
    pub async fn check(&mut self) -> io::Result<Vec<Heard>> {
        match self {
            Self::Webhooks(client) => client.check().await,
            _ => Ok(Vec::new()),
        }
    }
}

/// The answer to a poll, the same for short and long polling.
#[derive(Debug, Deserialize)]
struct Page {
    messages: Vec<Message>,
    next: String,
    more: bool,
    gap: Option<Gap>,
}

impl Page {
    /// Returns its content and moves the position behind it.
    fn turn(self, after: &mut String) -> Vec<Heard> {
        *after = self.next;
        let gap = self.gap.into_iter().map(Heard::Gap);
        gap.chain(self.messages.into_iter().map(Heard::Message))
            .collect()
    }
}

/// Publishes over one connection. It is not counted: what is measured is how news arrives.
#[derive(Debug)]
pub struct Publisher {
    server: SocketAddr,
    connection: Option<Connection>,
}

#[derive(Debug, Deserialize)]
struct Published {
    id: String,
}

impl Publisher {
    /// Publishes to this server; the first message opens the connection.
    pub fn new(server: SocketAddr) -> Self {
        Self {
            server,
            connection: None,
        }
    }

    /// Publishes, and returns the message's id. A connection that failed is not used again.
    ///
    /// # Errors
    /// If the server is not there, or refuses.
    pub async fn publish(&mut self, topic: &str, data: &Value) -> io::Result<String> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.server, Arc::default()).await?,
        };
        let request =
            Request::post(format!("/topics/{topic}")).header(CONTENT_TYPE, "application/json");
        let (head, body) = connection.exchange(request, data.to_string()).await?;
        expect(StatusCode::CREATED, head.status, &body)?;
        self.connection = Some(connection);
        let published: Published = serde_json::from_slice(&body)?;
        Ok(published.id)
    }
}

/// The body of a refusal says why, so it is a part of the error.
fn expect(expected: StatusCode, came: StatusCode, body: &Bytes) -> io::Result<()> {
    if came == expected {
        return Ok(());
    }
    let body = String::from_utf8_lossy(body);
    Err(io::Error::other(format!(
        "the server answered {came}: {body}"
    )))
}
