//! A small client for each technique: a stream of what arrives, with the position to resume from.

mod http;
mod polling;
mod sse;
mod webhooks;
mod websockets;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::http::Connection;
pub use self::webhooks::Receiver;
use crate::{Technique, traffic::Traffic};

/// Longer than a long poll waits (25 s), and than a stream is silent between two heartbeats (20 s).
const PATIENCE: Duration = Duration::from_secs(40);

/// What a client needs to know.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// Where to ask, or to register.
    pub server: SocketAddr,
    /// Topics, joined by commas.
    pub topics: String,
    /// Where to begin: a cursor, or `earliest`. A webhook endpoint always begins at the feed's head.
    pub after: String,
    /// The time between two polls of short polling.
    pub interval: Duration,
    /// What the sender of webhooks calls; `None` starts a new one.
    pub receiver: Option<Arc<Receiver>>,
    /// After this much silence a receiver of webhooks asks the sender about its endpoint. It cannot see otherwise
    /// that a call is missing.
    pub check: Duration,
    /// Whether a WebSocket client says `received` for each message. The other techniques have no such message.
    pub acknowledges: bool,
    /// How long the server may be silent when it owes an answer or a heartbeat. Then the client fails, 40 s by
    /// default.
    pub patience: Duration,
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
            check: Duration::MAX,
            acknowledges: false,
            patience: PATIENCE,
            traffic: Arc::default(),
        }
    }

    /// Puts a proxy in front of what is called: the server, or the receiver of webhooks. `proxy` takes the
    /// address of that and returns its own.
    ///
    /// # Errors
    /// If a receiver of webhooks cannot listen, and what `proxy` says.
    pub async fn through(
        mut self,
        technique: Technique,
        proxy: impl AsyncFnOnce(SocketAddr) -> io::Result<SocketAddr>,
    ) -> io::Result<Self> {
        if technique == Technique::Webhooks {
            let mut receiver = Receiver::listen(self.traffic.clone()).await?;
            receiver.addr = proxy(receiver.addr).await?;
            self.receiver = Some(Arc::new(receiver));
        } else {
            self.server = proxy(self.server).await?;
        }
        Ok(self)
    }

    fn path(&self, more: &str) -> String {
        format!("/topics/{}?after={}{more}", self.topics, self.after)
    }

    async fn connect(&self) -> io::Result<Connection> {
        Connection::open(self.server, &self.traffic, self.patience).await
    }
}

/// A client of one of the five techniques. It fails or ends when its connection breaks. Then another
/// one may start after [`News::after`].
pub type Client = BoxStream<'static, io::Result<News>>;

/// What came in one step.
#[derive(Debug, Clone, PartialEq)]
pub struct News {
    /// Empty if only the position is news.
    pub heard: Vec<Heard>,
    /// The position to resume from.
    pub after: String,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// Subscribes. The polling clients only connect here; they ask when their stream is polled.
///
/// # Errors
/// If the server is not there, or refuses.
pub async fn subscribe(technique: Technique, to: Subscription) -> io::Result<Client> {
    match technique {
        Technique::ShortPolling => polling::short(to).await,
        Technique::LongPolling => polling::long(to).await,
        Technique::Webhooks => webhooks::register(to).await,
        Technique::Websockets => websockets::open(to).await,
        Technique::Sse => sse::open(to).await,
    }
}

/// Publishes over one connection. Its bytes are not counted, because only the arrival of news is measured.
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

    /// Publishes, and returns the message's id. A connection that failed is replaced at the next call.
    ///
    /// # Errors
    /// If the server is not there, or refuses.
    pub async fn publish(&mut self, topic: &str, data: &Value) -> io::Result<String> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.server, &Arc::default(), PATIENCE).await?,
        };
        let path = format!("/topics/{topic}");
        let published: Published = connection.post(&path, data).await?;
        self.connection = Some(connection);
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
