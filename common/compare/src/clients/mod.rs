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
use serde::Deserialize;
use serde_json::{Value, json};

use self::{
    http::Connection, long_polling::LongPolling, short_polling::ShortPolling, sse::Sse,
    webhooks::Webhooks, websockets::Websocket,
};
use crate::{Technique, traffic::Traffic};

/// Each server has a feed of its own, so one topic is enough.
const TOPIC: &str = "compare";

/// What a client needs to know.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) server: SocketAddr,
    /// Between two polls, where there are any.
    pub(crate) interval: Duration,
    /// Counts what the client receives with.
    pub(crate) traffic: Arc<Traffic>,
}

impl Subscription {
    async fn dial(
        self,
        reroute: impl AsyncFnOnce(SocketAddr) -> SocketAddr,
    ) -> io::Result<Connection> {
        Connection::open(reroute(self.server).await, self.traffic).await
    }
}

/// A client of one of the five.
#[derive(Debug)]
pub(crate) enum Client {
    LongPolling(LongPolling),
    ShortPolling(ShortPolling),
    Sse(Sse),
    Webhooks(Webhooks),
    Websocket(Websocket),
}

impl Client {
    /// Subscribes to all messages from the first on, so that none can be lost before the client is
    /// there. For `reroute` see [`measure`](crate::measure()).
    pub(crate) async fn subscribe(
        technique: Technique,
        to: Subscription,
        reroute: impl AsyncFnOnce(SocketAddr) -> SocketAddr,
    ) -> io::Result<Self> {
        let interval = to.interval;
        Ok(match technique {
            Technique::ShortPolling => {
                Self::ShortPolling(ShortPolling::new(to.dial(reroute).await?, interval))
            }
            Technique::LongPolling => Self::LongPolling(LongPolling::new(to.dial(reroute).await?)),
            Technique::Webhooks => Self::Webhooks(Webhooks::register(to, reroute).await?),
            Technique::Websockets => {
                Self::Websocket(Websocket::open(to.dial(reroute).await?).await?)
            }
            Technique::Sse => Self::Sse(Sse::open(to.dial(reroute).await?).await?),
        })
    }

    /// What came next, at least one message.
    pub(crate) async fn next(&mut self) -> io::Result<Vec<Message>> {
        match self {
            Self::LongPolling(client) => client.next().await,
            Self::ShortPolling(client) => client.next().await,
            Self::Sse(client) => client.next().await,
            Self::Webhooks(client) => client.next().await,
            Self::Websocket(client) => client.next().await,
        }
    }

    /// Takes leave. All that was on the wire has been counted then.
    pub(crate) async fn close(self) -> io::Result<()> {
        match self {
            // Nothing is under way between two polls, and a stream has no goodbye but to be dropped.
            Self::LongPolling(_) | Self::ShortPolling(_) | Self::Sse(_) => Ok(()),
            Self::Webhooks(client) => client.close().await,
            Self::Websocket(client) => client.close().await,
        }
    }
}

/// The part of a message that matters here.
#[derive(Debug, Deserialize)]
pub(crate) struct Message {
    data: Numbered,
}

#[derive(Debug, Deserialize)]
struct Numbered {
    seq: usize,
}

impl Message {
    /// The number that it was published with.
    pub(crate) fn seq(&self) -> usize {
        self.data.seq
    }
}

/// The answer to a poll.
#[derive(Debug, Deserialize)]
struct Page {
    messages: Vec<Message>,
    next: String,
    more: bool,
    gap: Option<Value>,
}

impl Page {
    fn parse(json: &[u8]) -> io::Result<Self> {
        let page: Self = serde_json::from_slice(json)?;
        no_gap(page.gap.as_ref())?;
        Ok(page)
    }
}

/// A client of this run is never so slow that messages are trimmed.
fn no_gap(gap: Option<&Value>) -> io::Result<()> {
    gap.map_or(Ok(()), |gap| Err(io::Error::other(format!("a gap: {gap}"))))
}

/// Publishes over one connection, which is not counted.
#[derive(Debug)]
pub(crate) struct Publisher(Connection);

impl Publisher {
    pub(crate) async fn connect(server: SocketAddr) -> io::Result<Self> {
        Connection::open(server, Arc::default()).await.map(Self)
    }

    pub(crate) async fn publish(&mut self, seq: usize) -> io::Result<()> {
        let body = json!({ "seq": seq, "status": "success" }).to_string();
        let request = Request::post(format!("/topics/{TOPIC}"));
        let request = request.header(CONTENT_TYPE, "application/json");
        let (head, body) = self.0.exchange(request, body).await?;
        expect(StatusCode::CREATED, head.status, &body)
    }
}

fn expect(expected: StatusCode, came: StatusCode, body: &Bytes) -> io::Result<()> {
    if came == expected {
        return Ok(());
    }
    let body = String::from_utf8_lossy(body);
    Err(io::Error::other(format!("answered {came}: {body}")))
}
